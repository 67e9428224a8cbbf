"""Duties that keep promises over time: ring again, and forget in order."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db.models import F
from django.db.models.functions import Now

from jobs import lifecycle, presence, relay
from jobs.maintenance import pruner, reconciler
from jobs.models import Job, OutboxEntry, Worker
from jobs.policy import rearm_delay_seconds
from jobs.states import JobEvent
from tests.conftest import JobFactory
from tests.verbs import USER, claim, finish, statements, submit

pytestmark = pytest.mark.django_db


def published(*, age_seconds: float, rearms: int = 0) -> None:
    """All outbox rows were published so long ago, and their jobs have been due for a day."""
    Job.objects.update(due_at=Now() - timedelta(days=1))
    OutboxEntry.objects.update(
        published_at=Now() - timedelta(seconds=age_seconds), rearms=rearms, due_at=Now()
    )


# ------------------------------------------------------------------------------------- reconciler


def test_an_unanswered_doorbell_is_armed_again_as_the_same_row() -> None:
    [job] = submit()
    published(age_seconds=61)
    assert reconciler.run_once() == 1
    row = OutboxEntry.objects.get(job_id=job.id)
    assert (row.published_at, row.taken_until, row.rearms) == (None, None, 1)
    assert [taken.bell.job_id for taken in relay.take(10)] == [job.id]


@pytest.mark.parametrize("rearms", range(6))
def test_each_ring_waits_longer_as_the_policy_says(rearms: int) -> None:
    submit()
    wait = rearm_delay_seconds(60, rearms, 900)
    published(age_seconds=wait - 5, rearms=rearms)
    assert reconciler.run_once() == 0
    published(age_seconds=wait + 5, rearms=rearms)
    assert reconciler.run_once() == 1


def test_a_row_that_waits_for_the_relay_is_left_alone() -> None:
    submit()
    Job.objects.update(due_at=Now() - timedelta(days=1))
    assert reconciler.run_once() == 0
    relay.take(10)
    assert reconciler.run_once() == 0


def test_a_job_that_is_not_due_is_left_alone() -> None:
    [job] = submit()
    published(age_seconds=10_000)
    Job.objects.filter(id=job.id).update(due_at=Now() + timedelta(hours=1))
    assert reconciler.run_once() == 0


def test_a_job_that_moved_on_is_left_alone() -> None:
    running, done, cancelled = submit(3)
    claim([running])
    finish(claim([done]), JobEvent.SUCCEED)
    lifecycle.cancel([cancelled.id], actor=USER)
    published(age_seconds=10_000)
    assert reconciler.run_once() == 0


def test_only_the_present_version_is_rung() -> None:
    [attempt] = claim(submit())
    finish([attempt], JobEvent.RETRY)
    published(age_seconds=10_000)
    assert reconciler.run_once() == 1
    assert OutboxEntry.objects.get(published_at=None).job_version == 3


def test_a_row_that_is_missing_is_written_anew() -> None:
    [job] = submit(priority=3)
    published(age_seconds=0)
    OutboxEntry.objects.all().delete()
    assert reconciler.run_once() == 1
    row = OutboxEntry.objects.get()
    assert (row.job_id, row.job_version, row.priority, row.rearms) == (job.id, 1, 3, 0)


def test_one_tick_is_bounded_and_the_oldest_come_first(
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(rearm_batch_size=2)
    jobs = submit(5)
    published(age_seconds=1000)
    Job.objects.filter(id=jobs[4].id).update(due_at=F("due_at") - timedelta(days=1))
    assert reconciler.run_once() == 2
    assert OutboxEntry.objects.get(job_id=jobs[4].id).published_at is None
    assert reconciler.run_once() + reconciler.run_once() == 3
    assert reconciler.run_once() == 0


@pytest.mark.parametrize("count", [1, 100])
def test_a_tick_is_one_statement(count: int) -> None:
    submit(count)
    published(age_seconds=1000)
    with statements() as found:
        assert reconciler.run_once() == count
    assert len(found) == 1


# ----------------------------------------------------------------------------------------- pruner


def test_published_rows_of_jobs_that_moved_on_are_forgotten(
    job_factory: JobFactory, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(outbox_retention_seconds=100)
    [attempt] = claim(submit())
    finish([attempt], JobEvent.RETRY)
    published(age_seconds=101)
    assert pruner.run_once() == 1
    assert OutboxEntry.objects.get().job_version == 3
    lifecycle.cancel([attempt.job_id], actor=USER)
    assert pruner.run_once() == 1
    assert not OutboxEntry.objects.exists()


def test_young_or_unpublished_rows_are_kept(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(outbox_retention_seconds=100)
    jobs = submit(2)
    lifecycle.cancel([job.id for job in jobs], actor=USER)
    published(age_seconds=50)
    assert pruner.run_once() == 0
    OutboxEntry.objects.filter(job_id=jobs[0].id).update(published_at=None)
    OutboxEntry.objects.filter(job_id=jobs[1].id).update(
        published_at=Now() - timedelta(seconds=200)
    )
    assert pruner.run_once() == 1
    assert OutboxEntry.objects.get().job_id == jobs[0].id


def test_one_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruner, "BATCH", 2)
    jobs = submit(3)
    lifecycle.cancel([job.id for job in jobs], actor=USER)
    published(age_seconds=10**6)
    assert [pruner.run_once() for _ in range(3)] == [2, 1, 0]


def test_workers_that_are_long_gone_are_forgotten(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(outbox_retention_seconds=100)
    presence.announce("worker", ["default"])
    Worker.objects.create(name="old", hostname="h", pid=1, seen_at=Now() - timedelta(seconds=200))
    pruner.run_once()
    assert Worker.objects.get().name == presence.name_of_this_process()


# --------------------------------------------------------------------------------------- presence


def test_presence_is_announced_renewed_and_withdrawn() -> None:
    presence.announce("worker", ["default"])
    first = Worker.objects.get()
    assert (first.kind, first.queues, first.stopped_at) == ("worker", ["default"], None)
    presence.withdraw()
    assert Worker.objects.get().stopped_at is not None
    presence.announce("relay")
    again = Worker.objects.get()
    assert (again.kind, again.queues, again.stopped_at) == ("relay", [], None)
    assert again.started_at == first.started_at
