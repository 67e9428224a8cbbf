"""A lapsed lease is ended: rescued, cancelled or failed, and the dead holder is fenced."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobs import lifecycle
from jobs.maintenance import rescuer
from jobs.models import Job, OutboxEntry
from jobs.presence import name_of_this_process
from jobs.states import JobEvent, JobState
from jobs.values import Settled
from tests.conftest import JobFactory
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
    assert len(found) == 3
