"""One attempt while it runs: the handler's context, and the switchboard that can stop it.

Two threads meet here. The handler's thread writes progress and lines; the heart's thread reads them
and may ask the handler to stop. An exception is injected into the handler's thread only while it is
``inside``, so it can never land inside a transaction of the engine.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from jobs import conf, files
from jobs.context import Context
from jobs.errors import HandlerSignal, JobCancelled
from jobs.policy import clipped
from jobs.shield import handler_of
from jobs.values import Artifact, Attempt, Beat, LogLine

T = TypeVar("T")

_LEVELS = frozenset({"debug", "info", "warning", "error"})

#: How often an exception is raised inside one handler. A bound, because each needs a clause around
#: the region that stops it (``Run.inside``); more than one, because a handler may swallow one by
#: accident, or it may land in a ``__del__``, where Python drops it.
INTERRUPTS = 3


class Run(Context):
    """A held attempt. Also the region in which its handler may be interrupted."""

    def __init__(self, attempt: Attempt, timeout_seconds: float) -> None:
        self.claimed = attempt
        self.job_id = attempt.job_id
        self.attempt = attempt.attempt
        self.token = attempt.token
        self.handler = attempt.handler
        self.owner_id = attempt.owner_id
        self.timeout_seconds = timeout_seconds
        self.began_at: float | None = None
        self.asked_at: float | None = None
        self.interrupted_at: float | None = None
        self.signal: HandlerSignal | None = None
        self.draining = False
        self.ended = False
        """The handler is done; its outcome may not be recorded yet."""
        self.over = False
        """The attempt was ended from outside: its handler has not come back, or never began."""
        self.group: tuple[Run, ...] = ()
        """The attempts of one message, which have their turns in one thread; while it is held."""
        self.artifacts: list[Artifact] = []
        self.writes: list[Callable[[], None]] = []
        self._lines: list[LogLine] = []
        self._line_count = 0
        self._shown: tuple[float, str] | None = None
        self._lock = threading.Lock()
        self._thread_id: int | None = None
        self._interrupts = 0
        self._interrupt_again_at = 0.0
        self._lines_repeat = False
        self._task: asyncio.Task[object] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    # -- the handler's side

    @property
    def cancelled(self) -> bool:
        return isinstance(self.signal, JobCancelled)

    @property
    def stopping(self) -> bool:
        return self.draining

    def check(self) -> None:
        if self.signal is not None:
            raise self.signal

    def progress(self, fraction: float, message: str = "") -> None:
        self._shown = (min(1.0, max(0.0, float(fraction))), clipped(str(message), 500))
        self.check()

    def log(self, message: str, level: str = "info") -> None:
        if level not in _LEVELS:
            raise ValueError(f"level {level!r}: one of {', '.join(sorted(_LEVELS))}")
        limit = conf.get().log_lines_limit
        self._line_count += 1
        if self._line_count > limit:
            return
        if self._line_count == limit:
            level, message = "warning", f"only {limit} lines of an attempt are kept"
        line = LogLine(datetime.now(UTC), level, clipped(str(message), 10_000))
        with self._lock:
            self._lines.append(line)

    def artifact(self, name: str, content: bytes | Path, media_type: str) -> None:
        if any(artifact.name == name for artifact in self.artifacts):
            raise ValueError(f"this attempt already has an artifact {name!r}")
        self.artifacts.append(files.store_artifact(self.claimed, name, content, media_type))

    def on_completion(self, write: Callable[[], None]) -> None:
        self.writes.append(write)

    def open_upload(self, upload_id: UUID) -> Path:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="interlock-")
        return files.open_upload(upload_id, self.owner_id, Path(self._scratch.name))

    def resolve_path(self, path: str) -> Path:
        return files.resolve_path(path)

    # -- the region in which the handler may be interrupted

    def inside(self, work: Callable[[], T]) -> T:
        """Call ``work`` where it may be interrupted; returns or raises only once that is over.

        An exception on its way may strike at any bytecode until ``close`` has succeeded, also
        within ``close``. So there is one clause more that closes than exceptions that can come, and
        whichever of them is struck leaves the closing to the next. Raises the signal at once if the
        attempt was asked to stop before its turn came.
        """
        try:
            try:
                try:
                    try:
                        try:
                            return self._interruptible(work)
                        finally:
                            self.close()
                    finally:
                        self.close()
                finally:
                    self.close()
            finally:
                self.close()
        finally:
            self.ended = True
            if self._scratch is not None:
                self._scratch.cleanup()

    def _interruptible(self, work: Callable[[], T]) -> T:
        if (
            threading.current_thread() is threading.main_thread()
            and handler_of(signal.SIGURG) is not _nothing
        ):
            # Gives blocking system calls of the main thread a reason to return (PEP 475).
            signal.signal(signal.SIGURG, _nothing)
        pid = os.getpid()
        with self._lock:
            if self.signal is not None:
                raise self.signal
            self.began_at = time.monotonic()
            self._thread_id = threading.get_ident()
        try:
            return work()
        finally:
            if os.getpid() != pid:
                # A child that the handler forked, with copies of our locks and connections, would
                # go on as a second worker with the same token.
                os._exit(os.EX_SOFTWARE)

    def close(self) -> None:
        """Leave the region for good; an exception that was injected but has not struck is gone."""
        thread_id = self._thread_id
        if thread_id is None:
            return
        with self._lock:
            if self._interrupts:
                _inject(thread_id, None)
            self._thread_id = None

    def bind(self, task: asyncio.Task[object]) -> None:
        """An async handler is stopped by cancelling its task instead."""
        self._task = task

    # -- the heart's side

    def ask(self, reason: HandlerSignal) -> None:
        """Ask the handler to stop; it hears of it at its next ``check`` or ``progress``."""
        with self._lock:
            if self.signal is None:
                self.signal = reason
                self.asked_at = time.monotonic()

    def will_not_begin(self) -> bool:
        """Whether it was asked to stop before its turn came: its handler is never called."""
        with self._lock:
            return self.signal is not None and self.began_at is None

    def interrupt(self, pause_seconds: float = 0.0) -> None:
        """Raise the signal inside the handler, wherever it is, if it is still running.

        Called again and again, it raises at most ``INTERRUPTS`` times, ``pause_seconds`` apart, so
        that a handler can clean up in between.
        """
        with self._lock:
            if self._thread_id is None or self.signal is None:
                return
            now = time.monotonic()
            self.interrupted_at = self.interrupted_at or now
            if self._interrupts < INTERRUPTS and now >= self._interrupt_again_at:
                self._interrupts += 1
                self._interrupt_again_at = now + pause_seconds
                if self._interrupts > 1 or not self._cancel_task():
                    _inject(self._thread_id, type(self.signal))
            if self._thread_id == threading.main_thread().ident:
                # Each time: a signal that arrives just before a system call does not end it.
                signal.pthread_kill(self._thread_id, signal.SIGURG)

    def _cancel_task(self) -> bool:
        """Whether there is an event loop that will hear of it."""
        if self._task is None:
            return False
        try:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        except RuntimeError:
            return False  # the loop is closed: what runs is its clean-up
        return True

    def beat(self) -> Beat:
        """What to tell the database now. Lines are taken; ``give_back`` returns them."""
        with self._lock:
            lines, self._lines = tuple(self._lines), []
            shown, self._shown = self._shown, None
            repeat, self._lines_repeat = self._lines_repeat, False
        fraction, message = shown or (None, "")
        return Beat(self.job_id, self.token, fraction, message, lines, repeat)

    def give_back(self, beat: Beat) -> None:
        """Undo ``beat`` after it could not be stored."""
        with self._lock:
            self._lines[:0] = beat.lines
            self._lines_repeat |= bool(beat.lines)
            if self._shown is None and beat.fraction is not None:
                self._shown = (beat.fraction, beat.message)

    def ran_seconds(self) -> float:
        """Time since the handler began; 0 while it waits its turn."""
        return 0.0 if self.began_at is None else time.monotonic() - self.began_at


def _inject(thread_id: int, kind: type[BaseException] | None) -> None:
    """Raise ``kind`` in that thread at its next bytecode; None takes back what has not struck."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id), None if kind is None else ctypes.py_object(kind)
    )


def _nothing(*_: object) -> None:
    """A signal handler whose only purpose is to run some bytecode."""
