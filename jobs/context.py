"""What a running handler sees of its job."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

log = logging.getLogger("jobs.handler")


class Context(ABC):
    """The handler's line to the outside. Every method is cheap; none opens a transaction.

    ``progress`` and ``check`` are where a handler notices that it should stop: they raise
    JobCancelled, JobReleased or JobTimeout. A handler that calls neither is interrupted by the same
    exception a grace time later, at a point of Python's choosing.
    """

    job_id: UUID
    attempt: int
    token: UUID
    handler: str
    owner_id: int | None

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this job: hand it to services that take such a key."""
        return str(self.job_id)

    @property
    @abstractmethod
    def cancelled(self) -> bool:
        """Whether somebody asked to cancel this job."""

    @property
    @abstractmethod
    def stopping(self) -> bool:
        """Whether the worker is stopping and will soon hand this job back."""

    @abstractmethod
    def check(self) -> None:
        """Raise JobCancelled, JobReleased or JobTimeout if the attempt should end now."""

    @abstractmethod
    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the attempt is, 0.0 to 1.0; shown with the next heartbeat. Also checks."""

    @abstractmethod
    def log(self, message: str, level: str = "info") -> None:
        """Add a line to the job's log (level debug, info, warning or error)."""

    @abstractmethod
    def artifact(self, name: str, content: bytes | Path, media_type: str) -> None:
        """Keep a file with the job; it appears when this attempt completes, or never.

        Raises ValueError for a name that is not a plain file name, a name used twice, or a file
        above ``artifact_limit_bytes``.
        """

    @abstractmethod
    def on_completion(self, write: Callable[[], None]) -> None:
        """Let ``write`` run inside the transaction that completes the job, in this thread.

        It writes to the same database, through Django's default connection, and commits with the
        job or not at all: never for an attempt that failed, was cancelled or lost its lease. It may
        run again after a try that was rolled back, so it must touch nothing but that database, and
        it must be quick, because the job's row stays locked. What it raises rolls everything back
        and is the attempt's failure. Several run in the order of the calls.
        """

    @abstractmethod
    def open_upload(self, upload_id: UUID) -> Path:
        """A local path of the owner's upload. Raises PermanentFailure if there is none."""

    @abstractmethod
    def resolve_path(self, path: str) -> Path:
        """A file below ``data_roots``. Raises PermanentFailure for any other path."""
