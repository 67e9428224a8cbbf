"""Host names looked up within a bound.

``getaddrinfo`` knows no timeout: with a name server gone it blocks for many seconds, longer than
anything that a request may wait for. Here a thread of its own waits instead, and whoever asks for
the same name meanwhile shares it.
"""

from __future__ import annotations

import os
import socket
import threading

Address = tuple[socket.AddressFamily, tuple[str | int | bytes, ...]]


class _LookUp(threading.Thread):
    """One call of ``getaddrinfo``; it may outlive everybody who waited for it."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(name=f"look up {host}", daemon=True)
        self._host, self._port = host, port
        self.found: list[Address] = []
        self.error: OSError | None = None
        #: What the many wait for. Before Python 3.13 ``join`` fails in some of several threads.
        self.over = threading.Event()

    def run(self) -> None:
        try:
            entries = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self.found = [(family, address) for family, _, _, _, address in entries]
        except OSError as error:
            self.error = error
        finally:
            self.over.set()


_lock = threading.Lock()
#: By process too: a forked child has none of its parent's threads.
_running: dict[tuple[int, str, int], _LookUp] = {}


def resolve(host: str, port: int, within_seconds: float) -> list[Address]:
    """The addresses of a host. Raises OSError: TimeoutError when it takes longer than allowed."""
    look_up = _joined(host, port)
    if not look_up.over.wait(within_seconds):
        raise TimeoutError(f"the name {host} was not resolved within {within_seconds:g} s")
    if look_up.error is not None:
        raise look_up.error
    return look_up.found


def _joined(host: str, port: int) -> _LookUp:
    key = (os.getpid(), host, port)
    with _lock:
        look_up = _running.get(key)
        if look_up is None or look_up.over.is_set():
            look_up = _running[key] = _LookUp(host, port)
            look_up.start()
        return look_up
