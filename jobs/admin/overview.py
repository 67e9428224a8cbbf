"""The state of the platform at a glance. Every query is bounded by an index and a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connection
from django.db.models import Count, DurationField, ExpressionWrapper, F, Q
from django.db.models.functions import Now
from django.http import HttpRequest

from jobs import conf, sql
from jobs.display import TONES
from jobs.models import Job, Worker
from jobs.states import JobState

#: Counting stops here; the page then says "1,000+".
COUNT_LIMIT = 1000
#: How many of the newest jobs the shares of states and the last failures are taken from.
RECENT = 2000
ROWS = 8


@dataclass(frozen=True, slots=True)
class BoundedCount:
    """A count that stopped at ``COUNT_LIMIT``."""

    value: int

    def __str__(self) -> str:
        return f"{COUNT_LIMIT:,}+" if self.value > COUNT_LIMIT else f"{self.value:,}"


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue. ``oldest_wait`` is how long its oldest due job has waited for a worker."""

    name: str
    due: BoundedCount
    scheduled: BoundedCount
    running: BoundedCount
    oldest_wait: timedelta | None
    unpublished: BoundedCount
    oldest_unpublished: timedelta | None
    workers: int

    @property
    def alarming(self) -> bool:
        """Jobs are due and nobody is there who would take them."""
        return self.due.value > 0 and self.workers == 0


@dataclass(frozen=True, slots=True)
class Share:
    """How many of the newest jobs are in one state."""

    state: JobState
    count: int
    percent: float

    @property
    def tone(self) -> str:
        return TONES[self.state]


def queues() -> list[QueueRow]:
    """The queues of the settings. Nothing here reads more than ``COUNT_LIMIT`` rows of one."""
    outbox = _outbox()
    present = _workers_per_queue()
    return [_queue(name, outbox.get(name, (0, None)), present) for name in conf.get().queues]


def _queue(name: str, outbox: tuple[int, timedelta | None], present: dict[str, int]) -> QueueRow:
    pending = Job.objects.filter(state=JobState.PENDING, queue=name)
    due = pending.filter(due_at__lte=Now())
    waited = ExpressionWrapper(Now() - F("due_at"), output_field=DurationField())
    return QueueRow(
        name=name,
        due=_counted(due),
        scheduled=_counted(pending.filter(due_at__gt=Now())),
        running=_counted(Job.objects.filter(state=JobState.RUNNING, queue=name)),
        oldest_wait=due.order_by("due_at").values_list(waited, flat=True).first(),
        unpublished=BoundedCount(outbox[0]),
        oldest_unpublished=outbox[1],
        workers=present.get(name, 0),
    )


def _counted(rows: Any) -> BoundedCount:
    return BoundedCount(rows.order_by().values("pk")[: COUNT_LIMIT + 1].count())


def _outbox() -> dict[str, tuple[int, timedelta]]:
    with connection.cursor() as cursor:
        cursor.execute(sql.load("overview_outbox"), {"limit": COUNT_LIMIT + 1})
        return {name: (count, age) for name, count, age in cursor.fetchall()}


def _workers_per_queue() -> dict[str, int]:
    found: dict[str, int] = {}
    for names in live_workers().filter(kind="worker").values_list("queues", flat=True)[:2000]:
        for name in names:
            found[name] = found.get(name, 0) + 1
    return found


def live_workers() -> Any:
    """Processes that were heard of within ``worker_stale_seconds`` and have not stopped."""
    silence = timedelta(seconds=conf.get().worker_stale_seconds)
    return Worker.objects.filter(stopped_at=None, seen_at__gte=Now() - silence)


def recent_shares() -> list[Share]:
    """The states of the newest ``RECENT`` jobs."""
    counted = _recent().order_by().values_list("state").annotate(Count("pk"))
    counts: dict[str, int] = dict(counted)
    total = sum(counts.values())
    return [
        Share(state, counts[state], 100 * counts[state] / total)
        for state in JobState
        if counts.get(state)
    ]


def last_failures() -> Sequence[Job]:
    """The last failures among the newest ``RECENT`` jobs."""
    failed = _recent().filter(state=JobState.FAILED).light()
    return list(failed.order_by("-pk")[:ROWS])


def running() -> Sequence[Job]:
    """The youngest running jobs."""
    rows = Job.objects.filter(state=JobState.RUNNING).light()
    return list(rows.order_by("-pk")[:ROWS])


def _recent() -> Any:
    ids = Job.objects.order_by("-pk").values_list("pk", flat=True)
    edge = ids[RECENT - 1 : RECENT].first()
    return Job.objects.filter(Q(pk__gte=edge) if edge else Q())


def context() -> dict[str, Any]:
    """All of it, for a template."""
    return {
        "queues": queues(),
        "shares": recent_shares(),
        "recent": RECENT,
        "running": running(),
        "failures": last_failures(),
        "live_workers": live_workers().count(),
        "status_url_names": [state.value for state in JobState],
    }


def dashboard(request: HttpRequest, page: dict[str, Any]) -> dict[str, Any]:
    """For unfold's ``DASHBOARD_CALLBACK``: the overview on the admin's first page.

    Shown only to those who may see jobs.
    """
    if request.user.has_perm("jobs.view_job"):
        page["overview"] = context()
    return page
