"""Redis forgets, is too small, lies, freezes, dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from random import Random
from typing import Any

import redis

from tests.faults.suite.fault import DidNotStrike, every, fault
from tests.faults.suite.world import World


@fault(
    "Redis: FLUSHALL again and again under load",
    threatens=["I10", "I13"],
    touches=["redis"],
    back="redis",
)
def flushed(world: World, rng: Random) -> Iterator[None]:
    with closing(world.redis()) as client, every(0.1, client.flushall):
        yield


@fault(
    "Redis: room for 1 MB, evicting all the time",
    threatens=["I10"],
    touches=["redis"],
    back="redis",
)
def too_small(world: World, rng: Random) -> Iterator[None]:
    with closing(world.redis()) as client:
        before = str(client.config_get("maxmemory")["maxmemory"])
        # Newer releases need more than that for themselves.
        room = int(client.info("memory")["used_memory_startup"]) + 1024**2
        client.config_set("maxmemory", room)

        def fill() -> None:
            for number in range(50):
                with suppress(redis.ResponseError):
                    client.set(f"ballast:{number}", rng.randbytes(8000), ex=5)

        with every(0.1, fill):
            yield
        evicted = client.info("stats")["evicted_keys"]
        client.config_set("maxmemory", before)
    if not evicted:
        raise DidNotStrike("nothing was evicted")


@fault("Redis: killed", threatens=["I10"], touches=["redis"], back="redis")
def killed(world: World, rng: Random) -> Iterator[None]:
    world.servers.redis.kill()
    yield
    world.servers.redis.start()


@fault("Redis: frozen", threatens=["I10"], touches=["redis"], back="redis", hold=3.0)
def frozen(world: World, rng: Random) -> Iterator[None]:
    pid = world.servers.redis.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@fault(
    "Redis: foreign bytes in values",
    threatens=["I10", "I13"],
    touches=["redis"],
    back="redis",
)
def foreign_bytes(world: World, rng: Random) -> Iterator[None]:
    with closing(world.redis()) as client, every(0.2, lambda: _spoil(world, client, rng)):
        yield
    with closing(world.redis()) as client:
        client.flushall()


@fault(
    "Redis: values of other jobs under a job's key",
    threatens=["I10", "I13"],
    touches=["redis"],
    back="redis",
)
def mixed_up(world: World, rng: Random) -> Iterator[None]:
    with closing(world.redis()) as client, every(0.2, lambda: _mix(world, client, rng)):
        yield
    with closing(world.redis()) as client:
        client.flushall()


def _keys(world: World, client: Any) -> list[bytes]:
    return sorted(client.scan_iter(f"{world.stack.name}:*", count=1000))


def _spoil(world: World, client: Any, rng: Random) -> None:
    """Give up to 50 keys values of the wrong type, of no meaning, or cut in the middle."""
    keys = _keys(world, client)
    for key in rng.sample(keys, min(50, len(keys))):
        client.delete(key)
        kind = rng.randrange(5)
        if kind == 0:
            client.lpush(key, "a list")
        elif kind == 1:
            client.hset(key, mapping={"v": "many", "b": "{"})
        elif kind == 2:
            client.set(key, rng.randbytes(100))
        elif kind == 3:
            client.set(key, json.dumps({"state": "COMPLETED"}))
        else:
            client.set(key, b"\x80\x04\x95pickled")


def _mix(world: World, client: Any, rng: Random) -> None:
    """Copy the values of some keys onto others of the same kind."""
    kinds: dict[bytes, list[bytes]] = {}
    for key in _keys(world, client):
        kinds.setdefault(key.split(b":")[1], []).append(key)
    for keys in kinds.values():
        shuffled = rng.sample(keys, len(keys))
        for source, target in zip(keys[:50], shuffled, strict=False):
            if source != target:
                client.copy(source, target, replace=True)
