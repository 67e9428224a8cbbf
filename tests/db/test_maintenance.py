"""Duties that keep promises over time: forget in order, and say who is alive."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db.models.functions import Now

from jobs import lifecycle, presence
from jobs.maintenance import pruner
from jobs.models import Job, OutboxEntry, Worker
from jobs.states import JobEvent, JobState
from tests.conftest import JobFactory
from tests.verbs import USER, claim, finish, singly, submit

pytestmark = pytest.mark.django_db


def published(*, age_seconds: float, rearms: int = 0) -> None:
    """All outbox rows were published so long ago, and their jobs have been due for a day."""
    Job.objects.exclude(state=JobState.COMPLETED).update(due_at=Now() - timedelta(days=1))
    OutboxEntry.objects.update(
        published_at=Now() - timedelta(seconds=age_seconds), rearms=rearms, due_at=Now()
    )


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
    jobs = singly(2)
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
    jobs = singly(3)
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
