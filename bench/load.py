"""A load generator: wrk if it can be had, else a client of our own.

The figures say which one it was; the own one is slower, so compare within one run only.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from bench.latency import percentiles
from interlock.local.provision import install_packages

CONNECTIONS = 32
_WARM_SECONDS = 1.0
#: At the end, wrk prints one line that is easier read than its report.
_LUA = """
wrk.method = "%s"
%s
%s
done = function(summary, latency, requests)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.timeout + summary.errors.status
  io.write(string.format("RESULT %%d %%d %%d %%f %%f\\n", summary.requests, bad, summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


@dataclass(frozen=True)
class Call:
    """One HTTP request, sent again and again."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


@cache
def generator() -> str:
    """``wrk``, installed if that needs no question, or ``own``."""
    if shutil.which("wrk") is None:
        install_packages(["wrk"], lambda text: print(f"[bench] {text}", file=sys.stderr))
    return "wrk" if shutil.which("wrk") else "own"


def load(
    call: Call, seconds: float, directory: Path, *, name: str, connections: int = CONNECTIONS
) -> dict[str, float]:
    """Requests per second and percentiles with keep-alive connections that never rest.

    Raises RuntimeError if a request was answered by an error, because errors are quick.
    """
    run = _wrk if generator() == "wrk" else _own
    run(call, _WARM_SECONDS, directory, connections)
    rate, errors, p50, p99 = run(call, seconds, directory, connections)
    if errors:
        raise RuntimeError(f"{errors} answers of {call.method} {call.url} were errors")
    return {f"{name}_per_second": rate, f"{name}_p50_ms": p50, f"{name}_p99_ms": p99}


def require(call: Call, status: int) -> bytes:
    """One request; the answer's body. Raises RuntimeError for another status."""
    parts = urlsplit(call.url)
    connection = HTTPConnection(parts.netloc, timeout=60)
    try:
        connection.request(call.method, parts.path, call.body.encode() or None, dict(call.headers))
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != status:
            raise RuntimeError(f"{call.method} {call.url}: {answer.status} {body[:300]!r}")
        return body
    finally:
        connection.close()


def _wrk(
    call: Call, seconds: float, directory: Path, connections: int
) -> tuple[float, int, float, float]:
    headers = "\n".join(
        f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in call.headers.items()
    )
    body = f"wrk.body = {_lua(call.body)}" if call.body else ""
    script = directory / "load.lua"
    script.write_text(_LUA % (call.method, headers, body))
    length = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    done = subprocess.run(
        ["wrk", *length, "-s", str(script), call.url], capture_output=True, text=True, check=True
    )
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\S+) (\S+)", done.stdout)
    if found is None:
        raise RuntimeError(f"wrk said no figures: {done.stdout[-500:]}")
    requests, errors, microseconds = (int(found[number]) for number in (1, 2, 3))
    return requests * 1e6 / microseconds, errors, float(found[4]), float(found[5])


def _lua(text: str) -> str:
    """A string of Lua, which is one of JSON but for escapes beyond ASCII."""
    return json.dumps(text, ensure_ascii=False)


def _own(
    call: Call, seconds: float, directory: Path, connections: int
) -> tuple[float, int, float, float]:
    del directory
    times, errors = asyncio.run(_many(call, seconds, connections))
    figures = percentiles("own", times)
    return len(times) / seconds, errors, figures["own_p50_ms"], figures["own_p99_ms"]


async def _many(call: Call, seconds: float, connections: int) -> tuple[list[float], int]:
    until = time.monotonic() + seconds
    found = await asyncio.gather(*(_one(call, until) for _ in range(connections)))
    times = [second for seconds_of, _ in found for second in seconds_of]
    return times, sum(errors for _, errors in found)


async def _one(call: Call, until: float) -> tuple[list[float], int]:
    parts = urlsplit(call.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    request = as_bytes(call)
    times, errors = [], 0
    while (began := time.monotonic()) < until:
        writer.write(request)
        status, _ = await answer(reader)
        errors += status >= 400
        times.append(time.monotonic() - began)
    writer.close()
    return times, errors


def as_bytes(call: Call) -> bytes:
    """The request as it goes over the wire."""
    parts = urlsplit(call.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"{call.method} {target} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in call.headers.items()]
    lines += [f"Content-Length: {len(call.body.encode())}"] if call.body else []
    return "\r\n".join([*lines, "", call.body]).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer on a connection that stays open."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    body = await reader.readexactly(int(length[1])) if length else b""
    return int(head[9:12]), body
