"""Keep a few named processes running: restart the crashed, stop them in order.

Output goes straight into one file per process. No pipe leads through the supervisor, so it can
neither stall a child nor take its last words along when it is killed.
"""

from __future__ import annotations

import math
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from interlock.local import processes

MAX_LOG_BYTES = 10 * 1024 * 1024
TICK_SECONDS = 0.1

NoticeKind = Literal["started", "exited", "stopping", "stopped", "killed"]


@dataclass(frozen=True, slots=True)
class Command:
    """One process to keep running. `stop_seconds` bounds its orderly shutdown.

    `repeat_seconds` is for a program that loses a stop signal which arrives while it starts: the
    signal is then sent again at that interval. Not for Celery, where a second one says "at once".
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    stop_seconds: float = 10.0
    repeat_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the n-th restart in a row; a run of `healthy_seconds` clears n."""

    base_seconds: float = 0.5
    cap_seconds: float = 15.0
    healthy_seconds: float = 20.0

    def delay_seconds(self, crashes: int) -> float:
        """For the first crash the base, then doubling up to the cap."""
        return float(min(self.cap_seconds, self.base_seconds * 2 ** max(0, min(crashes, 32) - 1)))


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that happened to a child. `code` is set for "exited", `seconds` till restart."""

    kind: NoticeKind
    name: str
    pid: int
    code: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Child:
    command: Command
    process: subprocess.Popen[bytes] | None = None
    record: processes.Record | None = None
    since: float = 0.0
    crashes: int = 0
    restart_at: float = field(default=0.0)


class Supervisor:
    """`run` belongs to one thread; `request_stop` and `kill_now` may come from any other.

    Children are started and restarted from the thread that calls `run`, and the kernel ends them
    should that thread end first.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        logs: Path,
        *,
        notify: Callable[[Notice], None] = lambda _notice: None,
        backoff: Backoff | None = None,
    ) -> None:
        """`notify` is called from the running thread and must not block."""
        self._children = [_Child(command) for command in commands]
        self._logs = logs
        self._notify = notify
        self._backoff = backoff or Backoff()
        self._stop = threading.Event()
        self._kill = threading.Event()

    def request_stop(self) -> None:
        """Stop in order, each child with its own grace."""
        self._stop.set()

    def kill_now(self) -> None:
        """No more grace for anybody."""
        self._kill.set()
        self._stop.set()

    def crashes(self, name: str) -> int:
        """How often in a row a child has crashed without a healthy run in between."""
        return next(child.crashes for child in self._children if child.command.name == name)

    def log_file(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def run(self) -> int:
        """Until a stop is asked for. Returns 0 when every child stopped within its grace, else 1.

        Whatever happens in here, no child is left behind.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        clean = False
        try:
            while not self._stop.is_set():
                self._tick()
                self._stop.wait(TICK_SECONDS)
            clean = self._stop_in_order()
        finally:
            for child in self._children:
                self._kill_child(child)
        return 0 if clean else 1

    # -- while running --------------------------------------------------------------------------

    def _tick(self) -> None:
        for child in self._children:
            if child.process is None:
                if time.monotonic() >= child.restart_at:
                    self._start(child)
            elif child.process.poll() is not None:
                self._after_exit(child, child.process)

    def _start(self, child: _Child) -> None:
        command = child.command
        log = self.log_file(command.name)
        if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.old"))
        child.process = processes.spawn(
            command.argv, cwd=command.cwd, env=command.env, log=log, leashed=True
        )
        child.record = processes.Record.of(child.process.pid)
        child.since = time.monotonic()
        self._notify(Notice("started", command.name, child.process.pid))

    def _after_exit(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        # A pool whose main process was killed would work on beside its successor.
        processes.kill_all(processes.session_members(process.pid))
        if time.monotonic() - child.since >= self._backoff.healthy_seconds:
            child.crashes = 0
        child.crashes += 1
        delay = self._backoff.delay_seconds(child.crashes)
        child.process, child.record = None, None
        child.restart_at = time.monotonic() + delay
        code = process.returncode
        self._notify(Notice("exited", child.command.name, process.pid, code, delay))

    # -- stopping -------------------------------------------------------------------------------

    def _stop_in_order(self) -> bool:
        """Last started first: who takes new work stops before who works it off."""
        clean = [self._stop_child(child) for child in reversed(self._children)]
        return all(clean)

    def _stop_child(self, child: _Child) -> bool:
        if child.process is None or child.record is None:
            return True
        name, pid = child.command.name, child.process.pid
        if self._kill.is_set():
            self._kill_child(child)
            return False
        self._notify(Notice("stopping", name, pid))
        # To the main process alone: the children of a worker pool must not get the signal, their
        # parent tells them when the job in hand is done.
        deadline = time.monotonic() + child.command.stop_seconds
        next_signal = 0.0
        while child.process.poll() is None:
            if time.monotonic() >= next_signal:
                processes.send(child.record, signal.SIGTERM)
                next_signal = time.monotonic() + (child.command.repeat_seconds or math.inf)
            if self._kill.wait(0.02) or time.monotonic() > deadline:
                self._kill_child(child)
                return False
        self._notify(Notice("stopped", name, pid))
        self._kill_child(child)
        return True

    def _kill_child(self, child: _Child) -> None:
        """End the main process if it lives, and whoever is left of its session."""
        if child.process is None or child.record is None:
            return
        pid = child.process.pid
        alive = child.process.poll() is None
        family = [child.record, *processes.descendants(child.record)]
        processes.kill_all([*family, *processes.session_members(pid)])
        child.process.wait()
        child.process, child.record = None, None
        if alive:
            self._notify(Notice("killed", child.command.name, pid))
