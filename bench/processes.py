"""Process trees of a measurement: start, freeze, measure, end. Only what was started here."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_STOP_SECONDS = 20.0


class Tree:
    """A process and its children, by the process id of the first."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def members(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """User and system time of all of them, of reaped children too."""
        total = 0.0
        for one in self.members():
            with suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def megabytes(self) -> tuple[float, float]:
        """Memory in MB: shared pages counted once (PSS), and counted in each process (RSS).

        Without PSS (not on Linux, or not allowed to look) both are the second.
        """
        shared, resident = 0, 0
        for one in self.members():
            with suppress(psutil.NoSuchProcess):
                rss = one.memory_info().rss
                resident += rss
                try:
                    shared += int(getattr(one.memory_full_info(), "pss", rss))
                except psutil.AccessDenied:
                    shared += rss
        return shared / 1e6, resident / 1e6

    def freeze(self) -> None:
        self._each(psutil.Process.suspend)

    def thaw(self) -> None:
        self._each(psutil.Process.resume)

    def pin(self, cores: Sequence[int]) -> None:
        """To these cores: all threads, and what they start later. Linux alone can say that."""
        if hasattr(os, "sched_setaffinity"):
            self._each(lambda one: _pin(one, cores))

    def _each(self, call: Callable[[psutil.Process], object]) -> None:
        for one in self.members():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                call(one)


def _pin(process: psutil.Process, cores: Sequence[int]) -> None:
    for thread in process.threads():
        # It may be gone by now, or another account's.
        with suppress(OSError):
            os.sched_setaffinity(thread.id, cores)


class Running:
    """One started program with its own log file."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path
    ) -> None:
        self.log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                list(command),
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.tree = Tree(self._process.pid)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """SIGTERM, patience, and then an end for whoever of the tree is left."""
        self.tree.thaw()
        family = self.tree.members()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.wait()
