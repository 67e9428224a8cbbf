"""The outbox is complete and honest: one row for each entry into PENDING, in its transaction."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection
from django.db.models import F

from jobs import lifecycle
from jobs.models import AuditEntry, Job, OutboxEntry
from jobs.states import JobEvent, JobState
from tests.conftest import JobFactory
from tests.verbs import USER, claim, finish, lapse, rolled_back, submit

pytestmark = pytest.mark.django_db


def unmatched() -> int:
    """Entries into PENDING without a row, and rows without such an entry."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM jobs_outboxentry o FULL JOIN"
            " (SELECT job_id, version FROM jobs_auditentry WHERE to_state = 'PENDING') a"
            " ON a.job_id = o.job_id AND a.version = o.job_version"
            " WHERE a.job_id IS NULL OR o.job_id IS NULL"
        )
        [count] = cursor.fetchone()
    return int(count)


@pytest.mark.parametrize("count", [1, 20])
def test_every_way_into_pending_rings_once(count: int) -> None:
    jobs = submit(count)
    ids = [job.id for job in jobs]
    finish(claim(Job.objects.all()), JobEvent.RETRY)
    finish(claim(Job.objects.all()), JobEvent.RELEASE)
    claim(Job.objects.all())
    lapse(jobs)
    lifecycle.rescue(limit=count, actor_id="r")
    finish(claim(Job.objects.all()), JobEvent.FAIL)
    lifecycle.reopen(ids, actor=USER)
    lifecycle.cancel(ids, actor=USER)
    Job.objects.update(state=JobState.PENDING, version=F("version") + 1, finished_at=None)
    assert unmatched() == 0
    versions = OutboxEntry.objects.filter(job_id=ids[0]).values_list("job_version", flat=True)
    assert sorted(versions) == [1, 3, 5, 7, 10, 12]
    assert OutboxEntry.objects.count() == 6 * count


@pytest.mark.parametrize(
    "state", [JobState.RUNNING, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]
)
def test_nothing_else_rings(job_factory: JobFactory, state: JobState) -> None:
    [job] = job_factory(state)
    assert OutboxEntry.objects.filter(job_id=job.id).count() == 1
    assert AuditEntry.objects.filter(job_id=job.id).count() == job.version


def test_a_rolled_back_transition_rings_nobody() -> None:
    [attempt] = claim(submit())
    with rolled_back():
        finish([attempt], JobEvent.RETRY)
    assert OutboxEntry.objects.count() == 1
    assert unmatched() == 0


def test_one_row_for_one_version_at_most() -> None:
    [job] = submit()
    with pytest.raises(IntegrityError, match="jobs_outbox_once"):
        OutboxEntry.objects.create(
            job_id=job.id, job_version=1, handler="h", queue="q", priority=0, due_at=job.due_at
        )


def test_a_mixed_statement_rings_only_for_what_waits(job_factory: JobFactory) -> None:
    failed, waiting = job_factory(JobState.FAILED, 3), job_factory(count=3)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE jobs_job SET version = version + 1,"
            " state = CASE state WHEN 'FAILED' THEN 'PENDING' ELSE 'CANCELLED' END,"
            " finished_at = CASE state WHEN 'FAILED' THEN NULL ELSE now() END"
        )
    assert unmatched() == 0
    rung = OutboxEntry.objects.filter(job_version__gt=1).values_list("job_id", flat=True)
    assert set(rung) == {job.id for job in failed}
    assert Job.objects.filter(id__in=[job.id for job in waiting]).values_list(
        "state", flat=True
    ).distinct().get() == "CANCELLED"  # fmt: skip
