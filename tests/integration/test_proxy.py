"""The proxy does to a connection what it says, seen from both of its ends."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import psycopg2
import pytest

from tests.marks import until
from tests.proxy import Proxy
from tests.services import Services

SOON = 5.0


class Echo(socketserver.ThreadingTCPServer):
    """Sends back what it gets, and remembers what it got."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got = b""
        self.ended = 0

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Echo)
        with suppress(OSError):
            while data := self.request.recv(65536):
                self.server.got += data
                self.request.sendall(data)
        self.server.ended += 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo.port, seed=1) as proxy:
        yield proxy


def dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=SOON)


def ask(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return answer(connection, len(data))


def answer(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (more := connection.recv(size - len(got))):
        got += more
    return got


def silent(connection: socket.socket, seconds: float = 0.2) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(1) is None
    except TimeoutError:
        return True
    finally:
        connection.settimeout(SOON)


def test_passes_much_on_unchanged(proxy: Proxy) -> None:
    data = bytes(range(256)) * 20_000
    got: list[bytes] = []
    with closing(dial(proxy)) as connection:
        reader = threading.Thread(target=lambda: got.append(answer(connection, len(data))))
        reader.start()
        connection.sendall(data)
        reader.join(30)
    assert got == [data]
    assert proxy.bytes_passed == 2 * len(data)


def test_the_end_of_a_connection_is_passed_on(proxy: Proxy, echo: Echo) -> None:
    with closing(dial(proxy)) as connection:
        assert ask(connection, b"hello") == b"hello"
        assert proxy.connections == 1
    until(lambda: echo.ended == 1 and proxy.connections == 0, SOON)


def test_latency_keeps_the_order(proxy: Proxy) -> None:
    with closing(dial(proxy)) as connection:
        assert ask(connection, b"-") == b"-"
        proxy.latency(0.05, jitter=0.05)
        began = time.monotonic()
        for letter in b"abcdefghij":
            connection.sendall(bytes([letter]))
            time.sleep(0.005)
        assert answer(connection, 10) == b"abcdefghij"
        assert time.monotonic() - began > 0.1
        proxy.heal()
        assert ask(connection, b"k") == b"k"


def test_blackhole_towards_the_server(proxy: Proxy, echo: Echo) -> None:
    with closing(dial(proxy)) as connection:
        assert ask(connection, b"-") == b"-"
        proxy.blackhole("up")
        connection.sendall(b"a")
        assert silent(connection)
        assert echo.got == b"-"
        proxy.heal()
        assert answer(connection, 1) == b"a"


def test_blackhole_towards_the_client(proxy: Proxy, echo: Echo) -> None:
    with closing(dial(proxy)) as connection:
        assert ask(connection, b"-") == b"-"
        proxy.blackhole("down")
        connection.sendall(b"a")
        until(lambda: echo.got == b"-a", SOON)
        assert silent(connection)
        proxy.heal()
        assert answer(connection, 1) == b"a"


def test_a_server_hears_of_the_end_only_when_the_blackhole_is_gone(
    proxy: Proxy, echo: Echo
) -> None:
    with closing(dial(proxy)) as connection:
        assert ask(connection, b"-") == b"-"
        proxy.blackhole()
    with closing(dial(proxy)) as later:
        later.sendall(b"b")
        assert silent(later)
        assert (echo.got, echo.ended) == (b"-", 0)
        proxy.heal()
        assert answer(later, 1) == b"b"
    until(lambda: echo.ended == 2, SOON)


def test_a_healed_blackhole_can_reset_what_it_held(proxy: Proxy) -> None:
    with closing(dial(proxy)) as connection:
        assert ask(connection, b"-") == b"-"
        proxy.blackhole("down")
        connection.sendall(b"a")
        proxy.heal(keep_held=False)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with closing(dial(proxy)) as connection:
        assert ask(connection, b"c") == b"c"


def test_deafen_leaves_new_connections_alone(proxy: Proxy) -> None:
    with closing(dial(proxy)) as old:
        assert ask(old, b"-") == b"-"
        proxy.deafen()
        old.sendall(b"a")
        assert silent(old)
        with closing(dial(proxy)) as new:
            assert ask(new, b"b") == b"b"
        proxy.heal()
        assert answer(old, 1) == b"a"


def test_deafen_from_a_word_on(proxy: Proxy) -> None:
    proxy.deafen(at=b"word")
    with closing(dial(proxy)) as connection, closing(dial(proxy)) as other:
        assert ask(connection, b"before") == b"before"
        connection.sendall(b"the word")
        assert silent(connection)
        connection.sendall(b"after")
        assert silent(connection)
        assert ask(other, b"other") == b"other"
        proxy.heal()
        assert answer(connection, 13) == b"the wordafter"


def test_reset_lets_new_ones_in_and_cut_does_not(proxy: Proxy, echo: Echo) -> None:
    with closing(dial(proxy)) as first, closing(dial(proxy)) as second:
        assert ask(first, b"a") + ask(second, b"b") == b"ab"
        proxy.reset()
        for connection in (first, second):
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
    with closing(dial(proxy)) as connection:
        assert ask(connection, b"c") == b"c"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        dial(proxy)
    proxy.heal()
    with closing(dial(proxy)) as connection:
        assert ask(connection, b"d") == b"d"


def test_cut_after_some_bytes_which_the_seed_decides(echo: Echo) -> None:
    def carried(seed: int) -> list[int]:
        counts = []
        with Proxy("127.0.0.1", echo.port, seed=seed) as proxy:
            proxy.cut_after(10, 1000)
            for _ in range(5):
                before = len(echo.got)
                with closing(dial(proxy)) as connection, suppress(ConnectionError):
                    while ask(connection, b"x"):
                        pass
                until(lambda: proxy.connections == 0, SOON)
                counts.append(len(echo.got) - before)
        return counts

    once, again, other = carried(1), carried(1), carried(2)
    assert len(set(once)) > 1
    # The byte on which it is cut may reach the server or not.
    assert all(abs(a - b) <= 1 for a, b in zip(once, again, strict=True))
    assert any(abs(a - b) > 1 for a, b in zip(once, other, strict=True))


def test_a_server_that_is_down_refuses(proxy: Proxy, echo: Echo) -> None:
    echo.shutdown()
    echo.server_close()
    with pytest.raises(ConnectionError), closing(dial(proxy)) as connection:
        ask(connection, b"a")


@pytest.mark.services
def test_the_answer_to_a_commit_is_lost_and_the_commit_is_not() -> None:
    services = Services.given()
    with (
        closing(psycopg2.connect(services.database_url)) as direct,
        Proxy(direct.info.host, direct.info.port) as proxy,
    ):
        direct.autocommit = True
        seen = direct.cursor()
        seen.execute("CREATE TABLE IF NOT EXISTS proxy_marks (mark int)")
        try:
            _write_through(proxy, services, direct)
            seen.execute("SELECT mark FROM proxy_marks ORDER BY mark")
            assert seen.fetchall() == [(1,), (2,), (3,)]
        finally:
            seen.execute("DROP TABLE proxy_marks")
    assert proxy.commits_lost == 1


def _write_through(
    proxy: Proxy, services: Services, direct: psycopg2.extensions.connection
) -> None:
    own: dict[str, Any] = {"host": "127.0.0.1", "port": proxy.port, "sslmode": "disable"}
    with closing(psycopg2.connect(services.database_url, **own)) as connection:
        connection.cursor().execute("INSERT INTO proxy_marks VALUES (1)")
        connection.commit()
        proxy.lose_commits()
        connection.cursor().execute("INSERT INTO proxy_marks VALUES (2)")
        with pytest.raises(psycopg2.OperationalError):
            connection.commit()
    with closing(psycopg2.connect(services.database_url, **own)) as connection:
        connection.cursor().execute("INSERT INTO proxy_marks VALUES (3)")
        connection.commit()
