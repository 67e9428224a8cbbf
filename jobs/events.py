"""Named facts, told after commit. Best-effort by design: what must not be lost is a row.

Business code tells; logs, metrics and the status cache subscribe. A subscriber that raises is
logged and never harms the verb that told it, nor the other subscribers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction

from jobs.states import JobEvent
from jobs.values import Born, StatusView

log = logging.getLogger("jobs.events")


@dataclass(frozen=True, slots=True)
class Submitted:
    """Jobs were accepted."""

    jobs: tuple[Born, ...]


@dataclass(frozen=True, slots=True)
class Transitioned:
    """Jobs moved along an edge."""

    event: JobEvent
    views: tuple[StatusView, ...]


@dataclass(frozen=True, slots=True)
class Progressed:
    """Holders showed signs of life that readers may want to see."""

    views: tuple[StatusView, ...]


@dataclass(frozen=True, slots=True)
class Fenced:
    """A stale holder tried to finish a job and was refused."""

    job_id: UUID
    token: UUID
    event: JobEvent
    worker: str


Fact = Submitted | Transitioned | Progressed | Fenced
Subscriber = Callable[[Fact], None]
Preparer = Callable[[Born], None]

_subscribers: list[Subscriber] = []
_preparers: list[Preparer] = []


def subscribe(subscriber: Subscriber) -> None:
    """Add a subscriber; adding one twice has no effect."""
    if subscriber not in _subscribers:
        _subscribers.append(subscriber)


def unsubscribe(subscriber: Subscriber) -> None:
    """Remove a subscriber that was added."""
    _subscribers.remove(subscriber)


def tell(fact: Fact) -> None:
    """Tell every subscriber now."""
    for subscriber in tuple(_subscribers):
        try:
            subscriber(fact)
        except Exception:
            log.exception("subscriber %r failed on %s", subscriber, type(fact).__name__)


def tell_after_commit(fact: Fact) -> None:
    """Tell once the outermost transaction has committed; never if it rolls back."""
    transaction.on_commit(lambda: tell(fact), robust=True)


def prepare_with(preparer: Preparer) -> None:
    """Add one who gets ready for jobs that are being submitted; adding one twice has no effect."""
    if preparer not in _preparers:
        _preparers.append(preparer)


def expect(job: Born) -> None:
    """Say that the next statement submits this job: no fact yet, and perhaps never one."""
    for preparer in tuple(_preparers):
        try:
            preparer(job)
        except Exception:
            log.exception("preparer %r failed on job %s", preparer, job.job_id)
