"""What the load knows of its jobs from the answers it got, never from the database."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from random import Random

from tests.faults.suite.caller import Owner

#: Ended jobs that are remembered, to be read, cancelled and retried once more.
REMEMBERED = 500
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED"})


@dataclass(slots=True)
class Known:
    """One accepted job, and the newest status that anybody was shown."""

    job_id: str
    owner: Owner
    handler: str
    version: int = 0
    state: str = "PENDING"
    #: The ETag that a reader was shown, by reader.
    tags: dict[str, str] = field(default_factory=dict)


class Book:
    """All jobs that are not known to have ended, and the latest of the others. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: dict[str, Known] = {}
        self._ended: OrderedDict[str, Known] = OrderedDict()

    def add(self, job_id: str, owner: Owner, handler: str) -> None:
        """A job was accepted, perhaps not for the first time."""
        with self._lock:
            if job_id not in self._active and job_id not in self._ended:
                self._active[job_id] = Known(job_id, owner, handler)

    def saw(self, job_id: str, version: int, state: str) -> None:
        """Somebody was shown this; an older status than the known one changes nothing."""
        with self._lock:
            job = self._active.get(job_id) or self._ended.get(job_id)
            if job is None or version <= job.version:
                return
            job.version, job.state = version, state
            if state in ENDED and job_id in self._active:
                self._ended[job_id] = self._active.pop(job_id)
                while len(self._ended) > REMEMBERED:
                    self._ended.popitem(last=False)
            elif state not in ENDED and job_id in self._ended:
                self._active[job_id] = self._ended.pop(job_id)

    def unfinished(self) -> int:
        return len(self._active)

    def active(self) -> list[Known]:
        with self._lock:
            return list(self._active.values())

    def any(self, rng: Random, *, active: float = 0.8) -> Known | None:
        """Some job; with probability ``active`` one that has not ended, if there is one."""
        with self._lock:
            choices: list[dict[str, Known]] = [self._active, self._ended]
            if rng.random() > active:
                choices.reverse()
            jobs = choices[0] or choices[1]
            return rng.choice(list(jobs.values())) if jobs else None

    def to_retry(self, rng: Random) -> Known | None:
        """Some job that ended otherwise than COMPLETED and is not poison."""
        with self._lock:
            fit = [
                job
                for job in self._ended.values()
                if job.state != "COMPLETED" and not job.handler.startswith("poison.")
            ]
        return rng.choice(fit) if fit else None
