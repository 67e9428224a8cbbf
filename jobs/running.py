"""One attempt while it runs: the handler's context, and the switchboard that can stop it.

Two threads meet here. The handler's thread writes progress and lines; the heart's thread reads them
and may ask the handler to stop. An exception is injected into the handler's thread only between
``enter`` and ``leave``, so it can never land inside a transaction of the engine.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import tempfile
import threading
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from jobs import conf, files
from jobs.context import Context
from jobs.errors import HandlerSignal, JobCancelled
from jobs.policy import clipped
from jobs.values import Artifact, Attempt, Beat, LogLine

_LEVELS = frozenset({"debug", "info", "warning", "error"})


class Run(Context, AbstractContextManager["Run"]):
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
        self.signal: HandlerSignal | None = None
        self.draining = False
        self.artifacts: list[Artifact] = []
        self._lines: list[LogLine] = []
        self._line_count = 0
        self._shown: tuple[float, str] | None = None
        self._lock = threading.Lock()
        self._thread_id: int | None = None
        self._injected = False
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

    def open_upload(self, upload_id: UUID) -> Path:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="interlock-")
        return files.open_upload(upload_id, self.owner_id, Path(self._scratch.name))

    def resolve_path(self, path: str) -> Path:
        return files.resolve_path(path)

    # -- the region in which the handler may be interrupted

    def __enter__(self) -> Self:
        with self._lock:
            self.began_at = time.monotonic()
            self._thread_id = threading.get_ident()
        if threading.current_thread() is threading.main_thread():
            # Gives blocking system calls of the main thread a reason to return (PEP 475).
            signal.signal(signal.SIGURG, _nothing)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def close(self) -> None:
        """Leave the region for good; an exception already on its way is swallowed or cleared."""
        while True:
            try:
                with self._lock:
                    if self._injected and self._thread_id is not None:
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(
                            ctypes.c_ulong(self._thread_id), None
                        )
                    self._thread_id = None
                return
            except HandlerSignal:
                continue

    def bind(self, task: asyncio.Task[object]) -> None:
        """An async handler is stopped by cancelling its task instead."""
        self._task = task

    # -- the heart's side

    def ask(self, reason: HandlerSignal) -> None:
        """Ask the handler to stop; it hears of it at its next ``check`` or ``progress``."""
        if self.signal is None:
            self.signal = reason
            self.asked_at = time.monotonic()

    def interrupt(self) -> None:
        """Raise the signal inside the handler, wherever it is, if it is still running."""
        with self._lock:
            if self._thread_id is None or self.signal is None:
                return
            if self._task is not None:
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)
                return
            self._injected = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread_id), ctypes.py_object(type(self.signal))
            )
            if self._thread_id == threading.main_thread().ident:
                signal.pthread_kill(self._thread_id, signal.SIGURG)

    def beat(self) -> Beat:
        """What to tell the database now. Lines are taken; ``give_back`` returns them."""
        with self._lock:
            lines, self._lines = tuple(self._lines), []
            shown, self._shown = self._shown, None
        fraction, message = shown or (None, "")
        return Beat(self.job_id, self.token, fraction, message, lines)

    def give_back(self, beat: Beat) -> None:
        """Undo ``beat`` after it could not be stored."""
        with self._lock:
            self._lines[:0] = beat.lines
            if self._shown is None and beat.fraction is not None:
                self._shown = (beat.fraction, beat.message)

    def ran_seconds(self) -> float:
        """Time since the handler began; 0 while it waits its turn."""
        return 0.0 if self.began_at is None else time.monotonic() - self.began_at


def _nothing(*_: object) -> None:
    """A signal handler whose only purpose is to run some bytecode."""
