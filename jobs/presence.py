"""Says in the database that a process of the platform is alive: the registry that admins see."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence

from django.db import Error, connection
from django.db.models.functions import Now

from jobs import __version__, conf
from jobs.models import Worker

log = logging.getLogger("jobs.presence")


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
    """Announces a worker's main process. It opens a connection for each beat and closes it again,
    because the main process forks, and a child must not inherit an open one."""

    def __init__(self, kind: str, queues: Sequence[str]) -> None:
        self._kind = kind
        self._queues = queues
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
