"""Says that a process of the platform is alive and at work, to two kinds of readers.

People and schedulers read the registry in the database. Supervisors read a small file on the same
host: whether to restart a process must not depend on the database, or one outage of it would end in
a storm of restarts.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache as once
from pathlib import Path

from django.db import Error, connection
from django.db.models.functions import Now

from jobs import __version__, conf
from jobs.models import Worker

log = logging.getLogger("jobs.presence")

#: Files of processes that were killed are removed when they are this old.
KEEP_SECONDS = 86_400.0
#: A beat is written to the disk at most this often.
WRITE_SECONDS = 1.0


def name_of_this_process() -> str:
    """``host:pid``, the name under which this process claims and is registered."""
    return f"{socket.gethostname()}:{os.getpid()}"


def announce(kind: str, queues: Sequence[str] = ()) -> None:
    """Record that this process is alive now, by the database's clock."""
    Worker.objects.update_or_create(
        name=name_of_this_process(),
        defaults={"seen_at": Now(), "stopped_at": None, "kind": kind, "queues": list(queues)},
        create_defaults={
            "kind": kind,
            "queues": list(queues),
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "release": __version__,
        },
    )


def withdraw() -> None:
    """Record that this process stops in order."""
    Worker.objects.filter(name=name_of_this_process()).update(seen_at=Now(), stopped_at=Now())


class PresenceThread:
    """Announces a worker's main process while ``is_well`` says so, so that a worker that hears
    nothing grows stale in the registry. It opens a connection for each beat and closes it again,
    because the main process forks, and a child must not inherit an open one."""

    def __init__(
        self, kind: str, queues: Sequence[str], is_well: Callable[[], bool] = lambda: True
    ) -> None:
        self._kind = kind
        self._queues = queues
        self._is_well = is_well
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="jobs-presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and withdraw; returns when that is recorded or has failed."""
        self._ended.set()
        self._thread.join(timeout=5)

    def _loop(self) -> None:
        while not self._ended.is_set():
            if self._is_well():
                self._say(lambda: announce(self._kind, self._queues))
            self._ended.wait(conf.get().worker_stale_seconds / 3)
        self._say(withdraw)

    def _say(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Error as error:
            log.warning("presence not recorded: %s", error)
        finally:
            connection.close()


# -- beats: the file that supervisors read


@dataclass(frozen=True, slots=True)
class Beat:
    """What a process last said about itself. ``at`` is the monotonic clock of this machine."""

    kind: str
    pid: int
    at: float
    ready: bool
    note: str

    def age_seconds(self) -> float:
        """Time since the process showed life; infinite for a file from before a reboot."""
        age = time.monotonic() - self.at
        return age if age >= 0 else float("inf")

    def is_of_a_living_process(self) -> bool:
        with suppress(PermissionError):
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return False
        return True


_written: dict[str, tuple[float, bool, str]] = {}


def beat(kind: str, *, ready: bool, note: str = "", at: float | None = None) -> None:
    """Say that this process showed life at ``at`` (monotonic, default now), and whether it can do
    its work. Never raises: a full disk is no reason to stop working."""
    now = time.monotonic()
    wrote_at, *said = _written.get(kind, (float("-inf"), False, ""))
    if now - wrote_at < WRITE_SECONDS and said == [ready, note]:
        return
    is_first, _written[kind] = kind not in _written, (now, ready, note)
    _write(Beat(kind, os.getpid(), now if at is None else at, ready, note))
    if is_first:
        _sweep(_file(kind, os.getpid()))


def forget_beat(kind: str) -> None:
    """Remove the file, at an ordered stop."""
    _written.pop(kind, None)
    with suppress(OSError):
        _file(kind, os.getpid()).unlink()


def beats(kind: str) -> Iterator[Beat]:
    """What the living processes of this kind on this host last said."""
    for path in _directory().glob(f"{kind}.{socket.gethostname()}.*.json"):
        with suppress(OSError, ValueError, TypeError):
            found = Beat(**json.loads(path.read_bytes()))
            if found.is_of_a_living_process():
                yield found


def _directory() -> Path:
    given = conf.get().health_directory
    return given or Path(tempfile.gettempdir()) / f"jobs-health-{os.getuid()}"


def _file(kind: str, pid: int) -> Path:
    return _directory() / f"{kind}.{socket.gethostname()}.{pid}.json"


def _write(said: Beat) -> None:
    path = _file(said.kind, said.pid)
    draft = path.with_suffix(".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(said)))
        draft.replace(path)
    except OSError as error:
        _complain(str(error))


@once
def _complain(reason: str) -> None:
    log.warning("beats are not written, so jobs_health will fail: %s", reason)


def _sweep(own: Path) -> None:
    """Killed processes leave their files; new ones clear away what is a day older than theirs."""
    with suppress(OSError):
        edge = own.stat().st_mtime - KEEP_SECONDS
        for path in own.parent.iterdir():
            if path.stat().st_mtime < edge:
                path.unlink(missing_ok=True)
