"""What a verification is asked for and what it answers. Frozen values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a verification is: ``jobs`` of about ``expected`` (0: unknown) were looked at."""

    stage: str
    jobs: int
    expected: int


@dataclass(frozen=True, slots=True)
class Options:
    """What to check and how; ``verify`` says what each means."""

    ledger: Path | None = None
    at_rest: bool = False
    window: int = 5000
    only: frozenset[str] = frozenset()
    bound_seconds: float = 60.0
    max_unpublished_seconds: float | None = None
    max_lost_attempts: int = 5
    take_seconds: float = 30.0
    extra: Mapping[str, str] = field(default_factory=dict)
    on_progress: Callable[[Progress], None] | None = None

    def wants(self, *invariants: str) -> bool:
        """Whether at least one of these was asked for."""
        return not self.only or not self.only.isdisjoint(invariants)


@dataclass(frozen=True, slots=True)
class Finding:
    """One invariant: how often it is broken, and by what. Examples name a job, mostly a version."""

    id: str
    title: str
    violations: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The answer: one finding per invariant that was checked, also where nothing is broken.

    ``slowest_seconds`` is the longest that one snapshot was held. ``notes`` are things that limit
    what the answer means: checks that were left out, and why.
    """

    findings: tuple[Finding, ...]
    jobs: int = 0
    entries: int = 0
    windows: int = 0
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.violations)

    @property
    def ok(self) -> bool:
        return not self.broken

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self)}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One doorbell that the broker gave up on; ``died_at`` in seconds since the epoch."""

    job_id: UUID
    version: int
    died_at: float
