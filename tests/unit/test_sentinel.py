"""What counts as a sign of life, and what follows from none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg2
import pytest
from django.db import OperationalError
from django.db.backends.postgresql.base import DatabaseWrapper

from jobs import names
from jobs.api import sentinel
from jobs.api.sentinel import Connection, DatabaseDown, Server, is_alive
from tests.marks import until


class Listener:
    """Takes connections and answers the question with ``answer``, or with silence."""

    def __init__(self, answer: bytes | None, listening: socket.socket) -> None:
        self.answer = answer
        self.asked = 0
        # A socket file has no port.
        self.port = int(listening.getsockname()[1]) if listening.family == socket.AF_INET else 0
        self._socket = listening
        self._kept = ExitStack()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        # Closing alone would leave the thread in its ``accept``.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._socket.close()
        self._kept.close()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self._kept.enter_context(client)
            if client.recv(8) == b"\x00\x00\x00\x08\x04\xd2\x16\x2f":
                self.asked += 1
            if self.answer is not None:
                client.sendall(self.answer)


@contextmanager
def listener(answer: bytes | None, path: Path | None = None) -> Iterator[Listener]:
    if path is None:
        listening = socket.create_server(("127.0.0.1", 0))
    else:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen()
    made = Listener(answer, listening)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sentinel, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(sentinel, "_ASK_AGAIN_SECONDS", 0.01)
    yield
    sentinel._server.cache_clear()


@pytest.fixture
def installed() -> Iterator[None]:
    sentinel.install()
    yield
    sentinel.uninstall()


@pytest.mark.parametrize(
    ("answer", "alive"), [(b"N", True), (b"S", True), (b"E", True), (None, False)]
)
def test_any_byte_is_a_sign_of_life_and_an_open_port_is_none(
    answer: bytes | None, alive: bool
) -> None:
    with listener(answer) as server:
        assert is_alive("127.0.0.1", server.port) is alive
        assert server.asked == 1
    assert is_alive("127.0.0.1", server.port) is False


def test_a_server_behind_a_socket_file_is_asked_there(socket_path: Path) -> None:
    with listener(b"N", socket_path / ".s.PGSQL.5432"):
        assert is_alive(str(socket_path), 5432)
    assert not is_alive(str(socket_path), 5433)


def test_a_host_that_takes_no_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full drops what knocks, as a blackhole does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as exits:
        for _ in range(3):
            knocking = exits.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(full.getsockname())
        assert not is_alive("127.0.0.1", full.getsockname()[1])


def test_those_who_wonder_at_the_same_time_ask_once() -> None:
    with listener(None) as dumb:
        server = Server("127.0.0.1", dumb.port)
        said: list[bool] = []
        threads = [
            threading.Thread(target=lambda: said.append(server.answers())) for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert said == [False] * 20
        assert server.is_down
        dumb.answer = b"N"
        until(lambda: not server.is_down, 10)
        assert server.answers()


def test_a_connection_is_refused_at_once_while_the_server_is_down(installed: None) -> None:
    with listener(None) as dumb:
        server = sentinel._server("127.0.0.1", dumb.port)
        assert not server.answers()
        dsn = f"host=127.0.0.1 port={dumb.port} dbname=x user=x"
        with pytest.raises(DatabaseDown):
            Connection(dsn)
        dumb.answer = b"N"
        until(lambda: not server.is_down, 10)


def test_connecting_to_a_silent_server_is_given_up(
    installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel, "PATIENCE_SECONDS", 0.05)
    with listener(None) as dumb:
        with pytest.raises(DatabaseDown):
            psycopg2.connect(f"host=127.0.0.1 port={dumb.port} dbname=x user=x sslmode=disable")
        dumb.answer = b"N"
        until(lambda: not sentinel._down, 10)


def test_a_name_that_is_not_found_in_time_is_a_server_that_is_down(
    installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = False

    def resolve(host: str, port: int, seconds: float) -> list[names.Address]:
        if known:
            return [(socket.AF_INET, ("127.0.0.1", server.port))]
        raise TimeoutError("no answer")

    monkeypatch.setattr(names, "resolve", resolve)
    with listener(b"N") as server:
        with pytest.raises(DatabaseDown):
            Connection("host=lost.test port=5432 dbname=x user=x")
        known = True
        until(lambda: not sentinel._down, 10)


@pytest.mark.parametrize(
    "dsn",
    ["host=127.0.0.1,127.0.0.1 port=1,1 dbname=x", "host=127.0.0.1 port=1 dbname=x", "dbname=x"],
)
def test_where_libpq_chooses_it_does(
    installed: None, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", "1")
    with pytest.raises(psycopg2.OperationalError) as caught:
        Connection(dsn)
    assert not isinstance(caught.value, DatabaseDown)
    assert not sentinel._down


def test_to_django_it_is_an_error_that_is_not_worth_a_retry() -> None:
    wrapper = DatabaseWrapper({}, "any")
    with pytest.raises(OperationalError) as caught, wrapper.wrap_database_errors:
        raise DatabaseDown("no answer")
    assert getattr(caught.value.__cause__, "pgcode", "") == "08006"
