"""Start, watch and end processes without ever touching somebody else's.

A process is known by its pid *and* its start time, written to a record file: a pid alone is
reused by the kernel, and after a `kill -9` of the parent the records are all that is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from interlock.local.accounts import Account

# Set in the environment of everything started for a private directory, so that orphans of
# orphans (pool children, Erlang's port programs) are found as well.
MARKER = "INTERLOCK_LOCAL_HOME"

# The start time that the kernel reports is recomputed from the boot time and may shift a little.
START_TIME_TOLERANCE_SECONDS = 2.0

# These rewrite their environment, so the marker cannot be read; they sit in their private
# directory instead. Only these names: a person's shell may sit there too.
SERVER_NAMES = ("postgres", "redis-server", "valkey-server")


@dataclass(frozen=True, slots=True)
class Record:
    """One process: enough to recognise it later, from another process."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Record:
        try:
            return cls(pid, float(psutil.Process(pid).create_time()))
        except psutil.Error:
            return cls(pid, 0.0)

    @classmethod
    def read(cls, path: Path) -> Record | None:
        try:
            raw = json.loads(path.read_text())
            return cls(int(raw["pid"]), float(raw["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"pid": self.pid, "started": self.started}))
        temporary.replace(path)

    def alive(self) -> bool:
        """A zombie counts as gone: it holds no port, no file and no lock."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            apart = abs(float(process.create_time()) - self.started)
            return apart <= START_TIME_TOLERANCE_SECONDS
        except psutil.Error:
            return False


def leash(
    argv: Sequence[str], death_signal: signal.Signals | None, account: Account | None = None
) -> list[str]:
    """The command that ends with this process; `death_signal` None only changes the account."""
    return [
        sys.executable,
        "-I",
        "-S",
        str(Path(__file__).with_name("leash.py")),
        str(os.getpid()),
        str(int(death_signal or 0)),
        f"{account.uid}:{account.gid}" if account else "-",
        "--",
        *argv,
    ]


def spawn(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: Path | None,
    account: Account | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    leashed: bool | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, out of reach of the terminal's Ctrl-C.

    The kernel's death signal is tied to the *thread* that starts the child. So by default only
    the main thread leashes; pass `leashed=True` from a thread that outlives the child.
    """
    if leashed is None:
        leashed = threading.current_thread() is threading.main_thread()
    tied = death_signal if leashed else None
    output: IO[bytes] | int = log.open("ab") if log else subprocess.DEVNULL
    try:
        return subprocess.Popen(
            leash(argv, tied, account),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        if not isinstance(output, int):
            output.close()


def send(record: Record, number: signal.Signals) -> None:
    """Signal exactly this process; silently nothing when it is gone or its pid is reused."""
    if record.alive():
        try:
            os.kill(record.pid, number)
        except ProcessLookupError:
            return


def wait_gone(record: Record, seconds: float) -> bool:
    """Wait until the process has ended, at most `seconds`; True when it has."""
    deadline = time.monotonic() + seconds
    while record.alive():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def descendants(record: Record) -> list[Record]:
    """Children, their children and so on; empty once the process itself is gone."""
    if not record.alive():
        return []
    try:
        found = psutil.Process(record.pid).children(recursive=True)
    except psutil.Error:
        return []
    return [Record.of(process.pid) for process in found]


def session_members(leader_pid: int) -> list[Record]:
    """Processes of the session that `spawn` opened, also when its leader has died."""
    members = []
    for pid in psutil.pids():
        try:
            if pid != os.getpid() and os.getsid(pid) == leader_pid:
                members.append(Record.of(pid))
        except OSError:
            continue
    return [member for member in members if member.alive()]


def stop(record: Record, number: signal.Signals, grace_seconds: float) -> bool:
    """Signal the main process alone, wait, then kill what is left of it and its children.

    Returns False when it had to be killed.
    """
    family = descendants(record)
    send(record, number)
    clean = wait_gone(record, grace_seconds)
    kill_all([record, *family, *session_members(record.pid)])
    return clean


def kill_all(records: Sequence[Record]) -> None:
    """SIGKILL each that is still the recorded process, and wait until the kernel is done."""
    for record in records:
        send(record, signal.SIGKILL)
    for record in records:
        wait_gone(record, 5.0)


def sweep(home: Path) -> list[str]:
    """Kill whatever an earlier run left behind for this directory; returns what was killed.

    The caller holds the directory's lock, so nothing found here has a living owner. Never
    touches this process or its ancestors.
    """
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = [
        process
        for process in psutil.process_iter(["name", "pid"])
        if process.pid not in spared and _belongs_to(process, home)
    ]
    names = [f"{process.info['name']} (pid {process.pid})" for process in found]
    kill_all([Record.of(process.pid) for process in found])
    return names


def _belongs_to(process: psutil.Process, home: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(MARKER) == str(home):
            return True
        name = process.info["name"] or ""
        return name.startswith(SERVER_NAMES) and Path(process.cwd()).is_relative_to(home)
    except (psutil.Error, OSError):
        return False


def log_tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message; empty when there is no log."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 16_384))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
