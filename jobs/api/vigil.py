"""Who waits for which job in this process, and the looks that all of them share.

A wait costs a future and, per job, a subscription. Nobody is told anything here but that it is time
to ask again: what a client may see is decided where it always is.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from django.db import close_old_connections, connections

from jobs import status_reader
from jobs.news import Listener
from jobs.status import Copy
from jobs.status_reader import NOTHING_SEEN, Rank

log = logging.getLogger("jobs.vigil")

#: Jobs of one look: one round trip to Redis, and at most one query.
_AT_ONCE = 500
#: Pace of taking those whose turn it is to be looked at again.
_TICK_SECONDS = 0.2

#: Set to True when there is nothing left to wait for, to False on news.
Waiter = asyncio.Future[bool]


class _Subject:
    """A job that somebody waits for."""

    def __init__(self) -> None:
        self.waiters: dict[Waiter, Rank] = {}
        #: What the last look found: the rank, and whether the job had ended.
        self.rank = NOTHING_SEEN
        self.is_over = False

    def found(self, copy: Copy) -> None:
        if copy.rank != self.rank:
            self.rank, self.is_over = copy.rank, status_reader.is_final(copy)
        for waiter in list(self.waiters):
            self.tell(waiter)

    def tell(self, waiter: Waiter) -> None:
        """Wake who has something older, or waits for a job that has ended."""
        if not waiter.done() and (self.is_over or self.rank > self.waiters[waiter]):
            waiter.set_result(self.is_over)

    def dismiss(self) -> None:
        """Wake everybody: whatever there is to say, it is said to who asks."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(True)


class Vigil:
    """Used from one event loop only."""

    def __init__(self) -> None:
        self._subjects: OrderedDict[UUID, _Subject] = OrderedDict()
        self._urgent: set[UUID] = set()
        self._bell = asyncio.Event()
        self._listener = Listener(self._look_soon)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jobs-vigil")
        self._is_closed = False
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen and look from now on."""
        self._listener.start()
        self._looking = asyncio.create_task(self._look_on())

    async def stop(self) -> None:
        """Wake all, and leave nothing running."""
        self.close()
        await self._listener.stop()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await asyncio.get_running_loop().run_in_executor(self._thread, connections.close_all)
        await asyncio.to_thread(self._thread.shutdown)

    def enter(self, job_id: UUID, rank: Rank) -> Waiter:
        """A future that is done once there is more of this job than ``rank``. Leave afterwards."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        if self._is_closed:
            waiter.set_result(True)
            return waiter
        subject = self._subjects.get(job_id)
        if subject is None:
            subject = self._subjects[job_id] = _Subject()
            if not self._listener.add(job_id):
                self._look_soon(job_id)
        subject.waiters[waiter] = rank
        subject.tell(waiter)
        return waiter

    def leave(self, job_id: UUID, waiter: Waiter) -> None:
        """Forget one; it costs nothing from now on."""
        subject = self._subjects.get(job_id)
        if subject is None:
            return
        subject.waiters.pop(waiter, None)
        if not subject.waiters:
            del self._subjects[job_id]
            self._listener.discard(job_id)

    def close(self) -> None:
        """Wake all, and let nobody wait from now on."""
        self._is_closed = True
        for subject in self._subjects.values():
            subject.dismiss()

    def _look_soon(self, job_id: UUID) -> None:
        self._urgent.add(job_id)
        self._bell.set()

    async def _look_on(self) -> None:
        loop = asyncio.get_running_loop()
        before, due = loop.time(), 0.0
        while True:
            await self._ring_or_tick()
            now = loop.time()
            due = min(due + self._turns(now - before), float(len(self._subjects)))
            before = now
            for _ in range(int(due)):
                self._urgent.add(next(iter(self._subjects)))
                self._subjects.move_to_end(next(iter(self._subjects)))
            due -= int(due)
            while self._urgent:
                await self._look(self._taken())

    async def _ring_or_tick(self) -> None:
        try:
            async with asyncio.timeout(_TICK_SECONDS * random.uniform(0.5, 1.5)):
                await self._bell.wait()
        except TimeoutError:
            return
        self._bell.clear()

    def _turns(self, seconds: float) -> float:
        """How many jobs are to be looked at again after this time, so that each has its turn."""
        works = self._listener.works
        pace = status_reader.LOOK_AGAIN_SECONDS if works else status_reader.PACE_SECONDS
        return seconds * len(self._subjects) / pace

    def _taken(self) -> dict[UUID, Rank]:
        """Some of the urgent ones, with the highest rank that somebody was shown of each."""
        ids = [self._urgent.pop() for _ in range(min(_AT_ONCE, len(self._urgent)))]
        subjects = {job_id: self._subjects[job_id] for job_id in ids if job_id in self._subjects}
        return {
            job_id: max(subject.waiters.values(), default=NOTHING_SEEN)
            for job_id, subject in subjects.items()
        }

    async def _look(self, shown: Mapping[UUID, Rank]) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._thread, _copies, shown)
        except Exception as error:
            # Whoever waits is told what is wrong by asking again, as any other client would be.
            log.warning("%s jobs could not be looked at: %s", len(shown), error)
            found = {}
        for job_id in shown:
            subject = self._subjects.get(job_id)
            copy = found.get(job_id)
            if subject is not None and copy is not None:
                subject.found(copy)
            elif subject is not None:
                subject.dismiss()


def _copies(shown: Mapping[UUID, Rank]) -> dict[UUID, Copy]:
    try:
        return status_reader.many(list(shown), shown)
    finally:
        close_old_connections()
