"""What the handlers of ``tests.testapp`` did, read from the files that they left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

LOOK_SECONDS = 0.01


def until(
    true: Callable[[], object], seconds: float, explain: Callable[[], str] = lambda: ""
) -> None:
    """Look until it is true; fails with the explanation after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {explain()}"
        time.sleep(LOOK_SECONDS)


@dataclass(frozen=True, slots=True)
class Mark:
    """One step of one attempt."""

    job_id: UUID
    attempt: int
    pid: int
    step: str


@dataclass(frozen=True, slots=True)
class Marks:
    """The directory that is named in a job's payload."""

    directory: Path

    def all(self, step: str) -> list[Mark]:
        """Every ``started`` or ``finished``."""
        names = [path.name.split(".") for path in self.directory.glob(f"*.{step}")]
        return [Mark(UUID(name[0]), int(name[1]), int(name[2]), name[3]) for name in names]

    def wait_started(self, count: int, seconds: float = 30) -> list[Mark]:
        """Wait until this many attempts have begun."""
        until(
            lambda: len(self.all("started")) >= count,
            seconds,
            lambda: f"{len(self.all('started'))} of {count} attempts have begun",
        )
        return self.all("started")

    def open(self) -> None:
        """Let every waiting handler go on."""
        (self.directory / "open").touch()
