"""The loop that the relay and the scheduler share: steady work, honest failure, orderly stop."""

from __future__ import annotations

import faulthandler
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence

from django.db import close_old_connections, connection

from jobs import conf, presence

log = logging.getLogger("jobs.loop")

#: After so long without one success the process exits, so that its supervisor starts a clean one.
#: Long, because an outage of a server is not cured by that.
FAILING_SECONDS_TO_EXIT = 900.0
#: Pauses between failures: work goes on at most this long after the trouble is over, and trouble
#: that lasts costs about one try per pause.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.5
#: One turn that takes longer stands still, such as in a statement that a frozen server never
#: answers: no timeout of PostgreSQL's can end that. Above every bound of a healthy turn.
STUCK_SECONDS = 120.0
#: How exactly that is watched: to begin anew costs a thread, and turns may be short and many.
GUARD_SECONDS = 1.0
#: By its number, because ``sys.stderr`` may be anything.
STDERR = 2


class Loop:
    """Calls ``step`` until SIGTERM or SIGINT. ``step`` returns whether to go on without waiting.

    The beat says that the process lives; the row in the registry is renewed by success alone.
    """

    def __init__(self, kind: str, step: Callable[[], bool], rest: Callable[[], None]) -> None:
        self._kind = kind
        self._step = step
        self._rest = rest
        self._announced_at = self._guarded_at = float("-inf")
        self._succeeded_at = time.monotonic()
        self._failures = 0
        self.ended = threading.Event()

    def run(self) -> int:
        """Run until asked to stop. Returns the exit code: 1 after failing for too long."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ended.set())
        self._succeeded_at = time.monotonic()
        while not self.ended.is_set() and not self._is_hopeless():
            self._guard()
            ready, note = not self._failures, f"{self._failures} failures in a row"
            presence.beat(self._kind, ready=ready, note=note)
            self._turn()
        self._withdraw()
        faulthandler.cancel_dump_traceback_later()
        presence.forget_beat(self._kind)
        return 0 if self.ended.is_set() else 1

    def _guard(self) -> None:
        """The turn that begins now may take ``STUCK_SECONDS``, up to ``GUARD_SECONDS`` less."""
        now = time.monotonic()
        if now - self._guarded_at >= GUARD_SECONDS:
            faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True, file=STDERR)
            self._guarded_at = now

    def _is_hopeless(self) -> bool:
        failing = time.monotonic() - self._succeeded_at
        return self._failures > 0 and failing > FAILING_SECONDS_TO_EXIT

    def _turn(self) -> None:
        try:
            close_old_connections()
            again = self._step()
            self._announce()
            self._failures, self._succeeded_at = 0, time.monotonic()
            if not again:
                self._rest()
        except Exception as error:
            self._failures += 1
            log.warning("%s: %s: %s", self._kind, type(error).__name__, error)
            connection.close()
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 5))
            self.ended.wait(pause * random.uniform(0.5, 1))

    def _announce(self) -> None:
        if time.monotonic() - self._announced_at > conf.get().worker_stale_seconds / 3:
            presence.announce(self._kind)
            self._announced_at = time.monotonic()

    def _withdraw(self) -> None:
        try:
            presence.withdraw()
        except Exception as error:
            log.warning("%s: stop not recorded: %s", self._kind, error)


def run_all(duties: Sequence[Callable[[], object]]) -> None:
    """Run every duty, also after one has failed, and raise what the first failure raised."""
    failed: Exception | None = None
    for duty in duties:
        try:
            duty()
        except Exception as error:
            failed = failed or error
            connection.close()
    if failed is not None:
        raise failed
