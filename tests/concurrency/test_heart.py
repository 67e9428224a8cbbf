"""The heartbeat: what it shows, what it keeps, and what its holder hears from it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import OperationalError, connection, transaction

from jobs import events, heart, lifecycle, testing
from jobs.context import Context
from jobs.executor import Executor
from jobs.models import Job, JobLogLine
from jobs.states import JobEvent, JobState
from jobs.values import Beat, Pulse
from tests.concurrency.attempts import Declare, run, run_one, when_entered
from tests.rivals import until
from tests.verbs import Facts, claim, history, lapse, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


def test_progress_and_lines_are_seen_while_the_handler_runs(declare: Declare) -> None:
    gate = testing.gate("g")

    def shows(*, context: Context) -> None:
        context.log("reading")
        context.progress(0.25, "a quarter")
        gate.entered.set()
        gate.opened.wait(60)

    [job] = submit(handler=declare(shows))

    def look() -> None:
        until(lambda: Job.objects.get(id=job.id).progress == 0.25)
        until(lambda: JobLogLine.objects.filter(job_id=job.id).exists())
        assert Job.objects.get(id=job.id).progress_message == "a quarter"
        gate.opened.set()

    rival = when_entered(gate, look)
    run(job)
    rival.answer()
    assert JobLogLine.objects.count() == 1


def test_a_lease_is_kept_far_beyond_its_length(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(lease_seconds=2, heartbeat_seconds=0.05)
    [job] = submit(payload={"action": "ignore", "gate_name": "g"})
    gate = testing.gate("g")

    def lapsed_twice_over() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT lease_until > started_at + interval '4 s' FROM jobs_job")
            return bool(cursor.fetchone()[0])

    def look() -> None:
        until(lapsed_twice_over)
        assert lifecycle.rescue(limit=1, actor_id="r") == []
        gate.opened.set()

    rival = when_entered(gate, look)
    [settled] = run(job)
    rival.answer()
    assert not settled.fenced


def test_a_neighbour_that_waits_its_turn_keeps_its_lease() -> None:
    first, second = [
        *submit(payload={"action": "wait", "gate_name": "g"}),
        *submit(payload={"value": 2}),
    ]
    gate = testing.gate("g")

    def look() -> None:
        before = Job.objects.get(id=second.id).lease_until
        until(lambda: Job.objects.get(id=second.id).lease_until != before)
        gate.opened.set()

    rival = when_entered(gate, look)
    settled = run(first, second)
    rival.answer()
    assert [one.event for one in settled] == [JobEvent.SUCCEED] * 2


def test_a_beat_that_fails_loses_no_line(
    declare: Declare, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beat = lifecycle.heartbeat
    failed: list[int] = []

    def flaky(beats: list[Beat]) -> list[Pulse]:
        if any(one.lines for one in beats) and not failed:
            failed.append(1)
            raise OperationalError("no connection")
        return beat(beats)

    monkeypatch.setattr(lifecycle, "heartbeat", flaky)

    def logs(*, context: Context) -> None:
        context.log("kept")
        context.progress(0.5)
        until(JobLogLine.objects.exists)

    job = run_one(handler=declare(logs))
    assert job.state == JobState.COMPLETED
    assert job.progress_seq == 1
    assert list(JobLogLine.objects.values_list("message", flat=True)) == ["kept"]
    assert "heartbeat failed" in caplog.text


@pytest.mark.parametrize("action", ["wait", "ignore"])
def test_a_holder_that_lost_its_lease_is_fenced(action: str, facts: Facts) -> None:
    """Rescued and claimed by somebody else, while the first one still runs."""
    [job] = submit(payload={"action": action, "gate_name": "g", "value": "late"})
    taken = []

    def take_over() -> None:
        lapse([job])
        lifecycle.rescue(limit=1, actor_id="r")
        taken.extend(claim([Job.objects.get(id=job.id)], "worker:2"))

    # The lapse and the rescue must not be undone by a beat in between.
    def take_over_at_once() -> None:
        with transaction.atomic():
            Job.objects.select_for_update().get(id=job.id)
            take_over()

    rival = when_entered(testing.gate("g"), take_over_at_once)
    [settled] = run(job)
    rival.answer()
    assert settled.fenced
    after = Job.objects.get()
    assert (after.state, after.worker, after.result) == (JobState.RUNNING, "worker:2", None)
    assert after.lease_token == taken[0].token
    assert history(job.id) == ["submit", "claim", "rescue", "claim"]
    [fact] = facts.of(events.Fenced)
    assert fact.worker == "worker:1"


def test_an_idle_heart_holds_no_connection() -> None:
    executor = Executor("worker:1")
    name = "interlock-heart-test"
    seen = []

    def sessions() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return int(cursor.fetchone()[0])

    until(lambda: sessions() == 0)
    [job] = submit(payload={"action": "wait", "gate_name": name})
    gate = testing.gate(name)

    def look() -> None:
        until(lambda: sessions() == 2)  # the handler's and the heart's
        seen.append(1)
        gate.opened.set()

    rival = when_entered(gate, look)
    run(job, executor=executor)
    rival.answer()
    assert seen == [1]
    until(lambda: sessions() == 0)


def test_a_forked_child_has_a_heart_of_its_own() -> None:
    executor = Executor("worker:1")
    run(*submit(), executor=executor)
    first = executor._heart
    assert isinstance(first, heart.Heart)
    first.pid += 1
    run(*submit(), executor=executor)
    assert executor._heart is not first
