"""How verbs write: one statement for all rows, counted, with facts told after commit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.backends.utils import CursorWrapper

from jobs import conf, events, sql
from jobs.connections import kept_cursor
from jobs.errors import IllegalTransition
from jobs.models import Job, JobLogLine
from jobs.querysets import VIEW_COLUMNS, view_of_row
from jobs.states import JobEvent, sources_of, target_of
from jobs.values import Actor, LogLine, StatusView


def write(
    event: JobEvent, jobs: Sequence[Job], results: dict[UUID, Any] | None = None
) -> list[StatusView]:
    if not jobs:
        return []
    rows = [job.as_write() for job in jobs]
    if event is JobEvent.SUCCEED and results:
        for row, job in zip(rows, jobs, strict=True):
            row["result"] = results[job.id]
    parameters = {"rows": json.dumps(rows), "ids": array_of(row["id"] for row in rows)}
    views = views_of("write_transitions", parameters)
    if len(views) != len(jobs):
        # Only a writer that ignores our locks can cause this; the transaction rolls back whole.
        raise IllegalTransition(f"{len(jobs) - len(views)} rows moved under their locks")
    events.tell_after_commit(events.Transitioned(event, tuple(views)))
    return views


def edge_of(event: JobEvent, actor: Actor) -> dict[str, Any]:
    """What the functions of the database are told of an edge, and of who takes it."""
    return {
        "event": event,
        "sources": list(sources_of(event)),
        "target": target_of(event),
        "actor_kind": actor.kind,
        "actor_id": actor.id,
    }


def call(function: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows that a function of ``sql/verbs_*.sql`` returns."""
    cursor = kept_cursor()
    text = f"SELECT * FROM {_written(function, tuple(parameters))}"
    cursor.execute(text, list(parameters.values()))
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    if len(rows) > 1:
        # The driver keeps an answer until the next one comes: of many jobs, that may be much.
        cursor.close()
    return rows


#: A function of the database, and its parameters by name.
Call = tuple[str, Mapping[str, Any]]


def call_each(calls: Sequence[Call], cursor: CursorWrapper | None = None) -> list[Any]:
    """What each of these functions returns, in one statement."""
    each = [_written(function, tuple(wish)) for function, wish in calls]
    values = [value for _, wish in calls for value in wish.values()]
    asked = cursor or kept_cursor()
    asked.execute("SELECT " + ",".join(each), values)
    return list(asked.fetchone())


@cache
def _written(function: str, names: tuple[str, ...]) -> str:
    """The call of a function with these parameters, whose values come as a list."""
    return f"{function}({','.join(f'_{name}=>%s' for name in names)})"


def array_of(values: Iterable[object]) -> str:
    """One array literal, which is cheaper to adapt and parse than a list. For ids and numbers."""
    return "{" + ",".join(map(str, values)) + "}"


def ids_of(values: Iterable[UUID]) -> str:
    """The same for ids alone, without hyphens: PostgreSQL needs none, and Python takes long to set
    them."""
    return "{" + ",".join([value.hex for value in values]) + "}"


def json_array_of(values: Iterable[Any]) -> str:
    """One array literal of JSON texts; None becomes NULL, as a field of a JSON row does."""
    return array_of("NULL" if value is None else _quoted(json.dumps(value)) for value in values)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def views_of(statement: str, parameters: dict[str, Any]) -> list[StatusView]:
    text = sql.load(statement).replace("{view}", VIEW_COLUMNS)
    parameters["inline_limit"] = conf.get().inline_result_limit_bytes
    with connection.cursor() as cursor:
        cursor.execute(text, parameters)
        return [view_of_row(row) for row in cursor.fetchall()]


def execute(statement: str, parameters: dict[str, Any]) -> int:
    """How many rows a statement of ``sql/`` has changed, which returns nothing else."""
    with connection.cursor() as cursor:
        cursor.execute(sql.load(statement), parameters)
        return int(cursor.rowcount)


Lines = tuple[UUID, int, Sequence[LogLine]]


def store_lines(groups: Iterable[Lines], *, repeat: bool = False) -> None:
    """Add log lines: job, attempt, lines. ``repeat``: some of them may be stored already."""
    rows = [
        JobLogLine(
            job_id=job_id, attempt=attempt, at=line.at, level=line.level, message=line.message
        )
        for job_id, attempt, lines in groups
        for line in lines
    ]
    if rows and repeat:
        rows = _unknown(rows)
    JobLogLine.objects.bulk_create(rows)


def _unknown(rows: list[JobLogLine]) -> list[JobLogLine]:
    stored = JobLogLine.objects.filter(job_id__in={row.job_id for row in rows})
    known = set(stored.values_list("job_id", "attempt", "at", "message"))
    return [row for row in rows if (row.job_id, row.attempt, row.at, row.message) not in known]
