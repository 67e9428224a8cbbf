"""Clients that wait for one job's status: how many one process holds, and when all are told."""

from __future__ import annotations

import asyncio
import resource
import time
from contextlib import suppress
from urllib.parse import urlsplit

from bench.load import Call, answer, as_bytes, require
from bench.marks import Marks
from bench.ours.api import COROUTINES, bootstrap, serving
from bench.ours.platform_peer import Interlock
from bench.place import Place
from bench.processes import Tree
from bench.scenario import Scenario, slots_for

_WAIT_SECONDS = 30
#: So long no client may have got an answer: then those that still wait are held.
_QUIET_SECONDS = 2.0
#: Sockets are made in portions: a server's backlog is short.
_AT_ONCE = 100


def measure(place: Place) -> dict[str, float]:
    """Long polls of one job; ``held`` of ``asked`` clients were kept waiting."""
    clients = place.plan.waiters
    _allow_sockets(clients)
    ours = Interlock(place)
    marks = Marks(place.path / "marks", slots_for(place))
    ours.prepare()
    owner, headers = bootstrap()
    ours.owner_id = owner
    try:
        ours.start()
        Scenario(ours, place, marks).warm_up()
        for tree in ours.trees(["worker"]):
            tree.freeze()
        [handle] = ours.submit_many(marks.take(1))
        held_by = serving(place, "interlock.asgi:application", options=COROUTINES)
        with held_by as (address, server):
            url = f"{address}/api/v1/jobs/{handle}/status/"
            require(Call(url, headers=headers), 200)
            tag = {**headers, "If-None-Match": '"1.0"'}
            call = Call(f"{url}?wait={_WAIT_SECONDS}", headers=tag)
            return asyncio.run(_waiting(call, clients, ours, server))
    finally:
        ours.stop()


async def _waiting(call: Call, clients: int, ours: Interlock, server: Tree) -> dict[str, float]:
    before = server.megabytes()[0]
    tasks: list[asyncio.Task[float]] = []
    for first in range(0, clients, _AT_ONCE):
        count = min(_AT_ONCE, clients - first)
        tasks += [asyncio.create_task(_client(call)) for _ in range(count)]
        await asyncio.sleep(0.05)
    held = await _held(tasks)
    memory = server.megabytes()[0]
    began = time.monotonic()
    for tree in ours.trees(["worker"]):
        tree.thaw()
    told = [at for task in held if (at := await task) > 0]
    return {
        "asked": float(clients),
        "held": float(len(told)),
        "memory_before_mb": before,
        "memory_mb": memory,
        "told_seconds": max(told, default=began) - began,
    }


async def _held(tasks: list[asyncio.Task[float]]) -> list[asyncio.Task[float]]:
    """Those that wait once everybody else has been answered, which is at once."""
    while True:
        before = [task for task in tasks if not task.done()]
        await asyncio.sleep(_QUIET_SECONDS)
        if not any(task.done() for task in before):
            return before


async def _client(call: Call) -> float:
    """When its answer came; 0.0 when it was refused or cut off."""
    with suppress(OSError, asyncio.IncompleteReadError):
        parts = urlsplit(call.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(as_bytes(call))
        status, _ = await answer(reader)
        writer.close()
        return time.monotonic() if status == 200 else 0.0
    return 0.0


def _allow_sockets(count: int) -> None:
    """Two per client: its own, and the server's, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 1000
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
