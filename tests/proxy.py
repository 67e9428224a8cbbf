"""A TCP proxy in front of a server that must not be harmed: it can cut, refuse and swallow."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

Pair = tuple[socket.socket, socket.socket]


class Proxy:
    """Passes everything on, until told otherwise. Use as a context manager.

    Only its own thread touches the connections; the methods set a wish and wait for it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pairs: dict[socket.socket, Pair] = {}
        self._refuses = False
        self._swallows = False
        self._drops = threading.Event()
        self._dropped = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        self._thread.join(5)
        self._listener.close()

    def cut(self) -> None:
        """End every connection and refuse new ones, as if the server were down."""
        self._refuses = True
        self._drop_all()

    def swallow(self) -> None:
        """From now on nothing that the server says arrives; connections stay open."""
        self._swallows = True

    def heal(self) -> None:
        """Pass everything on again. What was swallowed is lost, so its connections end."""
        if self._swallows:
            self._drop_all()
        self._refuses = self._swallows = False

    def _drop_all(self) -> None:
        self._dropped.clear()
        self._drops.set()
        assert self._dropped.wait(5)

    def _run(self) -> None:
        while not self._ended:
            readable, _, _ = select.select([self._listener, *self._pairs], [], [], 0.02)
            for ready in readable:
                if ready is self._listener:
                    self._accept()
                elif ready in self._pairs:
                    self._pass_on(ready)
            if self._drops.is_set():
                self._drops.clear()
                self._end_pairs()
                self._dropped.set()
        self._end_pairs()

    def _end_pairs(self) -> None:
        for pair in set(self._pairs.values()):
            self._end(pair)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._refuses:
            client.close()
            return
        server = socket.create_connection(self._target, timeout=5)
        self._pairs[client] = self._pairs[server] = (client, server)

    def _pass_on(self, source: socket.socket) -> None:
        pair = client, server = self._pairs[source]
        data = b""
        with suppress(OSError):
            data = source.recv(65536)
            if data and not (source is server and self._swallows):
                (client if source is server else server).sendall(data)
        if not data:
            self._end(pair)

    def _end(self, pair: Pair) -> None:
        for end in pair:
            self._pairs.pop(end, None)
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
