"""News that can wait for a moment, because the next ones usually overtake them.

A claim is told to readers ``DELAY_SECONDS`` later, by a thread beside the handlers. Most jobs have
ended by then, and their end is told at once: one round trip to Redis for a short job instead of
two, and none before its handler begins.

The relay is told of a submit at once, and of those that soon follow together: it is busy then, and
looks again in any case.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from jobs.shield import leave_to_others
from jobs.values import Born, StatusView

log = logging.getLogger("jobs.announcing")

#: How much later than the commit readers may hear of it.
DELAY_SECONDS = 0.04

Tell = Callable[[Sequence[StatusView]], None]


class Announcer:
    """One per process, also after a fork. Safe to use from several threads."""

    def __init__(self, tell: Tell) -> None:
        """``tell`` is called in the thread, with what nothing has overtaken."""
        self._tell = tell
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._waiting: dict[UUID, StatusView] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, views: Iterable[StatusView]) -> None:
        """Tell these soon."""
        if self._pid != os.getpid():
            # What the parent has not told is still the parent's to tell.
            self._begin()
        with self._changed:
            self._waiting.update((view.job_id, view) for view in views)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._loop, name="jobs-announcer", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def overtake(self, views: Iterable[StatusView]) -> None:
        """Newer news of these jobs are being told."""
        if self._waiting:
            with self._changed:
                for view in views:
                    self._waiting.pop(view.job_id, None)

    def _loop(self) -> None:
        leave_to_others()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
            time.sleep(DELAY_SECONDS)
            with self._changed:
                views, self._waiting = list(self._waiting.values()), {}
            if views:
                self._announce(views)

    def _announce(self, views: Sequence[StatusView]) -> None:
        try:
            self._tell(views)
        except Exception:
            log.exception("news of %d jobs were lost", len(views))


class Ringer:
    """Tells of submits; one per process, also after a fork. Safe to use from several threads.

    What waits when the process exits is told then; when it is killed, not at all.
    """

    def __init__(
        self, tell: Callable[[Sequence[Born]], None], quiet_seconds: Callable[[], float]
    ) -> None:
        """``tell`` gets the jobs of a submit, in the thread of whoever submits. If it was called
        less than ``quiet_seconds`` before, it is called without any once they are over, in a thread
        of its own, for all submits until then."""
        self._tell = tell
        self._quiet_seconds = quiet_seconds
        self._begin()
        atexit.register(self.flush)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._quiet_until = float("-inf")
        self._waits = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def ring(self, jobs: Sequence[Born]) -> None:
        """These jobs were submitted. Raises what telling of them at once raises."""
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            now = time.monotonic()
            if now < self._quiet_until:
                self._defer()
                return
            self._waits = False
            self._quiet_until = now + self._quiet_seconds()
        self._tell(jobs)

    def is_ready(self) -> bool:
        """Whether ``ring`` would tell at once."""
        return self._pid != os.getpid() or time.monotonic() >= self._quiet_until

    def _defer(self) -> None:
        if self._waits:
            return
        self._waits = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="jobs-ringer", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _loop(self) -> None:
        leave_to_others()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waits)
                left = self._quiet_until - time.monotonic()
            time.sleep(max(0.0, left))
            self.flush()

    def flush(self) -> None:
        if self._pid != os.getpid():
            return
        with self._changed:
            if not self._waits:
                return
            self._waits = False
            self._quiet_until = time.monotonic() + self._quiet_seconds()
        try:
            self._tell(())
        except Exception:
            log.exception("the relay was not told of some submits")
