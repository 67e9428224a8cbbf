"""Short ways to the real verbs, for tests that need a job in some state or an attempt in hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError, connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from jobs import events, lifecycle, status
from jobs.models import AuditEntry, Job, OutboxEntry
from jobs.querysets import read_views
from jobs.states import ActorKind, JobEvent, JobState
from jobs.values import Actor, Attempt, Doorbell, Outcome, Progress, StatusView, Submission

F = TypeVar("F")

_WRITES = re.compile(r"\b(?:INSERT INTO|UPDATE|DELETE FROM) +\"?jobs_|\bjobs_\w+_v\d+\(")

HANDLER = "testing.outcome"
WORKER = "worker:1"
USER = Actor(ActorKind.USER, "7")


class Facts:
    """The facts that were told, in order."""

    def __init__(self) -> None:
        self.all: list[events.Fact] = []

    def __call__(self, fact: events.Fact) -> None:
        self.all.append(fact)

    def of(self, kind: type[F]) -> list[F]:
        return [fact for fact in self.all if isinstance(fact, kind)]


def submit(count: int = 1, *, handler: str = HANDLER, **fields: Any) -> list[Job]:
    """Submit this many jobs and read them back, in the order of the submissions."""
    accepted = lifecycle.submit([Submission(handler, **fields) for _ in range(count)])
    rows = Job.objects.in_bulk([one.job_id for one in accepted])
    return [rows[one.job_id] for one in accepted]


def singly(count: int, **fields: Any) -> list[Job]:
    """Submit jobs each on its own, so that each has an outbox row of its own."""
    return [submit(**fields)[0] for _ in range(count)]


def doorbells() -> list[Doorbell]:
    """For whom and which version the outbox rows ring, in no order."""
    return [
        Doorbell(job_id, row.job_version)
        for row in OutboxEntry.objects.all()
        for job_id in row.job_ids
    ]


def watched(count: int = 1) -> list[Job]:
    """Submit jobs whose status somebody has asked another process for: Redis has the copies."""
    jobs = submit(count)
    ids = [job.id for job in jobs]
    status.reserve(ids, "somebody else")
    status.fill(read_views(ids, 4096), "somebody else")
    return jobs


def claim(jobs: Iterable[Job], worker: str = WORKER) -> list[Attempt]:
    """Claim waiting jobs by doorbells that announce their present versions."""
    waiting = list(jobs)
    bells = [Doorbell(job.id, job.version) for job in waiting]
    return lifecycle.claim(bells, worker=worker, handlers={job.handler for job in waiting})


def finish(attempts: Iterable[Attempt], event: JobEvent, **fields: Any) -> None:
    """Finish attempts one way; fails the test if any is fenced."""
    outcomes = [Outcome(attempt, event, **fields) for attempt in attempts]
    settled = lifecycle.finish(outcomes, worker=WORKER)
    assert not any(one.fenced for one in settled)


def a_view(state: JobState = JobState.PENDING, version: int = 1, seq: int = 0) -> StatusView:
    """A status view that no database made."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return StatusView(
        job_id=uuid4(),
        owner_id=None,
        handler="h",
        queue="default",
        state=state,
        version=version,
        progress_seq=seq,
        attempt=0,
        failed_attempts=0,
        lost_attempts=0,
        max_attempts=3,
        progress=Progress(),
        reason="",
        cancel_requested=False,
        submitted_at=moment,
        due_at=moment,
        started_at=None,
        finished_at=None,
        has_result=False,
    )


def lapse(jobs: Iterable[Job]) -> None:
    """Let the leases of these running jobs run out, as if their holders had died."""
    ids = [job.id for job in jobs]
    running = Job.objects.filter(id__in=ids, state=JobState.RUNNING)
    running.update(lease_until=Now() - timedelta(seconds=1))


@contextmanager
def statements() -> Iterator[list[str]]:
    """Collects the SQL of what runs inside, without that of transactions."""
    found: list[str] = []
    with CaptureQueriesContext(connection) as queries:
        yield found
    control = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE SAVEPOINT")
    found += [query["sql"] for query in queries if not query["sql"].startswith(control)]


class _Undo(Exception):
    pass


@contextmanager
def rolled_back() -> Iterator[None]:
    """A transaction that its owner gives up in the end."""
    with suppress(_Undo), transaction.atomic():
        yield
        raise _Undo


@contextmanager
def lost_answers(count: int, *, single: bool = True) -> Iterator[list[int]]:
    """As many commits inside succeed, and tell of a broken connection.

    A statement that writes outside a transaction is a commit by itself, and counts if ``single``.
    """
    commit, execute = BaseDatabaseWrapper.commit, CursorWrapper.execute
    lost: list[int] = []

    def lose() -> None:
        if len(lost) < count:
            lost.append(1)
            raise OperationalError("server closed the connection unexpectedly")

    def deaf_commit(self: BaseDatabaseWrapper) -> None:
        commit(self)
        lose()

    def deaf_execute(self: CursorWrapper, sql: Any, params: Any = None) -> Any:
        answer = execute(self, sql, params)
        if single and _WRITES.search(str(sql)) and not self.db.in_atomic_block:
            lose()
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseDatabaseWrapper, "commit", deaf_commit)
        patch.setattr(CursorWrapper, "execute", deaf_execute)
        yield lost


@contextmanager
def lost_answer(*, single: bool = True) -> Iterator[None]:
    """The first commit inside succeeds, and tells of a broken connection; see ``lost_answers``."""
    with lost_answers(1, single=single):
        yield


def history(job_id: UUID) -> list[str]:
    """The events of a job, oldest first."""
    entries = AuditEntry.objects.filter(job_id=job_id).order_by("version")
    return list(entries.values_list("event", flat=True))


def entry(job_id: UUID, version: int | None = None) -> AuditEntry:
    """One audit entry of a job: this version, or the latest."""
    entries = AuditEntry.objects.filter(job_id=job_id).order_by("-version")
    if version is not None:
        entries = entries.filter(version=version)
    found = entries.first()
    assert found is not None
    return found
