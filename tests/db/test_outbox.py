"""The outbox is complete and honest: one row for each entry into PENDING, in its transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, connection
from django.db.models import F
from django.utils import timezone

from jobs import lifecycle, relay
from jobs.models import AuditEntry, Job, OutboxEntry
from jobs.models.job import new_job_id
from jobs.states import JobEvent, JobState
from jobs.values import Submission
from tests.conftest import JobFactory
from tests.verbs import HANDLER, USER, claim, doorbells, finish, lapse, rolled_back, submit

pytestmark = pytest.mark.django_db


def unmatched() -> int:
    """Entries into PENDING without a row, and rows without such an entry."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM (SELECT unnest(job_id || coalesce(others, '{}')) AS job_id,"
            " job_version FROM jobs_outboxentry) o FULL JOIN"
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
    rung = doorbells()
    assert sorted(bell.version for bell in rung if bell.job_id == ids[0]) == [1, 3, 5, 7, 10, 12]
    assert len(rung) == 6 * count


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


# ------------------------------------------------------------------------------------- shared rows


def shared() -> list[list[UUID]]:
    """The jobs that each row rings for."""
    return [row.job_ids for row in OutboxEntry.objects.order_by("job_id")]


def unshare(*jobs: Job) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT jobs_unshare_v1(%s::uuid[])", [[str(job.id) for job in jobs]])


def rows_of(job_id: UUID, version: int = 1) -> list[int]:
    """The ids of the rows that the database says ring for this job."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM jobs_doorbell_v1(%s, %s)", [str(job_id), version])
        return [row_id for (row_id,) in cursor.fetchall()]


def test_jobs_that_are_accepted_together_share_rows_of_a_hundred() -> None:
    ids = [job.id for job in submit(50)]
    assert shared() == [ids]
    later = [job.id for job in submit(250)]
    assert shared()[1:] == [later[:100], later[100:200], later[200:]]
    [first, *_] = OutboxEntry.objects.order_by("job_id")
    assert first.txid == AuditEntry.objects.get(job_id=ids[7], version=1).txid


def test_a_job_that_comes_alone_has_its_row_alone() -> None:
    [job] = submit()
    [row] = OutboxEntry.objects.all()
    assert (row.job_id, row.others, row.txid) == (job.id, None, None)


def test_only_jobs_that_are_rung_for_alike_share(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(queues=("default", "other"))
    kinds: list[dict[str, Any]] = [
        {}, {"priority": 9}, {"queue": "other"}, {"handler": "noop"},
        {"due_at": datetime(2040, 1, 1, tzinfo=UTC)}, {"due_at": datetime(2040, 1, 2, tzinfo=UTC)},
    ]  # fmt: skip
    wishes = [Submission(**{"handler": HANDLER, **kind}) for kind in kinds for _ in range(2)]
    lifecycle.submit(wishes)
    rows = {row.job_id: row for row in OutboxEntry.objects.all()}
    assert len(rows) == len(kinds)
    for row in rows.values():
        jobs = Job.objects.filter(id__in=row.job_ids)
        assert len(jobs) == 2
        for job in jobs:
            assert (job.handler, job.queue, job.priority) == (row.handler, row.queue, row.priority)
            assert job.due_at <= row.due_at <= max(job.due_at, timezone.now())


def test_no_job_is_rung_for_before_its_time() -> None:
    """Those that are due already may share with one another, and with nobody who is not."""
    past, future = datetime(2020, 1, 1, tzinfo=UTC), timezone.now() + timedelta(hours=1)
    wishes = [Submission(HANDLER, due_at=due) for due in (past, None, future, past, future)]
    ids = [one.job_id for one in lifecycle.submit(wishes)]
    due, later = shared()
    assert (set(due), set(later)) == ({ids[0], ids[1], ids[3]}, {ids[2], ids[4]})
    assert {row.bell.job_id for row in relay.take(1)} == set(due)
    assert relay.take(1) == []


def test_every_job_finds_its_row() -> None:
    jobs = submit(250)
    by_job = {
        job_id: row.id for row in OutboxEntry.objects.all() for job_id in row.job_ids
    }  # fmt: skip
    assert {job.id: rows_of(job.id) for job in jobs} == {
        job.id: [by_job[job.id]] for job in jobs
    }  # fmt: skip
    assert rows_of(jobs[7].id, version=2) == []
    assert rows_of(new_job_id()) == []


def test_a_row_is_found_among_others_of_its_transaction_whatever_their_ids() -> None:
    """Ids come in order from the verbs only. By hand they come in any."""
    ids = sorted(uuid4() for _ in range(9))
    together = (ids[0::3], ids[1::3], ids[-1::-3])
    for some in together:
        insert(some)
    for some in together:
        row = OutboxEntry.objects.get(job_id=some[0])
        assert row.others == some[1:]
        assert all(rows_of(job_id) == [row.id] for job_id in some)


def test_jobs_get_rows_of_their_own_and_nothing_else_changes() -> None:
    jobs = submit(5)
    relay.take(10)
    [before] = OutboxEntry.objects.values()
    unshare(jobs[0], jobs[3])
    assert shared() == [[jobs[0].id], [jobs[1].id, jobs[2].id, jobs[4].id], [jobs[3].id]]
    for row in OutboxEntry.objects.values():
        assert row | dict.fromkeys(("id", "job_id", "others")) == before | dict.fromkeys(
            ("id", "job_id", "others")
        )
    assert OutboxEntry.objects.get(others__isnull=False).id == before["id"]
    unshare(*jobs)
    assert shared() == [[job.id] for job in jobs]
    unshare(*jobs)
    assert shared() == [[job.id] for job in jobs]
    assert unmatched() == 0


def test_a_job_that_has_a_row_already_keeps_it() -> None:
    """Written by a process that knew nothing of shared rows."""
    first, second, third = submit(3)
    row = OutboxEntry.objects.create(
        job_id=second.id, job_version=1, handler="h", queue="q", priority=0, due_at=second.due_at
    )
    unshare(first)
    assert shared() == [[first.id], [second.id], [third.id]]
    assert OutboxEntry.objects.get(job_id=second.id).id == row.id


def insert(ids: list[UUID]) -> None:
    """Jobs by hand, in one statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO jobs_job (id, handler, queue, priority, tenant, payload, state, version,"
            " attempt, failed_attempts, lost_attempts, max_attempts, worker, progress,"
            " progress_message, progress_seq, event, actor_kind, actor_id, reason, signed_version)"
            " SELECT unnest(%s::uuid[]), 'h', 'default', 0, '', '{}', 'PENDING', 1, 0, 0, 0, 3, '',"
            " 0, '', 0, 'submit', 'system', '', '', 0",
            [[str(job_id) for job_id in ids]],
        )
