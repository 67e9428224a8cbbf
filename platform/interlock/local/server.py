"""What every private server can do: start, stop, be killed, restart, say where it is."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from interlock.local import processes
from interlock.local.accounts import Account, own_directory
from interlock.local.errors import ServerFailed
from interlock.local.ports import free_port, require_free


class Server(ABC):
    """One server on a loopback port with a private directory.

    The record file in the directory, not this object, is what says whether the server runs. So a
    second process (a fault test, the next start after a crash) can make an object for the same
    directory and stop, kill or restart the same server.
    """

    name: ClassVar[str]
    start_seconds: ClassVar[float] = 60.0
    stop_seconds: ClassVar[float] = 20.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, directory: Path, port: int | None = None, setting: str = "") -> None:
        """`setting` names what the user would change when the port is taken."""
        self.directory = directory
        self.port = port if port is not None else free_port()
        self.setting = setting or f"another {self.name} port"
        self._process: subprocess.Popen[bytes] | None = None
        self._registered = False

    # -- what a kind of server adds -------------------------------------------------------------

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect, with credentials."""

    @abstractmethod
    def answers(self) -> bool:
        """Does it serve requests now? Bounded to about a second."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make the directory usable, also after a kill at any moment of an earlier run."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The server's command line; it must stay in the foreground."""

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, processes.MARKER: str(self.directory.parent)}

    def _account(self) -> Account | None:
        return None

    def _working_directory(self) -> Path:
        return self.directory

    # -- life -----------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def _record_file(self) -> Path:
        return self.directory / f"{self.name}.pid.json"

    @property
    def record(self) -> processes.Record | None:
        return processes.Record.read(self._record_file)

    @property
    def pid(self) -> int | None:
        """The main process while it runs, else None."""
        record = self.record
        return record.pid if record is not None and record.alive() else None

    def start(self) -> Self:
        """Start and wait until it answers.

        Raises PortTaken, ServerMissing or ServerFailed (with the end of the log).
        """
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start without waiting, so that several servers can come up at the same time."""
        self._end_stale()
        self._prepare()
        require_free(self.name, self.port, self.setting)
        self._process = processes.spawn(
            self._command(),
            cwd=self._working_directory(),
            env=self._environment(),
            log=self.log,
            account=self._account(),
            death_signal=self.stop_signal,
        )
        processes.Record.of(self._process.pid).write(self._record_file)
        if not self._registered:
            atexit.register(self._stop_at_exit, os.getpid())
            self._registered = True

    def wait_ready(self) -> None:
        """Wait until the server answers; raises ServerFailed after `start_seconds`."""
        deadline = time.monotonic() + self.start_seconds
        while not self.answers():
            if self._process is not None and self._process.poll() is not None:
                raise self._failure(f"ended with exit code {self._process.returncode}")
            if time.monotonic() > deadline:
                self.kill()
                raise self._failure(f"did not answer within {self.start_seconds:.0f} s")
            time.sleep(0.05)

    def stop(self) -> bool:
        """Orderly shutdown, bounded by `stop_seconds`; False when it had to be killed."""
        record = self.record
        clean = True
        if record is not None:
            clean = processes.stop(record, self.stop_signal, self.stop_seconds)
        self._forget()
        return clean

    def kill(self) -> None:
        """`kill -9` of the server and its children: what a power cut or the OOM killer does."""
        record = self.record
        if record is not None:
            family = [record, *processes.descendants(record)]
            processes.kill_all([*family, *processes.session_members(record.pid)])
        self._forget()

    def restart(self) -> None:
        """Stop if it runs, start on the same port with the same data, wait until it answers."""
        self.stop()
        self.start()

    def destroy(self) -> None:
        """Stop and remove the private directory with all data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def describe(self) -> dict[str, object]:
        """What another process needs to make an equal object: see `servers.attach`."""
        return {"directory": str(self.directory), "port": self.port, "url": self.url}

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- helpers --------------------------------------------------------------------------------

    def _own_directory(self) -> None:
        """Passable for others, so that a server under another account reaches its own files."""
        own_directory(self.directory, None, 0o711)

    def _end_stale(self) -> None:
        record = self.record
        if record is not None and record.alive():
            self.stop()

    def _stop_at_exit(self, owner: int) -> None:
        if os.getpid() == owner and self._process is not None:
            self.stop()

    def _forget(self) -> None:
        if self._process is not None:
            # Collects the exit status; without it the child stays as a zombie of ours.
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                return
            self._process = None
        self._record_file.unlink(missing_ok=True)

    def _failure(self, what: str) -> ServerFailed:
        tail = processes.log_tail(self.log)
        return ServerFailed(f"{self.name} {what}; the end of {self.log}:\n{tail}")
