"""What is done with every job queue, ours included: the same phases, measured the same way.

* warm-up: some jobs, so that imports, connections and plans are there.
* backlog: all that works jobs off is frozen; jobs are submitted one by one; it is thawed; the drain
  ends when the last body has run and, if there is a status store, all are done there.
* bulk backlog: the same with the peer's own call for many.
* steady: submits while the workers work; from the first submit until the last job is done.
* latency: 20 jobs per second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from bench.latency import percentiles
from bench.marks import Marks
from bench.peers.base import Peer
from bench.place import Place

Figures = dict[str, float]

_WARM_UP_JOBS = 100
_SET_SIZE = 1000
_RATE_PER_SECOND = 20.0
#: How long workers may take to start and run the first job.
_START_SECONDS = 60.0


class Scenario:
    """One run of one queue, from its start to its end."""

    def __init__(self, peer: Peer, place: Place, marks: Marks) -> None:
        self.peer = peer
        self.plan = place.plan
        self.marks = marks
        self.services = place.services()

    def run(self) -> Figures:
        """All phases. The peer has been prepared and started."""
        figures: Figures = {}
        self.warm_up()
        figures |= self._memory("before")
        figures |= self._backlog("", self.plan.jobs, self.peer.submit_each)
        figures |= self._steady("", self.plan.jobs, self.peer.submit_each)
        if self.peer.has_bulk:
            figures |= self._backlog("bulk_", self.plan.bulk, self.submit_sets)
            figures |= self._steady("bulk_", self.plan.bulk, self.submit_sets)
        figures |= self._memory("after")
        figures |= self._latency()
        return figures

    def drain(self, count: int) -> Figures:
        """A bulk backlog alone, for rows about something else than speed."""
        return self._backlog("bulk_", count, self.submit_sets)

    def submit_sets(self, numbers: Sequence[int]) -> list[Any]:
        """In sets of 1,000 through the peer's call for many."""
        handles: list[Any] = []
        for first in range(0, len(numbers), _SET_SIZE):
            handles += self.peer.submit_many(numbers[first : first + _SET_SIZE])
        return handles

    # -- phases ---------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Raises TimeoutError, or RuntimeError with last words, for workers that do not come."""
        first = self.marks.take(1)
        handles = self.peer.submit_each(first)
        deadline = time.monotonic() + _START_SECONDS
        while not self.marks.at(first.start):
            self.peer.require_alive()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no job ran within {_START_SECONDS:g} s of the start")
            time.sleep(0.01)
        for submit in self._ways():
            numbers = self.marks.take(_WARM_UP_JOBS)
            handles += submit(numbers)
            self._wait(numbers, handles)

    def _ways(self) -> list[Callable[[Sequence[int]], list[Any]]]:
        one = self.peer.submit_each
        return [one, self.submit_sets, self.submit_sets] if self.peer.has_bulk else [one, one]

    def _backlog(
        self, prefix: str, count: int, submit: Callable[[Sequence[int]], list[Any]]
    ) -> Figures:
        numbers = self.marks.take(count)
        consumers = self.peer.trees(self.peer.consumers)
        before = self._cpu()
        for tree in consumers:
            tree.freeze()
        began = time.monotonic()
        try:
            handles = submit(numbers)
            enqueued = time.monotonic()
        finally:
            for tree in consumers:
                tree.thaw()
        ended = self._wait(numbers, handles)
        after = self._cpu()
        cpu = {role: (after[role] - before[role]) * 1000 / count for role in after}
        return {
            f"{prefix}enqueue_per_second": count / (enqueued - began),
            f"{prefix}drain_per_second": count / (ended - enqueued),
            f"{prefix}cpu_total": sum(cpu.values()),
            **{f"{prefix}cpu_{role}": value for role, value in cpu.items()},
        }

    def _steady(
        self, prefix: str, count: int, submit: Callable[[Sequence[int]], list[Any]]
    ) -> Figures:
        numbers = self.marks.take(count)
        began = time.monotonic()
        ended = self._wait(numbers, submit(numbers))
        return {f"{prefix}steady_per_second": count / (ended - began)}

    def _wait(self, numbers: range, handles: Sequence[Any]) -> float:
        """When the last of them was done: its body, and its status where there is one."""
        ended = self.marks.wait(numbers, self.plan.patience_seconds)
        if not self.peer.has_status:
            return ended
        deadline = time.monotonic() + self.plan.patience_seconds
        while not self.peer.settled(handles, numbers.stop):
            if time.monotonic() > deadline:
                raise TimeoutError("all jobs ran, but not all are done in the status store")
            time.sleep(0.005)
        return time.monotonic()

    def _latency(self) -> Figures:
        count = max(1, int(_RATE_PER_SECOND * self.plan.seconds))
        numbers = self.marks.take(count)
        submitted, seen, calls = [0.0] * count, [0.0] * count, [0.0] * count
        waiting: dict[int, Any] = {}
        handles: list[Any] = []
        began = time.monotonic()
        deadline = began + self.plan.seconds + self.plan.patience_seconds
        while len(handles) < count or (waiting and self.peer.has_status):
            due = began + len(handles) / _RATE_PER_SECOND
            if len(handles) < count and time.monotonic() >= due:
                index = len(handles)
                submitted[index] = time.monotonic()
                handles += self.peer.submit_each([numbers[index]])
                calls[index] = time.monotonic() - submitted[index]
                waiting[index] = handles[-1]
            if self.peer.has_status:
                self._look(waiting, seen)
            if time.monotonic() > deadline:
                raise TimeoutError("not all jobs of the latency phase became visible")
            time.sleep(0.001)
        self.marks.wait(numbers, self.plan.patience_seconds)
        bodies = [self.marks.at(number) - at for number, at in zip(numbers, submitted, strict=True)]
        figures = percentiles("call", calls) | percentiles("body", bodies)
        if self.peer.has_status:
            visible = [late - at for late, at in zip(seen, submitted, strict=True)]
            figures |= percentiles("visible", visible)
        return figures | self.peer.details(handles)

    def _look(self, waiting: dict[int, Any], seen: list[float]) -> None:
        for index in list(waiting):
            if self.peer.visible(waiting[index]):
                seen[index] = time.monotonic()
                del waiting[index]

    # -- what it costs --------------------------------------------------------------------------

    def _cpu(self) -> Figures:
        ours = {
            role: sum(tree.cpu_seconds() for tree in trees)
            for role, trees in self.peer.roles().items()
        }
        servers = {name: tree.cpu_seconds() for name, tree in self.services.items()}
        # This process submits, and nothing else; the workers are children with roles of their own.
        return {"producer": time.process_time(), **ours, **servers}

    def _memory(self, when: str) -> Figures:
        sizes = [tree.megabytes() for tree in self.peer.trees(["worker"])]
        return {
            f"memory_{when}_mb": sum(shared for shared, _ in sizes),
            f"memory_{when}_rss_mb": sum(resident for _, resident in sizes),
        }


def measure(kind: type[Peer], place: Place) -> Figures:
    """Start a peer, take it through the scenario, end it."""
    with_marks = Marks(place.path / "marks", slots_for(place))
    peer = kind(place)
    try:
        os.environ.update(peer.environment)
        peer.prepare()
        peer.start()
        return Scenario(peer, place, with_marks).run()
    except Exception as error:
        words = [one.last_words() for one in peer.running.values()]
        error.add_note("\n".join(word for word in words if word))
        raise
    finally:
        with suppress(Exception):
            peer.stop()


def slots_for(place: Place) -> int:
    """Numbers enough for all phases."""
    plan = place.plan
    once = int(_RATE_PER_SECOND * plan.seconds) + 10 * _WARM_UP_JOBS
    return 4 * plan.jobs + 4 * plan.bulk + once + plan.memory_jobs
