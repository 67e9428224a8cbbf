"""Redis alone: by the usual client on one connection, and by its own load generator."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import redis

from bench.place import Place

_VALUE = b"x" * 500
_OWN = {"benchmark": [], "benchmark_pipelined": ["-P", "16"]}


def measure(place: Place) -> dict[str, float]:
    """Operations per second with values as long as a status."""
    client = redis.Redis.from_url(place.cache_url)
    count = place.plan.bulk
    figures = {
        "python_set_per_second": _rate(count, lambda: client.set("bench", _VALUE)),
        "python_get_per_second": _rate(count, lambda: client.get("bench")),
        "python_mget_1000_keys_per_second": 1000
        * _rate(max(10, count // 100), lambda: client.mget(["bench"] * 1000)),
    }
    return figures | _by_redis_benchmark(place)


def _rate(count: int, call: Callable[[], object]) -> float:
    began = time.monotonic()
    for _ in range(count):
        call()
    return count / (time.monotonic() - began)


def _by_redis_benchmark(place: Place) -> dict[str, float]:
    program = shutil.which("redis-benchmark")
    if program is None:
        return {}
    parts = urlsplit(place.cache_url)
    figures = {}
    for name, options in _OWN.items():
        command = [program, "-h", str(parts.hostname), "-p", str(parts.port), "-c", "32"]
        if parts.password:
            command += ["-a", parts.password]
        command += ["-t", "set,get", "-n", "50000", "-d", str(len(_VALUE)), "--csv", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for operation, rate in re.findall(r'"(SET|GET)","([\d.]+)"', done.stdout):
            figures[f"{name}_{operation.lower()}_per_second"] = float(rate)
    return figures
