"""Where the microseconds of a job go: CPU time of each verb, by process, alone and in sets.

Everything happens in this process, one step after another, so that what a step costs is not mixed
with another's. Relay, broker and worker are not here; their share is what is left of the totals of
the queue rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from django.db import connection

from bench.marks import Marks
from bench.ours.platform_peer import Interlock
from bench.place import Place
from bench.processes import Tree
from bench.scenario import slots_for
from jobs.values import Doorbell

#: Jobs of a set: what one message carries at most.
_SET = 500


def measure(place: Place) -> dict[str, float]:
    """Microseconds per job: ``<verb>_<alone|in_set>_<python|postgres|redis|wall>_us``."""
    ours = Interlock(place)
    marks = Marks(place.path / "marks", slots_for(place))
    ours.prepare()
    figures: dict[str, float] = {}
    for label, size, count in (("alone", 1, place.plan.jobs), ("in_set", _SET, place.plan.bulk)):
        groups = [marks.take(size) for _ in range(count // size)]
        profile = _Profile(ours, place.services())
        # The first ones pay for connections, plans and imports.
        profile.life(groups[: len(groups) // 10])
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        profile.spent.clear()
        profile.life(groups[len(groups) // 10 :])
        jobs = size * (len(groups) - len(groups) // 10)
        for name, seconds in profile.spent.items():
            figures[f"{name.replace(' ', f'_{label}_')}_us"] = 1e6 * seconds / jobs
    return figures


class _Profile:
    def __init__(self, ours: Interlock, services: Mapping[str, Tree]) -> None:
        from jobs.executor import Executor

        self._ours = ours
        self._services = {name: services[name] for name in ("postgres", "redis")}
        self._executor = Executor("bench:1")
        self.spent: dict[str, float] = {}

    def life(self, groups: Sequence[Sequence[int]]) -> None:
        """Take these jobs through submit, claim and finish, and as many through a whole answer."""
        from jobs import lifecycle, registry
        from jobs.states import JobEvent
        from jobs.values import Outcome

        names = registry.names()
        submitted = self._submitted("submit", groups)
        with self._counted("claim"):
            attempts = [
                lifecycle.claim(bells, worker="bench:1", handlers=names) for bells in submitted
            ]
        with self._counted("finish"):
            for some in attempts:
                outcomes = [Outcome(one, JobEvent.SUCCEED) for one in some]
                lifecycle.finish(outcomes, worker="bench:1")
        # Claim, handler and finish, with all that a worker's child does around them.
        submitted = self._submitted(None, groups)
        with self._counted("answer"):
            for bells in submitted:
                self._executor.answer(bells)

    def _submitted(self, name: str | None, groups: Sequence[Sequence[int]]) -> list[list[Doorbell]]:
        def submit() -> list[list[Doorbell]]:
            ids = [self._ours.submit_many(numbers) for numbers in groups]
            return [[Doorbell(job_id, 1) for job_id in some] for some in ids]

        if name is None:
            return submit()
        with self._counted(name):
            return submit()

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        clocks: dict[str, Callable[[], float]] = {
            "wall": time.perf_counter,
            "python": time.process_time,
            **{service: tree.cpu_seconds for service, tree in self._services.items()},
        }
        before = {clock: read() for clock, read in clocks.items()}
        yield
        for clock, read in clocks.items():
            key = f"{name} {clock}"
            self.spent[key] = self.spent.get(key, 0.0) + read() - before[clock]
