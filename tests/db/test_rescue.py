"""A lapsed lease is ended: rescued, cancelled or failed, and the dead holder is fenced."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from django.db import OperationalError, transaction

from jobs import lifecycle
from jobs.maintenance import rescuer
from jobs.maintenance.rescuer import Rescuer
from jobs.models import Job, OutboxEntry
from jobs.presence import name_of_this_process
from jobs.querysets import JobQuerySet
from jobs.states import JobEvent, JobState
from jobs.values import Beat, Settled
from tests.conftest import JobFactory
from tests.rivals import Rival, race
from tests.verbs import USER, WORKER, claim, entry, history, lapse, statements, submit

pytestmark = pytest.mark.django_db


def rescue(limit: int = 100) -> list[Settled]:
    return lifecycle.rescue(limit=limit, actor_id="rescuer:1")


def test_a_lost_job_goes_back_and_is_due_at_once(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.RUNNING)
    lapse([job])
    assert rescue() == [Settled(job.id, JobEvent.RESCUE, fenced=False)]
    after = Job.objects.get(id=job.id)
    assert (after.state, after.version) == (JobState.PENDING, 3)
    assert (after.attempt, after.failed_attempts, after.lost_attempts) == (1, 0, 1)
    assert after.lease_token is after.lease_until is None
    assert OutboxEntry.objects.filter(job_id=job.id, job_version=3).count() == 1
    found = entry(job.id)
    assert (found.from_state, found.to_state, found.event) == ("RUNNING", "PENDING", "rescue")
    assert (found.actor_kind, found.actor_id) == ("rescuer", "rescuer:1")
    assert found.reason == f"lease lapsed: worker {WORKER} died or stalled"
    assert (found.attempt, found.token) == (1, job.lease_token)
    assert len(claim([after])) == 1


@pytest.mark.parametrize("state", list(JobState))
def test_a_living_lease_and_every_other_state_are_left_alone(
    job_factory: JobFactory, state: JobState
) -> None:
    [job] = job_factory(state)
    before = history(job.id)
    assert rescue() == []
    assert history(job.id) == before


def test_a_request_to_cancel_is_honoured(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.RUNNING)
    lifecycle.cancel([job.id], actor=USER)
    lapse([job])
    assert [one.event for one in rescue()] == [JobEvent.CANCEL]
    found = entry(job.id)
    assert (found.to_state, found.actor_kind) == ("CANCELLED", "rescuer")
    assert "died before it could confirm" in found.reason


def test_a_job_that_kills_its_workers_is_failed_in_the_end(
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(max_lost_attempts=3)
    [job] = submit()
    for _ in range(3):
        claim(Job.objects.all())
        lapse(Job.objects.all())
        rescue()
    assert history(job.id)[-1] == "fail"
    after = Job.objects.get()
    assert (after.state, after.attempt) == (JobState.FAILED, 3)
    assert (after.lost_attempts, after.failed_attempts) == (3, 0)
    assert after.reason.startswith("lost 3 times")
    assert entry(job.id).actor_kind == "rescuer"


def test_a_call_ends_no_more_than_its_limit(job_factory: JobFactory) -> None:
    jobs = job_factory(JobState.RUNNING, 5)
    lapse(jobs)
    assert [one.job_id for one in rescue(limit=2)] == [job.id for job in jobs[:2]]
    assert len(rescue()) == 3


def test_a_round_ends_all_of_them_in_batches(
    job_factory: JobFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescuer, "BATCH", 2)
    jobs = job_factory(JobState.RUNNING, 5)
    lapse(jobs)
    assert rescuer.run_once() == 5
    assert entry(jobs[4].id).actor_id == name_of_this_process()
    assert rescuer.run_once() == 0


@pytest.mark.parametrize("count", [1, 100])
def test_the_number_of_statements_does_not_grow(job_factory: JobFactory, count: int) -> None:
    lapse(job_factory(JobState.RUNNING, count))
    with statements() as found:
        assert len(rescue(200)) == count
    assert len(found) == 2


# ------------------------------------------------------------------------------- others meanwhile


@pytest.mark.django_db(transaction=True)
def test_locked_rows_do_not_count_towards_the_limit(job_factory: JobFactory) -> None:
    """Somebody who sits on the oldest rows keeps nobody behind them waiting."""
    jobs = job_factory(JobState.RUNNING, 4)
    lapse(jobs)
    with transaction.atomic():
        list(Job.objects.locked([job.id for job in jobs[:2]]))
        assert Rival(lambda: {one.job_id for one in rescue(limit=2)}).answer() == {
            job.id for job in jobs[2:]
        }
    assert {one.job_id for one in rescue(limit=2)} == {job.id for job in jobs[:2]}


@pytest.mark.django_db(transaction=True)
def test_a_lease_that_is_renewed_under_the_rescuers_eyes_is_left_out(
    job_factory: JobFactory,
) -> None:
    """The heartbeat has the row when the rescuer comes, and the others are ended all the same."""
    renewed, lost = job_factory(JobState.RUNNING, 2)
    lapse([renewed, lost])
    assert renewed.lease_token is not None
    with transaction.atomic():
        lifecycle.heartbeat([Beat(renewed.id, renewed.lease_token)])
        assert [one.job_id for one in Rival(rescue).answer()] == [lost.id]
    assert rescue() == []
    assert history(renewed.id) == ["submit", "claim"]


@pytest.mark.django_db(transaction=True)
def test_rescuers_at_once_end_each_attempt_once(job_factory: JobFactory) -> None:
    jobs = job_factory(JobState.RUNNING, 40)
    lapse(jobs)
    ended = race(*[lambda: rescue(limit=7)] * 4, *[lambda: rescue(limit=100)] * 2)
    ended.append(rescue())
    assert sorted(one.job_id for some in ended for one in some) == sorted(job.id for job in jobs)
    assert {tuple(history(job.id)) for job in jobs} == {("submit", "claim", "rescue")}


def test_a_round_is_bounded(job_factory: JobFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescuer, "BATCH", 2)
    monkeypatch.setattr(rescuer, "MOST_BATCHES", 2)
    lapse(job_factory(JobState.RUNNING, 5))
    assert [rescuer.run_once() for _ in range(3)] == [4, 1, 0]


# --------------------------------------------------------------------------------- after an outage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rescuer's monotonic clock, as the only item."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_after_a_gap_the_living_may_beat_before_their_jobs_are_taken(
    job_factory: JobFactory, clock: list[float]
) -> None:
    """Every lease lapses in an outage of the database, and nobody is charged for that."""
    waiting = Rescuer()
    alive, dead = job_factory(JobState.RUNNING, 2)
    assert waiting.run_once() == 0
    clock[0] += 3.1
    assert waiting.run_once() == 0
    clock[0] += 600
    lapse([alive, dead])
    assert waiting.run_once() == 0
    assert alive.lease_token is not None
    clock[0] += 1
    lifecycle.heartbeat([Beat(alive.id, alive.lease_token)])
    assert waiting.run_once() == 0
    clock[0] += 2.1
    assert waiting.run_once() == 1
    assert [history(job.id)[-1] for job in (alive, dead)] == ["claim", "rescue"]


def test_without_a_gap_a_lapsed_lease_ends_at_once(
    job_factory: JobFactory, clock: list[float]
) -> None:
    steady = Rescuer()
    for _ in range(5):
        steady.run_once()
        clock[0] += 1
    lapse(job_factory(JobState.RUNNING))
    assert steady.run_once() == 1


def test_a_scheduler_that_is_always_slow_still_rescues(
    job_factory: JobFactory, clock: list[float]
) -> None:
    slow = Rescuer()
    lapse(job_factory(JobState.RUNNING))
    ended = 0
    for _ in range(3):
        ended += slow.run_once()
        clock[0] += 100
    assert ended == 1


def test_a_freeze_in_the_very_statement_is_a_gap(
    job_factory: JobFactory, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked before the freeze and answered after it: by then everybody has lapsed."""
    steady = Rescuer()
    for _ in range(5):
        steady.run_once()
        clock[0] += 1
    lapse(job_factory(JobState.RUNNING))
    look = JobQuerySet.lapsed

    def frozen(self: JobQuerySet) -> JobQuerySet:
        clock[0] += 600
        return look(self)

    with monkeypatch.context() as patch:
        patch.setattr(JobQuerySet, "lapsed", frozen)
        assert steady.run_once() == 0
    assert steady.run_once() == 0
    clock[0] += 3.1
    assert steady.run_once() == 1


def test_an_outage_that_has_not_ended_is_no_wait(
    job_factory: JobFactory, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grace begins when the database answers, not when it is asked."""
    rescuing = Rescuer()
    lapse(job_factory(JobState.RUNNING))

    def away(self: object) -> bool:
        raise OperationalError("away")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(JobQuerySet, "exists", away)
            with pytest.raises(OperationalError):
                rescuing.run_once()
        clock[0] += 600
        assert rescuing.run_once() == 0
        clock[0] += 1
    clock[0] += 2.1
    assert rescuing.run_once() == 1
