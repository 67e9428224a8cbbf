"""Holds signals back while a transaction of the engine is under way.

Python runs signal handlers in the main thread, between any two bytecodes, and those of a pool
raise: SoftTimeLimitExceeded, SystemExit. Raised around a COMMIT, they would leave the engine
believing the opposite of what is stored.

To block the signals in the main thread is half of it: the kernel then gives them to another thread,
such as one that a handler has left behind, and Python runs the handler in the main thread all the
same. So handlers are wrapped as well, once for the life of the process, and a wrapped one only
notes its signal while the shield is up. Blocking is what holds back those that have no handler and
would end the process. It costs two system calls, so it is left to those who begin a transaction:
between two jobs of a message a process may end as well as within one.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # CPython's own part of signal, not in typeshed
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

#: What pools, supervisors and timers send; SIGKILL and SIGSTOP cannot be held back.
SIGNALS = frozenset(
    {
        signal.SIGUSR1,
        signal.SIGTERM,
        signal.SIGQUIT,
        signal.SIGINT,
        signal.SIGALRM,
        signal.SIGHUP,
        signal.SIGUSR2,
    }
)

#: As ``signal.getsignal``, without a search in an enumeration for what it returns. The search takes
#: twenty times as long as the rest, and this is asked eight times for every job.
handler_of: Callable[[int], Any] = _signal.getsignal


def leave_to_others() -> None:
    """Block the signals in this thread, of the engine's own: the main thread's shield is of no use
    if the kernel gives them to one that works in a transaction."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


class Shield:
    """Up while the engine works in the main thread, down while a handler does.

    Without effect in other threads, where Python never runs a signal handler. Each call may be
    repeated.
    """

    def __init__(self) -> None:
        self._up = False
        self._noted: list[int] = []
        self._before: set[Any] | None = None
        #: What a signal's handler has raised to end the process.
        self.told_to_end: SystemExit | None = None

    @property
    def waits(self) -> bool:
        """Whether a signal is held back now."""
        return bool(self._noted) or bool(self._before is not None and signal.sigpending() & SIGNALS)

    def up(self) -> None:
        """Hold back, from now on, signals that have handlers."""
        if self._up or not _is_main_thread():
            return
        self._up = True
        try:
            self._wrap()
        except BaseException:
            # A handler that was not wrapped yet has raised.
            self._up = False
            raise

    def block(self) -> None:
        """Hold back the others as well, which would end the process. Puts the shield up."""
        self.up()
        if self._before is None and _is_main_thread():
            self._before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def down(self) -> None:
        """Deliver what was held back; raises whatever the signals' handlers raise."""
        if not self._up or not _is_main_thread():
            return
        if self._before is not None:
            # What waited in the kernel arrives here, and is noted like the rest.
            signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
            self._before = None
        self._up = False
        self._deliver()

    def forget(self, number: signal.Signals) -> None:
        """Drop this signal if it is held back."""
        self._noted = [noted for noted in self._noted if noted != number]
        if self._before is not None and number in signal.sigpending():
            signal.sigtimedwait([number], 0)

    def arrived(
        self,
        number: int,
        frame: FrameType | None,
        handler: Callable[[int, FrameType | None], Any],
    ) -> None:
        """Note the signal while the shield is up; else let its handler do what it does."""
        if self._up:
            if number not in self._noted:
                self._noted.append(number)
            return
        try:
            handler(number, frame)
        except SystemExit as told:
            self.told_to_end = told
            raise

    def _wrap(self) -> None:
        for number in SIGNALS:
            current = handler_of(number)
            if callable(current) and not isinstance(current, _Wrapped):
                signal.signal(number, _Wrapped(self, current))

    def _deliver(self) -> None:
        if self._noted:
            try:
                signal.raise_signal(self._noted.pop())
            finally:
                self._deliver()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Wrapped:
    """A signal handler behind a shield."""

    def __init__(self, shield: Shield, handler: Callable[[int, FrameType | None], Any]) -> None:
        self._shield = shield
        self._handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._shield.arrived(number, frame, self._handler)
