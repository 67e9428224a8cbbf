"""The breaker in front of Redis: one caller finds out for all, and news proves nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from jobs import cache, names

#: Ten times the bound that is promised per call; without bounds it would be a minute.
PATIENCE_SECONDS = 5.0


@pytest.fixture
def full() -> Iterator[int]:
    """The port of a listener whose queue is full: it drops what knocks, as a blackhole does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, ExitStack() as exits:
        for _ in range(3):
            knocking = exits.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(listening.getsockname())
        yield int(listening.getsockname()[1])


def ping(client: redis.Redis) -> Any:
    return client.ping()


def test_fifty_at_once_wait_side_by_side_for_a_host_that_is_gone(
    full: int, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(cache_url=f"redis://127.0.0.1:{full}/0", cache_timeout_seconds=0.2)
    threads = [threading.Thread(target=cache.ask, args=(ping,)) for _ in range(50)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    assert time.monotonic() - began < PATIENCE_SECONDS


def test_a_name_that_does_not_resolve_is_waited_for_no_longer(
    jobs_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def resolve(host: str, port: int, within_seconds: float) -> list[names.Address]:
        waited.append(within_seconds)
        raise TimeoutError("no answer")

    monkeypatch.setattr(names, "resolve", resolve)
    for scheme in ("redis", "rediss"):
        jobs_settings(cache_url=f"{scheme}://lost.test:6379/0", cache_timeout_seconds=0.3)
        cache.breaker.reset()
        assert cache.ask(ping) is None
        with pytest.raises(redis.RedisError):
            cache.waiting_client(1.0).ping()
    assert waited == [0.3] * 4


def test_after_a_failure_one_at_a_time_finds_out(
    jobs_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs_settings(cache_url="redis://127.0.0.1:1/0", cache_retry_seconds=10)
    now = 100.0
    monkeypatch.setattr("jobs.cache.time.monotonic", lambda: now)
    asked: list[str] = []

    def fails(_: redis.Redis) -> None:
        asked.append("one")
        # While this one waits, nobody else does.
        assert cache.ask(lambda _: asked.append("other")) is None
        raise redis.TimeoutError

    assert cache.ask(ping) is None
    for _ in range(5):
        now += 10.1
        assert cache.ask(fails) is None
        assert cache.ask(fails) is None
    assert asked == ["one"] * 5
    now += 10.1
    assert cache.ask(lambda _: "answer") == "answer"
    assert cache.ask(lambda _: "at once") == "at once"


def test_no_news_does_not_close_the_breaker(
    jobs_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs_settings(cache_url="redis://127.0.0.1:1/0", cache_retry_seconds=10)
    now = 100.0
    monkeypatch.setattr("jobs.cache.time.monotonic", lambda: now)
    assert cache.ask(ping) is None
    assert cache.ask(lambda _: "news", proves=False) is None
    now += 10.1
    # Somebody waits for news, and hears nothing from a Redis that is frozen.
    assert cache.ask(lambda _: "nothing", proves=False) == "nothing"
    assert cache.ask(ping) is None
    assert cache.ask(lambda _: "another") is None


def test_a_broken_kept_connection_is_replaced_at_once(
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(cache_url="redis://127.0.0.1:1/0")
    asked: list[int] = []

    def breaks_once(_: redis.Redis) -> str:
        asked.append(1)
        if len(asked) == 1:
            raise redis.ConnectionError("Connection closed by server.")
        return "answer"

    assert cache.ask(breaks_once) == "answer"
    assert not cache.breaker.is_open()
    assert cache.breaker.failed_at == float("-inf")


def test_it_tells_since_when_redis_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("jobs.cache.time.monotonic", lambda: now)
    breaker = cache.Breaker()
    assert breaker.answers_since == float("-inf")
    breaker.reset()
    assert breaker.answers_since == float("-inf")
    breaker.trip(1.0)
    assert (breaker.failed_at, breaker.answers_since) == (100.0, float("inf"))
    now = 105.0
    breaker.reset()
    now = 106.0
    breaker.reset()
    assert (breaker.failed_at, breaker.answers_since) == (100.0, 105.0)
