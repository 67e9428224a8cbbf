"""Names that resolve, that do not, and a name server that says nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobs import names


@pytest.fixture
def dead_name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Look-ups of ``lost.test`` hang until the test is over; counts them."""
    over, real = threading.Event(), socket.getaddrinfo
    asked: list[str] = []

    def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
        if host == "lost.test":
            asked.append(host)
            over.wait(60)
            raise socket.gaierror("nobody answered")
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield lambda: len(asked)
    over.set()


def test_a_literal_and_a_name_resolve() -> None:
    [(family, address)] = names.resolve("127.0.0.1", 5432, 5)
    assert (family, address) == (socket.AF_INET, ("127.0.0.1", 5432))
    assert names.resolve("localhost", 5432, 5)


def test_what_does_not_resolve_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(socket.gaierror, match="no such name"):
        names.resolve("nowhere.test", 1, 5)


def test_a_silent_name_server_is_waited_for_no_longer_than_allowed(
    dead_name_server: Callable[[], int],
) -> None:
    with pytest.raises(TimeoutError, match=r"lost\.test"):
        names.resolve("lost.test", 1, 0.01)


def test_those_who_wait_for_the_same_name_share_one_look_up(
    dead_name_server: Callable[[], int],
) -> None:
    for _ in range(20):
        with pytest.raises(TimeoutError):
            names.resolve("lost.test", 2, 0.01)
    assert dead_name_server() == 1


def test_nobody_joins_a_thread_that_others_wait_for_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.13 that raises AssertionError now and then: once in a million on a busy
    machine, which is too seldom to wait for here."""

    def join(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(threading.Thread, "join", join)
    assert names.resolve("127.0.0.1", 5432, 20)
