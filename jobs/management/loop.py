"""The loop that the relay and the scheduler share: steady work, honest failure, orderly stop."""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Callable

from django.db import close_old_connections, connection

from jobs import conf, presence

log = logging.getLogger("jobs.loop")

#: Consecutive failures after which the process exits, so that its supervisor starts a clean one.
FAILURES_TO_EXIT = 60


class Loop:
    """Calls ``step`` until SIGTERM or SIGINT. ``step`` returns whether to go on without waiting."""

    def __init__(self, kind: str, step: Callable[[], bool], rest: Callable[[], None]) -> None:
        self._kind = kind
        self._step = step
        self._rest = rest
        self._announced_at = float("-inf")
        self.ended = threading.Event()

    def run(self) -> int:
        """Run until asked to stop. Returns the exit code: 1 after too many failures in a row."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ended.set())
        failures = 0
        while not self.ended.is_set() and failures < FAILURES_TO_EXIT:
            try:
                close_old_connections()
                self._announce()
                again = self._step()
                failures = 0
                if not again:
                    self._rest()
            except Exception as error:
                failures += 1
                log.warning("%s: %s: %s", self._kind, type(error).__name__, error)
                connection.close()
                self.ended.wait(min(5.0, 0.2 * 2 ** min(failures, 5)) * random.uniform(0.5, 1))
        self._withdraw()
        return 1 if failures else 0

    def _announce(self) -> None:
        if time.monotonic() - self._announced_at > conf.get().worker_stale_seconds / 3:
            presence.announce(self._kind)
            self._announced_at = time.monotonic()

    def _withdraw(self) -> None:
        try:
            presence.withdraw()
        except Exception as error:
            log.warning("%s: stop not recorded: %s", self._kind, error)
