"""Bounds every wait for PostgreSQL in an API process: an answer, or 503, in under two seconds.

libpq waits for ever for a server that is frozen or cut off without a word. psycopg2 lets the
process do the waiting instead (a wait callback, its hook for coroutine libraries), so here each
wait looks at its socket, and becomes suspicious after ``PATIENCE_SECONDS`` of silence. Silence
proves nothing, since a large statement or a lock takes its time. So the server is asked, beside the
silent connection, the smallest question of the protocol, which every living postmaster or PgBouncer
answers with one byte. While it answers, the wait goes on. If it does not, the server is declared
down: this wait and all others end, later ones get next to no patience, new connections are refused
at once, and a thread asks on until the server answers.

A connection that is given up is closed by psycopg2; whether its last statement took effect is
unknown, as with any lost connection. Behind a pooler it is the pooler that answers.

``install()`` concerns the whole process, in which COPY through psycopg2 is then not possible.
"""

from __future__ import annotations

import logging
import select
import socket
import struct
import threading
import time
from functools import cache
from typing import Any

import psycopg2
from psycopg2 import extensions

from jobs import names

log = logging.getLogger("jobs.sentinel")

#: Silence of a connection after which its server is asked whether it lives.
PATIENCE_SECONDS = 0.7
#: The same while a server is known to be down: enough for a backend that outlives its postmaster.
_SHORT_PATIENCE_SECONDS = 0.1
#: Bound on that question, name look-up and connecting included.
PROBE_SECONDS = 0.5
#: Longest silence however well the server is: more than any role's ``statement_timeout`` for the
#: API, so only an answer that was lost on its way takes so long.
LONGEST_SILENCE_SECONDS = 15.0
#: Pace of asking a server that is down.
_ASK_AGAIN_SECONDS = 0.25

#: PostgreSQL's SSLRequest: its length, and the code 1234.5679.
_QUESTION = struct.pack("!ii", 8, 80877103)
_EVENTS = {extensions.POLL_READ: select.POLLIN, extensions.POLL_WRITE: select.POLLOUT}
_DEFAULT_PORT = 5432


class DatabaseDown(psycopg2.OperationalError):
    """The server does not answer. Its SQLSTATE says that another try at once would be no use."""

    pgcode = "08006"


class Server:
    """What this process knows of one server."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.is_down = False
        self._answered_at = 0.0
        self._asking = threading.Lock()

    def answers(self) -> bool:
        """Ask it, at most once for all who wonder at the same time. Takes ``PROBE_SECONDS``."""
        began = time.monotonic()
        with self._asking:
            if self._answered_at >= began:
                return True
            if not self.is_down and not self._probe():
                self.declare_down()
            return not self.is_down

    def declare_down(self) -> None:
        """Stop waiting for it, until it answers."""
        if not self.is_down:
            self.is_down = True
            _down.add(self)
            log.error("%s:%s does not answer; refusing until it does", self.host, self.port)
            threading.Thread(target=self._watch, name="sentinel", daemon=True).start()

    def _watch(self) -> None:
        while not self._probe():
            time.sleep(_ASK_AGAIN_SECONDS)
        self.is_down = False
        _down.discard(self)
        log.warning("%s:%s answers again", self.host, self.port)

    def _probe(self) -> bool:
        if is_alive(self.host, self.port):
            self._answered_at = time.monotonic()
            return True
        return False


#: Those that do not answer now.
_down: set[Server] = set()
_installed = threading.Event()


class Connection(extensions.connection):
    """For ``OPTIONS["connection_factory"]``: refuses at once while the server is down.

    And looks the host's name up within a bound first, which libpq could not. Without ``install()``
    it is an ordinary connection.
    """

    def __init__(self, dsn: str, *args: Any, **options: Any) -> None:
        if _installed.is_set():
            _before_connecting(dsn)
        super().__init__(dsn, *args, **options)


def install() -> None:
    """Watch every wait of this process from now on. Call it where the WSGI application is made."""
    extensions.set_wait_callback(wait)
    _installed.set()


def uninstall() -> None:
    """Back to libpq's own waiting."""
    extensions.set_wait_callback(None)
    _installed.clear()


def wait(connection: extensions.connection) -> None:
    """psycopg2's wait callback: return when the connection is ready. Raises DatabaseDown."""
    while (state := connection.poll()) != extensions.POLL_OK:
        _wait_for(connection, _EVENTS[state])


def is_alive(host: str, port: int) -> bool:
    """Whether a server says anything within ``PROBE_SECONDS``; ``host`` may be a directory."""
    until = time.monotonic() + PROBE_SECONDS
    try:
        with _connected(host, port, until) as probe:
            probe.sendall(_QUESTION)
            probe.settimeout(_left(until))
            return bool(probe.recv(1))
    except OSError:
        return False


def _wait_for(connection: extensions.connection, events: int) -> None:
    poller = select.poll()
    poller.register(connection.fileno(), events)
    patience = 1000 * (_SHORT_PATIENCE_SECONDS if _down else PATIENCE_SECONDS)
    if poller.poll(patience):
        return
    server = _of(connection)
    until = time.monotonic() + LONGEST_SILENCE_SECONDS
    while server is None or server.answers():
        if poller.poll(patience):
            return
        if time.monotonic() > until:
            raise DatabaseDown("a connection has been silent for too long")
    raise DatabaseDown("the database server does not answer")


def _before_connecting(dsn: str) -> None:
    parts = extensions.parse_dsn(dsn)
    host, port = str(parts.get("host", "")), str(parts.get("port", _DEFAULT_PORT))
    if not host or "," in host or not port.isdigit():
        # libpq chooses among several, or by itself.
        return
    server = _server(host, int(port))
    if server.is_down:
        raise DatabaseDown("the database server does not answer")
    if host.startswith("/") or "hostaddr" in parts:
        return
    try:
        names.resolve(host, server.port, PROBE_SECONDS)
    except OSError as error:
        server.declare_down()
        raise DatabaseDown(str(error)) from error


def _of(connection: extensions.connection) -> Server | None:
    host, port = connection.info.host, connection.info.port
    return _server(host, port) if host else None


@cache
def _server(host: str, port: int) -> Server:
    return Server(host, port)


def _connected(host: str, port: int, until: float) -> socket.socket:
    """A socket to the first address that takes it. Raises OSError."""
    if host.startswith("/"):
        return _dialled(socket.AF_UNIX, f"{host}/.s.PGSQL.{port}", until)
    problem = OSError("no address")
    for family, address in names.resolve(host, port, _left(until)):
        try:
            return _dialled(family, address, until)
        except OSError as error:
            problem = error
    raise problem


def _dialled(family: int, address: Any, until: float) -> socket.socket:
    probe = socket.socket(family, socket.SOCK_STREAM)
    try:
        probe.settimeout(_left(until))
        probe.connect(address)
    except OSError:
        probe.close()
        raise
    return probe


def _left(until: float) -> float:
    """Never 0, which would mean not to wait at all but to fail in another way."""
    return max(until - time.monotonic(), 0.001)
