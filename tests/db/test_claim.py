"""A claim takes what a doorbell rightly announces, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models.functions import Now

from jobs import events, lifecycle
from jobs.models import Job, OutboxEntry
from jobs.states import JobState
from jobs.values import Doorbell
from tests.conftest import JobFactory, UserFactory
from tests.verbs import (
    HANDLER,
    WORKER,
    Facts,
    claim,
    entry,
    history,
    lost_answer,
    statements,
    submit,
)

pytestmark = pytest.mark.django_db


def test_an_attempt_has_all_that_a_worker_needs(user_factory: UserFactory) -> None:
    user = user_factory()
    [job] = submit(payload={"value": [1]}, owner_id=user.pk, max_attempts=7)
    [attempt] = claim([job])
    job.refresh_from_db()
    assert (attempt.job_id, attempt.version, attempt.attempt) == (job.id, 2, 1)
    assert (attempt.failed_attempts, attempt.max_attempts) == (0, 7)
    assert (attempt.handler, attempt.queue, attempt.owner_id) == (HANDLER, "default", user.pk)
    assert attempt.payload == {"value": [1]}
    assert attempt.token == job.lease_token
    assert job.state == JobState.RUNNING
    assert job.worker == WORKER
    assert job.started_at is not None


def test_a_claim_is_audited_and_rings_nobody() -> None:
    [job] = submit()
    [attempt] = claim([job])
    found = entry(job.id)
    assert (found.version, found.from_state, found.to_state) == (2, "PENDING", "RUNNING")
    assert (found.event, found.actor_kind, found.actor_id) == ("claim", "worker", WORKER)
    assert (found.attempt, found.token, found.reason) == (1, attempt.token, "")
    assert OutboxEntry.objects.filter(job_id=job.id).count() == 1


def test_the_lease_is_on_the_databases_clock(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(lease_seconds=120)
    [job] = submit()
    claim([job])
    with connection.cursor() as cursor:
        cursor.execute("SELECT lease_until - started_at FROM jobs_job WHERE id = %s", [str(job.id)])
        [[lease]] = cursor.fetchall()
    assert abs(lease - timedelta(seconds=120)) < timedelta(seconds=1)


def test_every_claim_has_a_token_of_its_own() -> None:
    attempts = claim(submit(50))
    assert len({attempt.token for attempt in attempts}) == 50


def test_claims_come_in_the_order_of_the_doorbells() -> None:
    """The relay has put the most urgent first."""
    jobs = submit(5)
    jobs = [jobs[3], jobs[0], jobs[4], jobs[1], jobs[2]]
    assert [a.job_id for a in claim(jobs)] == [job.id for job in jobs]


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_not_claimed(version: int) -> None:
    [job] = submit()
    bell = Doorbell(job.id, version)
    assert lifecycle.claim([bell], worker=WORKER, handlers=[HANDLER]) == []
    assert history(job.id) == ["submit"]


@pytest.mark.parametrize(
    "state", [JobState.RUNNING, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]
)
def test_only_a_waiting_job_is_claimed(job_factory: JobFactory, state: JobState) -> None:
    [job] = job_factory(state)
    before = history(job.id)
    assert claim([job]) == []
    assert history(job.id) == before


def test_a_job_whose_time_has_not_come_is_not_claimed() -> None:
    [job] = submit(delay_seconds=60)
    assert claim([job]) == []
    Job.objects.filter(id=job.id).update(due_at=Now())
    assert len(claim([job])) == 1


def test_a_handler_that_this_worker_lacks_is_left_to_others() -> None:
    [job] = submit()
    bell = Doorbell(job.id, 1)
    assert lifecycle.claim([bell], worker=WORKER, handlers=["other"]) == []
    assert lifecycle.claim([bell], worker=WORKER, handlers=[]) == []
    assert len(lifecycle.claim([bell], worker=WORKER, handlers=["other", HANDLER])) == 1


def test_a_doorbell_for_nobody_is_ignored() -> None:
    [job] = submit()
    bells = [Doorbell(uuid4(), 1), Doorbell(job.id, 1), Doorbell(job.id, 1)]
    attempts = lifecycle.claim(bells, worker=WORKER, handlers=[HANDLER])
    assert [attempt.job_id for attempt in attempts] == [job.id]


def test_a_mixed_message_yields_what_is_right(job_factory: JobFactory) -> None:
    [done] = job_factory(JobState.COMPLETED)
    [stale, later, good] = [*submit(1), *submit(1, delay_seconds=60), *submit(1)]
    stale.version = 9
    assert [a.job_id for a in claim([done, stale, later, good])] == [good.id]


@pytest.mark.parametrize("count", [1, 100])
def test_the_number_of_statements_does_not_grow(count: int) -> None:
    jobs = submit(count)
    with statements() as found:
        assert len(claim(jobs)) == count
    assert len(found) == 1, found


def test_a_doorbell_that_leads_to_nothing_costs_one_statement(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.COMPLETED)
    with statements() as found:
        claim([job])
    assert len(found) == 1


@pytest.mark.django_db(transaction=True)
def test_a_claim_is_told_after_its_commit(facts: Facts) -> None:
    jobs = submit(3)
    claim(jobs)
    [told] = facts.of(events.Transitioned)
    assert told.event == "claim"
    assert {(v.state, v.version, v.attempt) for v in told.views} == {(JobState.RUNNING, 2, 1)}


@pytest.mark.django_db(transaction=True)
def test_a_claim_whose_answer_was_lost_is_recognised() -> None:
    jobs = submit(3)
    with lost_answer():
        attempts = claim(jobs)
    assert [attempt.job_id for attempt in attempts] == [job.id for job in jobs]
    rows = Job.objects.in_bulk([job.id for job in jobs])
    assert all(a.token == rows[a.job_id].lease_token for a in attempts)
    assert {(a.version, a.attempt) for a in attempts} == {(2, 1)}
    assert {tuple(history(job.id)) for job in jobs} == {("submit", "claim")}


@pytest.mark.django_db(transaction=True)
def test_a_job_that_becomes_due_between_the_tries_hides_no_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [first, late] = [*submit(1), *submit(1, delay_seconds=60)]
    close = connection.close

    def close_and_wait() -> None:
        close()
        Job.objects.filter(id=late.id).update(due_at=Now())

    monkeypatch.setattr(connection, "close", close_and_wait)
    with lost_answer():
        attempts = claim([first, late])
    assert {attempt.job_id for attempt in attempts} == {first.id, late.id}
