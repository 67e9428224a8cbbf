"""The connection that each thread keeps to Redis: replaced in time, and never one answer behind."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from jobs import cache
from tests.db.conftest import PrivateRedis, cut


@pytest.fixture
def stored(redis_cache: redis.Redis) -> redis.Redis:
    """Redis, with 1 under a and 2 under b."""
    redis_cache.mset({"a": "1", "b": "2"})
    return redis_cache


def test_values_come_in_order_with_gaps(stored: redis.Redis) -> None:
    stored.rpush("list", "x")
    assert cache.fetch(["b", "c", "a", "list", "b"]) == [b"2", None, b"1", None, b"2"]


@pytest.mark.usefixtures("stored")
def test_each_thread_has_its_own_connection() -> None:
    found: list[Any] = []
    connections: list[Any] = []

    def look() -> None:
        for _ in range(2):
            found.append(cache.fetch(["a"]))
            connections.append(cache._line._connection)

    look()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [[b"1"]] * 4
    mine, mine_again, other, other_again = connections
    assert mine is mine_again is not other
    assert other is other_again


def test_a_connection_that_the_server_has_closed_is_replaced(stored: redis.Redis) -> None:
    assert cache.fetch(["a"]) == [b"1"]
    cut(stored, cache._line._connection)
    assert cache.fetch(["a"]) == [b"1"]
    assert cache.breaker.failed_at == float("-inf")


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(("breaks", "answer"), [(4, True), (5, None)])
def test_connections_that_break_are_no_outage_until_there_are_too_many(
    breaks: int, answer: bool | None
) -> None:
    left = [redis.ConnectionError("cut")] * breaks

    def question(client: redis.Redis) -> bool:
        if left:
            raise left.pop()
        return bool(client.ping())

    assert cache.ask(question) is answer
    assert (cache.breaker.failed_at == float("-inf")) is (answer is True)


@pytest.mark.usefixtures("stored")
def test_a_connection_from_before_a_failure_is_not_used_again() -> None:
    """What made Redis fail for one thread may have cut off the others as well."""
    assert cache.fetch(["a"]) == [b"1"]
    first = cache._line._connection
    cache.breaker.trip(0.0)
    assert cache.fetch(["a"]) == [b"1"]
    assert not first.is_connected


def test_another_server_has_another_connection(
    stored: redis.Redis, private_redis: PrivateRedis, jobs_settings: Callable[..., None]
) -> None:
    assert cache.fetch(["a"]) == [b"1"]
    jobs_settings(cache_url=private_redis.url)
    assert cache.fetch(["a"]) == [None]


def test_an_answer_that_came_too_late_is_not_taken_for_the_next(
    private_redis: PrivateRedis, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(cache_url=private_redis.url, cache_timeout_seconds=0.2, cache_retry_seconds=0.01)
    cache.client().mset({"a": "1", "b": "2"})
    assert cache.fetch(["a"]) == [b"1"]
    private_redis.freeze()
    assert cache.fetch(["a"]) is None
    private_redis.thaw()
    deadline = time.monotonic() + 10
    while (found := cache.fetch(["b"])) is None:
        assert time.monotonic() < deadline
    assert found == [b"2"]


@pytest.mark.usefixtures("stored")
def test_a_question_that_was_broken_off_leaves_no_answer_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stop(BaseException):
        """As a signal handler raises it between question and answer."""

    def stopped(*_: object, **__: object) -> None:
        raise Stop

    assert cache.fetch(["a"]) == [b"1"]
    with monkeypatch.context() as patch:
        patch.setattr(redis.connection.Connection, "read_response", stopped)
        with pytest.raises(Stop):
            cache.fetch(["a"])
    assert cache.fetch(["b"]) == [b"2"]


def test_what_is_told_is_carried_out_and_its_answers_are_nobody_elses(stored: redis.Redis) -> None:
    stored.rpush("list", "x")
    for _ in range(3):
        cache.tell([("INCR", "a"), ("INCR", "list")])
        assert cache.fetch(["b"]) == [b"2"]
    assert cache.fetch(["a"]) == [b"4"]
    assert cache.breaker.failed_at == float("-inf")


def test_answers_that_nobody_wants_do_not_pile_up(redis_cache: redis.Redis) -> None:
    most = 0
    for _ in range(3 * cache._MOST_UNWANTED):
        cache.tell([("INCR", "n")])
        most = max(most, cache._line._unwanted)
    assert most == cache._MOST_UNWANTED
    assert cache.fetch(["n"]) == [b"%d" % (3 * cache._MOST_UNWANTED)]


def test_who_tells_does_not_wait_for_a_frozen_redis_and_notices_it_in_the_end(
    private_redis: PrivateRedis, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(cache_url=private_redis.url, cache_timeout_seconds=1.0, cache_retry_seconds=0.01)
    cache.client().set("a", "1")
    cache.tell([("PING",)])
    private_redis.freeze()
    began = time.monotonic()
    cache.tell([("PING",)])
    assert time.monotonic() - began < 0.5
    for _ in range(cache._MOST_UNWANTED):
        cache.tell([("PING",)])
    assert 1.0 <= time.monotonic() - began < 5
    assert cache.breaker.failed_at > began
    private_redis.thaw()
    deadline = time.monotonic() + 10
    while (found := cache.fetch(["a"])) is None:
        assert time.monotonic() < deadline
    assert found == [b"1"]


def test_a_connection_that_was_closed_meanwhile_owes_no_answers(stored: redis.Redis) -> None:
    assert cache.fetch(["a"]) == [b"1"]
    cut(stored, cache._line._connection)
    cache.tell([("PING",)])
    assert cache._line._unwanted == 1
    assert cache.fetch(["b"]) == [b"2"]
    assert cache.breaker.failed_at == float("-inf")


@pytest.mark.timeout(30)
def test_a_server_that_accepts_and_says_nothing_costs_one_bound(
    jobs_settings: Callable[..., None],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        jobs_settings(cache_url=f"redis://127.0.0.1:{port}/0", cache_timeout_seconds=0.3)
        began = time.monotonic()
        assert cache.fetch(["a"]) is None
        assert 0.3 <= time.monotonic() - began < 3
        assert cache.breaker.failed_at > began
