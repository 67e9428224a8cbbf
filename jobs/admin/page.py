"""What the page of one job shows, read in a fixed number of queries, each with a limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.db.models import (
    DurationField,
    ExpressionWrapper,
    F,
    Func,
    IntegerField,
    TextField,
    Value,
)
from django.db.models.functions import Cast, Coalesce, Left, Now
from django.utils.safestring import SafeString

from jobs.display import TONES, badge, short_id, size
from jobs.models import AuditEntry, Job, JobArtifact, JobLogLine
from jobs.states import ActorKind, JobEvent, JobState

JSON_LIMIT_CHARS = 16_384
LOG_LINES = 300
LOG_LINE_CHARS = 8000
AUDIT_ENTRIES = 300
ARTIFACTS = 100

#: What a browser may draw in place. Inside <img> neither can run a script.
PICTURES = frozenset({"image/png", "image/svg+xml"})

_ENDINGS = {
    JobEvent.SUCCEED: "good",
    JobEvent.RETRY: "bad",
    JobEvent.FAIL: "bad",
    JobEvent.RELEASE: "idle",
    JobEvent.RESCUE: "wait",
    JobEvent.CANCEL: "idle",
    JobEvent.HAND_EDIT: "wait",
}


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON column, pretty, cut after ``JSON_LIMIT_CHARS``."""

    name: str
    text: str
    size_bytes: int
    cut: bool

    @property
    def size(self) -> str:
        return size(self.size_bytes)


@dataclass(frozen=True, slots=True)
class Step:
    """One audit entry and how long after the one before it."""

    entry: AuditEntry
    actor: str
    since: timedelta | None

    @property
    def tone(self) -> str:
        """The colour of a step is that of the state it led to."""
        return TONES[JobState(self.entry.to_state)]

    @property
    def event(self) -> str:
        return self.entry.event.replace("_", " ")

    @property
    def token(self) -> str:
        return str(self.entry.token)[:8] if self.entry.token else ""


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt, told by the audit: from its claim to the entry that ended it."""

    attempt: int
    worker: str
    token: UUID | None
    began: datetime
    ended: datetime | None
    ending: str
    reason: str

    @property
    def length(self) -> timedelta | None:
        return self.ended - self.began if self.ended else None

    @property
    def outcome(self) -> SafeString:
        if not self.ending:
            return badge("running", "busy")
        return badge(self.ending.replace("_", " "), _ENDINGS.get(JobEvent(self.ending), "idle"))


def read_job(job_id: UUID) -> Job | None:
    """The job without its documents; ``elapsed`` is how long it ran, by the database's clock."""
    elapsed = ExpressionWrapper(
        Coalesce(F("finished_at"), Now()) - F("started_at"), output_field=DurationField()
    )
    rows = Job.objects.light().select_related("owner").annotate(elapsed=elapsed)
    job: Job | None = rows.filter(pk=job_id).first()
    return job


def documents(job_id: UUID) -> list[Document]:
    """Payload and result; both are cut in the database, so a large one is never transferred."""
    found = []
    for name in ("payload", "result"):
        pretty = Func(F(name), function="jsonb_pretty", output_field=TextField())
        row = (
            Job.objects.filter(pk=job_id, **{f"{name}__isnull": False})
            .values_list(
                Left(pretty, Value(JSON_LIMIT_CHARS + 1)),
                Func(Cast(name, TextField()), function="octet_length", output_field=IntegerField()),
            )
            .first()
        )
        if row is not None:
            text = row[0]
            cut = len(text) > JSON_LIMIT_CHARS
            found.append(Document(name, text[:JSON_LIMIT_CHARS], row[1], cut))
    return found


def history(job_id: UUID) -> list[AuditEntry]:
    """The newest audit entries of a job, in the order in which they happened."""
    newest = AuditEntry.objects.filter(job_id=job_id).order_by("-version")
    return list(reversed(newest[:AUDIT_ENTRIES]))


def steps(entries: Sequence[AuditEntry]) -> list[Step]:
    """Audit entries with the names of people and the time between them."""
    names = _names(entries)
    before = [None, *entries[:-1]]
    return [
        Step(
            entry,
            _actor(entry, names),
            entry.at - last.at if last is not None else None,
        )
        for last, entry in zip(before, entries, strict=True)
    ]


def runs(entries: Iterable[AuditEntry]) -> list[Run]:
    """The attempts that these entries tell of."""
    found: list[Run] = []
    claim: AuditEntry | None = None
    for entry in entries:
        if entry.to_state == JobState.RUNNING and entry.from_state != JobState.RUNNING:
            claim = entry
        elif claim is not None and entry.to_state != JobState.RUNNING:
            found.append(_run(claim, entry))
            claim = None
    return [*found, _run(claim, None)] if claim is not None else found


def _run(claim: AuditEntry, end: AuditEntry | None) -> Run:
    return Run(
        attempt=claim.attempt,
        worker=claim.actor_id,
        token=claim.token,
        began=claim.at,
        ended=end.at if end else None,
        ending=end.event if end else "",
        reason=end.reason if end else "",
    )


def log_lines(job_id: UUID) -> tuple[Sequence[JobLogLine], bool]:
    """The newest log lines in order, each cut, and whether there are more before them."""
    newest = (
        JobLogLine.objects.filter(job_id=job_id)
        .annotate(text=Left("message", LOG_LINE_CHARS))
        .defer("message")
        .order_by("-id")[: LOG_LINES + 1]
    )
    lines = list(newest)
    return lines[:LOG_LINES][::-1], len(lines) > LOG_LINES


def artifacts(job_id: UUID) -> list[dict[str, Any]]:
    """The job's artifacts, by name, with how to show them."""
    rows = JobArtifact.objects.filter(job_id=job_id).order_by("name")[:ARTIFACTS]
    return [
        {"row": row, "size": size(row.size_bytes), "picture": row.media_type in PICTURES}
        for row in rows
    ]


def _names(entries: Iterable[AuditEntry]) -> dict[str, str]:
    people = (ActorKind.USER, ActorKind.ADMIN)
    ids = {entry.actor_id for entry in entries if entry.actor_kind in people}
    users = get_user_model()._default_manager  # noqa: SLF001  # the documented way
    known = users.filter(pk__in=[i for i in ids if i.isdecimal()])
    return {str(user.pk): user.get_username() for user in known}


def _actor(entry: AuditEntry, names: dict[str, str]) -> str:
    who = names.get(entry.actor_id, entry.actor_id)
    return f"{entry.actor_kind} {who}".strip()


def facts(job: Job) -> list[tuple[str, Any]]:
    """The job's plain columns as label and value, those that say nothing left out."""
    rows = [
        ("Queue", job.queue),
        ("Priority", str(job.priority)),
        ("Attempt", f"{job.attempt} ({job.failed_attempts} of {job.max_attempts} failed)"),
        ("Lost attempts", str(job.lost_attempts or "")),
        ("Version", str(job.version)),
        ("Worker", job.worker if job.state == JobState.RUNNING else ""),
        ("Lease token", short_id(job.lease_token) if job.lease_token else ""),
        ("Tenant", job.tenant),
        ("Idempotency key", job.idempotency_key or ""),
        ("Unique key", job.unique_key or ""),
    ]
    return [(label, value) for label, value in rows if value]
