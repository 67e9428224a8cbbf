"""The processes that run attempts: what may be done to each when a handler cannot be stopped.

``prefork`` has one attempt at a time in a child that the pool replaces. ``solo`` has one at a time
in the worker's only process. ``threads`` has many in that process, and none of the others may be
hurt. In any other process, such as a test's, nothing is ended.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from jobs import conf
from jobs.shield import Shield

log = logging.getLogger("jobs.hosts")

_LOOK_SECONDS = 0.05


class Host:
    """A process that belongs to somebody else."""

    #: Whether ``end`` really ends the process, soon or at once.
    ends = False

    @property
    def told_to_end(self) -> SystemExit | None:
        """What a signal has raised, in a handler, to end this process."""
        return None

    @property
    def signal_waits(self) -> bool:
        """Whether the shield holds a signal back."""
        return False

    def raise_shield(self) -> None:
        """Signals shall not interrupt what follows."""

    def block_signals(self) -> None:
        """Nor shall they end the process: what follows is a transaction. Raises the shield."""

    def lower_shield(self) -> None:
        """Signals may interrupt again, and those that were held back do so here."""

    def tidy(self) -> None:
        """After each handler: take away what it left that would strike somebody else."""

    def end(self, busy: Callable[[], bool]) -> None:
        """End the process with an error, for its supervisor to replace it.

        The stuck attempt is recorded before. ``busy`` says whether other attempts still need the
        process. May return, and then does its work beside the caller.
        """

    def leave(self) -> None:
        """Called when the worker has stopped in order."""


class _Worker(Host):
    ends = True

    def __init__(self) -> None:
        self._shield = Shield()

    @property
    def told_to_end(self) -> SystemExit | None:
        return self._shield.told_to_end

    @property
    def signal_waits(self) -> bool:
        return self._shield.waits

    def raise_shield(self) -> None:
        self._shield.up()

    def block_signals(self) -> None:
        self._shield.block()

    def lower_shield(self) -> None:
        self._shield.down()

    def tidy(self) -> None:
        """A handler's timer must not go off in another job."""
        if threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._shield.forget(signal.SIGALRM)


class PreforkChild(_Worker):
    """Killed, because it may be stuck where nothing else reaches it; the pool forks another."""

    def end(self, busy: Callable[[], bool]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Solo(_Worker):
    """The worker's only process leaves at once, without the clean-up that it is stuck before."""

    def end(self, busy: Callable[[], bool]) -> None:
        log.critical("the worker ends: its handler cannot be stopped")
        os._exit(os.EX_SOFTWARE)


class Threads(_Worker):
    """Stops taking jobs, lets the neighbours finish or hand back, and leaves without the stuck one.

    A thread cannot be killed, and Python waits for all of them before it exits. So the worker is
    stopped as by its supervisor, and a watcher ends the process when nobody but the stuck handler
    is left, or after the time in which everybody else has been stopped.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._is_ending = False

    def end(self, busy: Callable[[], bool]) -> None:
        with self._lock:
            if self._is_ending:
                return
            self._is_ending = True
        log.critical("the worker stops and will end: a handler's thread cannot be stopped")
        watcher = threading.Thread(target=self._watch, args=(busy,), name="jobs-end", daemon=True)
        watcher.start()
        os.kill(os.getpid(), signal.SIGTERM)

    def leave(self) -> None:
        if self._is_ending:
            os._exit(os.EX_SOFTWARE)

    def _watch(self, busy: Callable[[], bool]) -> None:
        settings = conf.get()
        ends = time.monotonic() + (
            settings.drain_grace_seconds
            + 2 * settings.stop_grace_seconds
            + 3 * settings.heartbeat_seconds
        )
        while busy() and time.monotonic() < ends:
            time.sleep(_LOOK_SECONDS)
        os._exit(os.EX_SOFTWARE)
