"""What workers tell of their handlers' pace, and what a relay makes of it."""

from __future__ import annotations

import time

import pytest
import redis

from jobs import cache, pace
from jobs.executor import Executor
from jobs.pace import Pace, Paces
from jobs.values import Doorbell
from tests.verbs import HANDLER, submit


def key(client: redis.Redis) -> bytes:
    [name] = client.keys("*:pace")
    assert isinstance(name, bytes)
    return name


@pytest.mark.usefixtures("redis_cache")
def test_a_relay_learns_what_a_worker_has_measured() -> None:
    assert Paces().seconds() == {}
    mine = Pace()
    mine.note("quick", 0.25)
    mine.note("slow", 4.0)
    mine.tell()
    assert Paces().seconds() == {"quick": 0.25, "slow": 4.0}


@pytest.mark.usefixtures("redis_cache")
def test_the_average_moves_to_what_is_new() -> None:
    mine = Pace()
    mine.note("changes", 10.0)
    for _ in range(50):
        mine.note("changes", 0.1)
    mine.tell()
    assert Paces().seconds()["changes"] == pytest.approx(0.1, rel=0.01)


def test_nobody_writes_or_reads_more_than_once_a_second(
    redis_cache: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    mine, theirs = Pace(), Paces()
    for seconds in (1.0, 2.0):
        mine.note("x", seconds)
        mine.tell()
        assert redis_cache.hgetall(key(redis_cache)) == {b"x": b"1.0"}
        assert theirs.seconds() == {"x": 1.0}
    now += 1.01 * pace.SECONDS
    mine.tell()
    assert theirs.seconds() == {"x": 1.2}
    assert 0 < redis_cache.ttl(key(redis_cache)) <= pace.LIFE_SECONDS


def test_a_handler_of_unknown_pace_is_looked_for_again_soon(
    redis_cache: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    mine, theirs = Pace(), Paces()
    assert theirs.seconds({"new"}) == {}
    mine.note("new", 0.1)
    mine.tell()
    assert theirs.seconds({"new"}) == {}
    now += 1.01 * pace.UNKNOWN_SECONDS
    assert theirs.seconds() == {}
    assert theirs.seconds({"new"}) == {"new": 0.1}
    redis_cache.hset(key(redis_cache), "new", b"0.2")
    now += 1.01 * pace.UNKNOWN_SECONDS
    assert theirs.seconds({"new"}) == {"new": 0.1}


@pytest.mark.parametrize("value", [b"", b"soon", b"nan", b"inf", b"-1", b"\xff"])
def test_what_is_no_pace_is_unknown(redis_cache: redis.Redis, value: bytes) -> None:
    mine = Pace()
    mine.note("good", 0.5)
    mine.tell()
    redis_cache.hset(key(redis_cache), "bad", value)
    assert Paces().seconds() == {"good": 0.5}


def test_without_redis_nothing_is_known() -> None:
    mine = Pace()
    mine.note("x", 1.0)
    mine.tell()
    assert Paces().seconds() == {}


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis_cache")
def test_a_worker_tells_of_what_succeeds_and_of_nothing_else() -> None:
    executor = Executor("worker:1")
    [bad] = submit(payload={"action": "permanent"})
    executor.answer([Doorbell(bad.id, 1)])
    assert Paces().seconds() == {}
    [good] = submit(payload={"action": "sleep", "seconds": 0.05})
    executor.answer([Doorbell(good.id, 1)])
    assert 0.05 <= Paces().seconds()[HANDLER] < 30


def test_somebody_elses_value_in_its_place_is_removed(redis_cache: redis.Redis) -> None:
    mine = Pace()
    mine.note("quick", 0.25)
    mine.tell()
    name = key(redis_cache)
    redis_cache.set(name, b"not a hash")
    assert Paces().seconds() == {}
    other = Pace()
    for seconds in (0.5, 0.5):
        other.note("quick", seconds)
        other.tell()
        other = Pace()
    assert Paces().seconds() == {"quick": 0.5}
    assert cache.breaker.failed_at == float("-inf")
