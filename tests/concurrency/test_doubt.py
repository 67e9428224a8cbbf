"""A redelivered doorbell of a running job: a dead holder is found out soon, a living one stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction

from jobs import lifecycle, tasks, testing
from jobs.doorbells import encode
from jobs.executor import Executor
from jobs.models import Job
from jobs.states import JobEvent, JobState
from jobs.values import Doorbell, Settled
from tests.concurrency.attempts import run
from tests.rivals import Rival, until
from tests.verbs import USER, claim, finish, history, lapse, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


def left(job: Job) -> timedelta:
    """The rest of the job's lease, by the database's clock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT lease_until - clock_timestamp() FROM jobs_job WHERE id = %s", [str(job.id)]
        )
        [[rest]] = cursor.fetchall()
    assert isinstance(rest, timedelta)
    return rest


def test_a_dead_holder_keeps_its_job_no_longer_than_doubt_seconds() -> None:
    [job] = submit()
    claim([job])
    assert left(job) > timedelta(seconds=10)
    assert run(job, redelivered=True) == []
    assert left(job) <= timedelta(seconds=5)
    assert history(job.id) == ["submit", "claim"], "no transition"
    assert Job.objects.get().version == 2


def test_a_lease_that_ends_sooner_is_never_made_longer() -> None:
    [job] = submit()
    claim([job])
    lapse([job])
    before = Job.objects.get().lease_until
    run(job, redelivered=True)
    assert Job.objects.get().lease_until == before
    [settled] = lifecycle.rescue(limit=1, actor_id="r")
    assert settled.event is JobEvent.RESCUE


def test_doubting_again_and_again_does_not_keep_a_dead_holder(
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(heartbeat_seconds=0.05, doubt_seconds=0.2)
    [job] = submit()
    claim([job])

    def rescued() -> list[Settled]:
        run(job, redelivered=True)
        return lifecycle.rescue(limit=1, actor_id="r")

    until(rescued)
    assert history(job.id) == ["submit", "claim", "rescue"]


def test_a_living_holder_renews_and_notices_nothing(jobs_settings: Callable[..., None]) -> None:
    """It has lost no more than a connection: its doorbell came back, and it works on."""
    jobs_settings(heartbeat_seconds=0.05, doubt_seconds=5)
    [job] = submit(payload={"action": "wait", "gate_name": "g"})
    gate = testing.gate("g")
    holder = Rival(lambda: run(job, executor=Executor("worker:1")))
    assert gate.entered.wait(60)
    for _ in range(20):
        assert run(job, executor=Executor("worker:2"), redelivered=True) == []
        until(lambda: left(job) > timedelta(seconds=20))
        assert lifecycle.rescue(limit=1, actor_id="r") == []
    gate.opened.set()
    assert [one.event for one in holder.answer()] == [JobEvent.SUCCEED]
    assert history(job.id) == ["submit", "claim", "succeed"]


def test_a_holder_that_was_asked_to_cancel_is_doubted_too() -> None:
    [job] = submit()
    claim([job])
    lifecycle.cancel([job.id], actor=USER)
    run(job, redelivered=True)
    assert left(job) <= timedelta(seconds=5)


def test_what_still_waits_is_claimed_like_any_other() -> None:
    running, waiting = submit(2)
    claim([running])
    settled = run(running, waiting, redelivered=True)
    assert [one.job_id for one in settled] == [waiting.id]
    assert left(running) <= timedelta(seconds=5)


def test_a_doorbell_that_was_not_redelivered_doubts_nobody() -> None:
    [job] = submit()
    claim([job])
    assert run(job) == []
    assert left(job) > timedelta(seconds=10)


def test_an_earlier_runs_doorbell_doubts_nobody() -> None:
    [job] = submit()
    finish(claim([job]), JobEvent.RELEASE)
    job.refresh_from_db()
    claim([job])
    bells = [Doorbell(job.id, 1), Doorbell(uuid4(), 1)]
    assert lifecycle.doubt(bells) == 0
    assert left(job) > timedelta(seconds=10)


def test_jobs_that_do_not_run_are_left_alone() -> None:
    done, waiting = submit(2)
    finish(claim([done]), JobEvent.SUCCEED)
    assert lifecycle.doubt([Doorbell(done.id, 1), Doorbell(waiting.id, 0)]) == 0
    states = dict(Job.objects.values_list("id", "state"))
    assert states == {done.id: JobState.COMPLETED, waiting.id: JobState.PENDING}


def test_a_row_that_is_being_written_is_passed_by() -> None:
    """Whoever writes it is alive, or takes it over just now."""
    [job] = submit()
    claim([job])
    with transaction.atomic():
        Job.objects.select_for_update().get(id=job.id)
        rival = Rival(lambda: lifecycle.doubt([Doorbell(job.id, 1)]))
        assert rival.answer() == 0


@pytest.mark.parametrize(("delivery", "redelivered"), [({"redelivered": True}, True), ({}, False)])
@pytest.mark.parametrize("early", [True, False])
def test_the_task_hands_on_what_broker_and_message_say(
    delivery: dict[str, Any], redelivered: bool, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, bool]] = []
    monkeypatch.setattr(Executor, "answer", lambda self, bells, **named: said.append(named))
    tasks.ring.push_request(delivery_info=delivery)
    try:
        tasks.ring.run(encode([], early=early))
    finally:
        tasks.ring.pop_request()
    assert said == [{"redelivered": redelivered, "early": early}]
