"""Steps in plain SQL, and the constraint or trigger that refuses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest
from django.db import DatabaseError, connection, transaction

from jobs.models import Job
from jobs.states import JobState


@contextmanager
def refused(constraint: str) -> Iterator[None]:
    """The statement inside is refused by this constraint or trigger."""
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        yield
    assert constraint_of(caught.value) == constraint


def constraint_of(error: DatabaseError) -> str | None:
    """The constraint that a statement broke, or that a trigger named."""
    cause = error.__cause__
    return cause.diag.constraint_name if isinstance(cause, psycopg2.Error) else None


def execute(statement: str, *parameters: Any) -> int:
    """Run one statement; returns how many rows it changed."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return int(cursor.rowcount)


@contextmanager
def triggers_off() -> Iterator[None]:
    """As an owner of the tables can, who wants to change the past; needs a superuser."""
    execute("SET LOCAL session_replication_role = replica")
    yield
    execute("SET LOCAL session_replication_role = origin")


def force(job_id: UUID, target: JobState, **changes: Any) -> None:
    """One step in plain SQL: state, version + 1, and the columns that the rules tie to them."""
    running = target is JobState.RUNNING
    final = target not in {JobState.PENDING, JobState.RUNNING}
    before = Job.objects.get(id=job_id)
    stays = running and before.state == JobState.RUNNING
    columns: dict[str, Any] = {
        "state": target.value,
        "version": before.version + 1,
        "attempt": before.attempt + (running and not stays),
        "lease_token": (before.lease_token if stays else uuid4()) if running else None,
        **_charges(before, changes.get("event"), changes.get("actor_kind")),
        **changes,
    }
    if target is not JobState.COMPLETED:
        columns["result"] = None
    names = ", ".join(f"{name} = %s" for name in columns)
    values = [str(value) if isinstance(value, UUID) else value for value in columns.values()]
    execute(
        f"UPDATE jobs_job SET {names},"
        f" lease_until = {'now()' if running else 'NULL'},"
        f" finished_at = {'now()' if final else 'NULL'} WHERE id = %s",
        *values,
        str(job_id),
    )


def _charges(before: Job, event: str | None, actor_kind: str | None) -> dict[str, int]:
    """What this event makes of the counters; nothing for a change by hand, which has none."""
    failed, lost = before.failed_attempts, before.lost_attempts
    if event == "reopen":
        failed = lost = 0
    elif event in {"retry", "fail"} and actor_kind == "worker":
        failed += 1
    elif event in {"rescue", "fail"} and actor_kind == "rescuer":
        lost += 1
    return {"failed_attempts": failed, "lost_attempts": lost}
