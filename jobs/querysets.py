"""Named reads and locks of job rows, and the one way from a row to a ``StatusView``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self
from uuid import UUID

from django.db import connection, models
from django.db.models.functions import Now

from jobs.errors import DirectWrite
from jobs.states import ACTIVE, JobState
from jobs.values import Progress, StatusView

if TYPE_CHECKING:
    from jobs.models import Job  # noqa: F401 - the base class names it in a string

#: What a transition reads or changes: all that a locking read has to load.
TRANSITION_FIELDS: tuple[str, ...] = (
    "id", "owner_id", "handler", "queue", "state", "version", "attempt", "failed_attempts",
    "lost_attempts", "max_attempts", "cancel_requested_at", "lease_token", "worker", "event",
    "actor_kind", "actor_id", "reason",
)  # fmt: skip

#: The columns of a status view of ``j``, for SELECT and RETURNING alike; read by ``view_of_row``.
#: The result rides along as text while it is small, so that one read answers a status request.
VIEW_COLUMNS = """
    j.id, j.owner_id, j.handler, j.queue, j.state, j.version, j.progress_seq, j.attempt,
    j.failed_attempts, j.lost_attempts, j.max_attempts, j.progress, j.progress_message, j.reason,
    j.cancel_requested_at IS NOT NULL, j.submitted_at, j.due_at, j.started_at, j.finished_at,
    j.result IS NOT NULL,
    CASE WHEN octet_length(j.result::text) <= %(inline_limit)s THEN j.result::text END
"""

#: A look-up, where calling the enumeration searches.
_STATES = {state.value: state for state in JobState}


class JobQuerySet(models.QuerySet["Job", "Job"]):
    """Reads of jobs. Writing is ``lifecycle``'s alone.

    ``update()`` stays, as UPDATE in psql does: the triggers judge both the same way.
    """

    def bulk_create(self, *args: Any, **options: Any) -> NoReturn:
        raise DirectWrite("Job.objects.bulk_create()")

    def bulk_update(self, *args: Any, **options: Any) -> NoReturn:
        raise DirectWrite("Job.objects.bulk_update()")

    def owned_by(self, owner_id: int) -> Self:
        return self.filter(owner_id=owner_id)

    def locked(self, ids: Iterable[UUID], *also: str) -> Self:
        """Lock these rows, in id order so that two callers cannot deadlock; loads ``also`` too.

        FOR NO KEY UPDATE, because foreign-key checks of other writers must not wait for us.
        """
        return (
            self.filter(id__in=list(ids))
            .only(*TRANSITION_FIELDS, *also)
            .select_for_update(no_key=True, of=("self",))
            .order_by("id")
        )

    def due(self) -> Self:
        """PENDING jobs whose time has come, by the database's clock."""
        return self.filter(state=JobState.PENDING, due_at__lte=Now())

    def announced(self) -> Self:
        """Active jobs whose time has come, to be narrowed by id.

        Says ACTIVE where PENDING is meant: with PENDING alone the planner, whose statistics are
        older than a backlog, would walk the index of all that waits instead of the primary key.
        """
        return self.filter(state__in=list(ACTIVE), due_at__lte=Now())

    def lapsed(self) -> Self:
        """RUNNING jobs whose lease has run out, by the database's clock."""
        return self.filter(state=JobState.RUNNING, lease_until__lt=Now())

    def light(self) -> Self:
        """Without the wide columns, for lists."""
        return self.defer("payload", "result")


def read_views(ids: Sequence[UUID], inline_limit_bytes: int) -> list[StatusView]:
    """Status views from the primary database, in no particular order; unknown ids are left out."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {VIEW_COLUMNS} FROM jobs_job AS j WHERE j.id = ANY(%(ids)s::uuid[])",
            {"ids": [str(job_id) for job_id in ids], "inline_limit": inline_limit_bytes},
        )
        return [view_of_row(row) for row in cursor.fetchall()]


def view_of_row(row: Sequence[Any]) -> StatusView:
    """A view from one row of ``VIEW_COLUMNS``."""
    more = (_STATES[row[4]], *row[5:11], Progress(row[11], row[12]), *row[13:20])
    return StatusView._make((*row[:4], *more, None if row[20] is None else json.loads(row[20])))
