"""Frozen values that travel between the rooms. Construction and validation only.

Those of which each job has some are tuples with names: made in a third of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from jobs.states import FINAL, IMMUTABLE, ActorKind, JobEvent, JobState


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for a transition. ``id`` is a user's primary key or a worker's name, as text."""

    kind: ActorKind
    id: str = ""


SYSTEM = Actor(ActorKind.SYSTEM)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delay before attempt n+1: ``base * factor**(n-1)``, capped, then spread by ``jitter``.

    ``jitter`` is the fraction of the delay that is drawn at random (0 none, 1 "full jitter" as in
    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """

    base_seconds: float = 2.0
    factor: float = 2.0
    cap_seconds: float = 600.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.base_seconds < 0 or self.cap_seconds < 0 or self.factor < 1:
            raise ValueError("backoff needs base_seconds >= 0, cap_seconds >= 0 and factor >= 1")
        if not 0 <= self.jitter <= 1:
            raise ValueError("backoff needs 0 <= jitter <= 1")


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to accept. ``payload`` is checked against the handler at submit.

    ``request_digest`` stands for the whole request that this job is a part of: its idempotency key
    then answers to that request only, not to another one that holds the same job. Both keys are
    their owner's; None, the system, is one owner.
    """

    handler: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    owner_id: int | None = None
    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    due_at: datetime | None = None
    delay_seconds: float | None = None
    tenant: str = ""
    unique_key: str | None = None
    idempotency_key: str | None = None
    request_digest: str = ""


class Accepted(NamedTuple):
    """The answer to one submission. ``created`` is False when an existing job answers it."""

    job_id: UUID
    state: JobState
    version: int
    created: bool


class Born(NamedTuple):
    """A job that was just accepted: PENDING at version 1."""

    job_id: UUID
    owner_id: int | None
    handler: str
    queue: str
    is_due: bool = True
    """Without a delay or a time of its own."""


class Doorbell(NamedTuple):
    """One job that a worker may want to look at: a hint, never an authority."""

    job_id: UUID
    version: int


class Foretold(NamedTuple):
    """A new job whose doorbell the relay is about to find in the outbox, and where it goes."""

    job_id: UUID
    handler: str
    queue: str
    is_there: bool = True
    """False while the submit may not have been committed."""


class Attempt(NamedTuple):
    """One held job: what a worker needs to run it and to prove that it is the holder."""

    view: StatusView
    """The job as it was claimed."""
    token: UUID
    payload: Mapping[str, Any]

    @property
    def job_id(self) -> UUID:
        return self.view.job_id

    @property
    def version(self) -> int:
        return self.view.version

    @property
    def attempt(self) -> int:
        return self.view.attempt

    @property
    def failed_attempts(self) -> int:
        return self.view.failed_attempts

    @property
    def max_attempts(self) -> int:
        return self.view.max_attempts

    @property
    def handler(self) -> str:
        return self.view.handler

    @property
    def queue(self) -> str:
        return self.view.queue

    @property
    def owner_id(self) -> int | None:
        return self.view.owner_id


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that an attempt produced; it becomes visible when the attempt completes."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    file: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a job's log, stamped by the worker's clock for reading, never for comparing."""

    at: datetime
    level: str
    message: str


class Outcome(NamedTuple):
    """What became of one attempt, decided in pure code and carried out by a verb.

    ``writes`` run inside the transaction that completes the job, and only there.
    """

    attempt: Attempt
    event: JobEvent
    reason: str = ""
    result: Any = None
    artifacts: tuple[Artifact, ...] = ()
    lines: tuple[LogLine, ...] = ()
    delay_seconds: float = 0.0
    writes: tuple[Callable[[], None], ...] = ()


class Settled(NamedTuple):
    """What the database says of one outcome. ``fenced``: stale token, nothing was written.

    ``error`` is what one of the outcome's ``writes`` raised: nothing was recorded, the attempt is
    still held, and its holder has to decide again.
    """

    job_id: UUID
    event: JobEvent
    fenced: bool
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """What a cancel or reopen did to one job; ``event`` is None when nothing had to change."""

    job_id: UUID
    state: JobState
    version: int
    event: JobEvent | None


class Beat(NamedTuple):
    """One holder's sign of life, with what it wants readers to see.

    ``lines_repeat``: some of the lines may be stored already, by a beat whose answer was lost.
    """

    job_id: UUID
    token: UUID
    fraction: float | None = None
    message: str = ""
    lines: tuple[LogLine, ...] = ()
    lines_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Pulse:
    """The database's answer to a beat. ``held`` is False once the lease is somebody else's."""

    job_id: UUID
    held: bool
    cancel_requested: bool


class Progress(NamedTuple):
    """How far an attempt is: ``fraction`` in 0..1, and a short text."""

    fraction: float = 0.0
    message: str = ""


class StatusView(NamedTuple):
    """What a reader may know of a job, at one version. Times are the database's clock, UTC."""

    job_id: UUID
    owner_id: int | None
    handler: str
    queue: str
    state: JobState
    version: int
    progress_seq: int
    attempt: int
    failed_attempts: int
    lost_attempts: int
    max_attempts: int
    progress: Progress
    reason: str
    cancel_requested: bool
    submitted_at: datetime
    due_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    has_result: bool
    result: Any = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def is_immutable(self) -> bool:
        """No later version can exist, so any copy of this view is safe for ever."""
        return self.state in IMMUTABLE

    @property
    def rank(self) -> tuple[int, int]:
        """Orders two views of one job: a reader must never be shown a lower rank after a higher."""
        return (self.version, self.progress_seq)
