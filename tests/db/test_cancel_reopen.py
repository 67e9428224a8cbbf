"""What people do to jobs: cancel what waits, ask what runs, open again what ended."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest
from django.db import transaction

from jobs import lifecycle
from jobs.errors import IllegalTransition
from jobs.models import Job, OutboxEntry
from jobs.states import ActorKind, JobEvent, JobState
from jobs.values import Actor, Changed
from tests.conftest import JobFactory
from tests.verbs import USER, claim, entry, finish, history, lapse, statements, submit

pytestmark = pytest.mark.django_db

Verb = Callable[..., list[Changed]]


def test_a_waiting_job_is_cancelled_at_once() -> None:
    [job] = submit()
    answer = lifecycle.cancel([job.id], actor=USER, reason="wrong file")
    assert answer == [Changed(job.id, JobState.CANCELLED, 2, JobEvent.CANCEL)]
    job.refresh_from_db()
    assert (job.state, job.version) == (JobState.CANCELLED, 2)
    assert job.finished_at is not None
    found = entry(job.id)
    assert (found.from_state, found.to_state, found.event) == ("PENDING", "CANCELLED", "cancel")
    assert (found.actor_kind, found.actor_id, found.reason) == ("user", "7", "wrong file")
    assert (found.attempt, found.token) == (0, None)
    assert claim([job]) == []


def test_the_holder_of_a_running_job_is_asked(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.RUNNING)
    answer = lifecycle.cancel([job.id], actor=USER, reason="too slow")
    assert answer == [Changed(job.id, JobState.RUNNING, 3, JobEvent.REQUEST_CANCEL)]
    after = Job.objects.get(id=job.id)
    assert after.cancel_requested_at is not None
    assert (after.lease_token, after.lease_until) == (job.lease_token, job.lease_until)
    assert (after.attempt, after.worker, after.started_at) == (1, job.worker, job.started_at)
    found = entry(job.id)
    assert (found.event, found.reason, found.token) == (
        "request_cancel",
        "too slow",
        job.lease_token,
    )


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.RUNNING])
def test_a_second_cancel_changes_nothing(job_factory: JobFactory, state: JobState) -> None:
    [job] = job_factory(state)
    [first] = lifecycle.cancel([job.id], actor=USER)
    [second] = lifecycle.cancel([job.id], actor=USER)
    assert first.event is not None
    assert second == Changed(job.id, first.state, first.version, None)


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED])
def test_what_has_ended_otherwise_cannot_be_cancelled(
    job_factory: JobFactory, state: JobState
) -> None:
    waiting, ended = job_factory(count=2), job_factory(state)
    ids = [job.id for job in [*waiting, *ended]]
    with pytest.raises(IllegalTransition, match=f"{ended[0].id} is {state}"):
        lifecycle.cancel(ids, actor=USER)
    assert Job.objects.filter(state=JobState.PENDING).count() == 2


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_an_ended_job_is_opened_with_a_fresh_budget(
    job_factory: JobFactory, state: JobState
) -> None:
    [job] = job_factory(state)
    [answer] = lifecycle.reopen([job.id], actor=USER, reason="disk is back")
    after = Job.objects.get(id=job.id)
    assert answer == Changed(job.id, JobState.PENDING, job.version + 1, JobEvent.REOPEN)
    assert (after.state, after.version) == (JobState.PENDING, job.version + 1)
    assert (after.failed_attempts, after.lost_attempts) == (0, 0)
    assert after.attempt == job.attempt
    assert after.finished_at is after.started_at is after.cancel_requested_at is None
    assert OutboxEntry.objects.filter(job_id=job.id, job_version=after.version).count() == 1
    found = entry(job.id)
    assert (found.event, found.reason, found.actor_id) == ("reopen", "disk is back", "7")
    assert len(claim([after])) == 1


def test_budgets_are_really_given_back() -> None:
    [job] = submit(max_attempts=1)
    for _ in range(2):
        [attempt] = claim(Job.objects.all())
        assert attempt.failed_attempts == 0
        finish([attempt], JobEvent.FAIL, reason="no")
        assert Job.objects.get().failed_attempts == 1
        lifecycle.reopen([job.id], actor=USER)
    claim(Job.objects.all())
    lapse(Job.objects.all())
    lifecycle.rescue(limit=1, actor_id="r")
    assert Job.objects.get().lost_attempts == 1
    lifecycle.cancel([job.id], actor=USER)
    lifecycle.reopen([job.id], actor=USER)
    assert Job.objects.get().lost_attempts == 0


def test_a_cancel_request_does_not_outlive_its_run(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.RUNNING)
    lifecycle.cancel([job.id], actor=USER)
    lapse([job])
    lifecycle.rescue(limit=1, actor_id="r")
    lifecycle.reopen([job.id], actor=USER)
    [attempt] = claim(Job.objects.all())
    finish([attempt], JobEvent.RETRY)
    assert history(job.id)[-3:] == ["reopen", "claim", "retry"]


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.RUNNING])
def test_an_active_job_stays_as_it_is(job_factory: JobFactory, state: JobState) -> None:
    [job] = job_factory(state)
    assert lifecycle.reopen([job.id], actor=USER) == [Changed(job.id, state, job.version, None)]


def test_completed_is_never_opened_again(job_factory: JobFactory) -> None:
    [failed], [done] = job_factory(JobState.FAILED), job_factory(JobState.COMPLETED)
    with pytest.raises(IllegalTransition, match="is COMPLETED and cannot be retried"):
        lifecycle.reopen([failed.id, done.id], actor=USER)
    assert Job.objects.get(id=failed.id).state == JobState.FAILED


def test_a_reopened_job_gives_way_to_another_with_its_unique_key(job_factory: JobFactory) -> None:
    """Two active jobs with one unique key cannot be; the second is refused as a whole."""
    [old] = job_factory(JobState.FAILED, unique_key="u")
    submit(unique_key="u")
    with pytest.raises(IllegalTransition, match="unique key"), transaction.atomic():
        lifecycle.reopen([old.id], actor=USER)
    assert Job.objects.get(id=old.id).state == JobState.FAILED


@pytest.mark.parametrize("verb", [lifecycle.cancel, lifecycle.reopen])
def test_unknown_ids_are_left_out(verb: Verb) -> None:
    [job] = submit()
    assert [one.job_id for one in verb([uuid4(), job.id, job.id], actor=USER)] == [job.id]
    assert verb([], actor=USER) == []


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize(
    ("verb", "state"),
    [
        (lifecycle.cancel, JobState.PENDING),
        (lifecycle.cancel, JobState.RUNNING),
        (lifecycle.reopen, JobState.FAILED),
    ],
)
def test_the_number_of_statements_does_not_grow(
    job_factory: JobFactory, verb: Verb, state: JobState, count: int
) -> None:
    ids = [job.id for job in job_factory(state, count)]
    with statements() as found:
        assert len(verb(ids, actor=USER)) == count
    assert len(found) == 2


def test_mixed_states_take_one_write_for_each_event(job_factory: JobFactory) -> None:
    jobs = [
        *job_factory(count=3),
        *job_factory(JobState.RUNNING, 3),
        *job_factory(JobState.CANCELLED),
    ]
    with statements() as found:
        answers = lifecycle.cancel([job.id for job in jobs], actor=USER)
    assert len(found) == 3
    assert [one.event for one in answers].count(None) == 1


@pytest.mark.parametrize("verb", [lifecycle.cancel, lifecycle.reopen])
@pytest.mark.parametrize("kind", [ActorKind.WORKER, ActorKind.RESCUER, ActorKind.DATABASE])
def test_only_people_and_the_system_may(
    job_factory: JobFactory, verb: Verb, kind: ActorKind
) -> None:
    [job] = job_factory(JobState.PENDING if verb is lifecycle.cancel else JobState.FAILED)
    with pytest.raises(Exception, match="no edge"), transaction.atomic():
        verb([job.id], actor=Actor(kind, "x"))


@pytest.mark.parametrize("verb", [lifecycle.cancel, lifecycle.reopen])
def test_reasons_are_made_fit_for_the_database(job_factory: JobFactory, verb: Verb) -> None:
    [job] = job_factory(JobState.PENDING if verb is lifecycle.cancel else JobState.FAILED)
    verb([job.id], actor=USER, reason="a\x00b\udfff" + "x" * 3000)
    assert entry(job.id).reason.startswith("ab?x")
    assert len(entry(job.id).reason) == 2000
