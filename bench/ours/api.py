"""The API of the platform, or any WSGI application, on the server that the platform documents."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from io import StringIO

from django.core.management import call_command

from bench.load import Call
from bench.peers.base import ROOT, module
from bench.place import Place
from bench.processes import Running, Tree
from interlock.local.ports import LOOPBACK, free_port

_START_SECONDS = 30.0
#: How the API and the process of waiting clients are started.
THREADS = ("--interface", "wsgi", "--blocking-threads", "16")
COROUTINES = (
    *("--interface", "asgi", "--loop", "asyncio", "--http", "1", "--no-ws"),
    *("--http1-buffer-size", "8192", "--backlog", "16384"),
)


@contextmanager
def serving(
    place: Place,
    application: str,
    environment: Mapping[str, str] | None = None,
    options: Sequence[str] = THREADS,
) -> Iterator[tuple[str, Tree]]:
    """Granian as documented: one process. Yields the address and the process.

    The server has the first core for itself and everything else the others, so that the load
    generator, Redis and PostgreSQL don't take from what is measured. With one core all share it.
    """
    port = free_port()
    command = module(
        *("granian", application, "--host", LOOPBACK, "--port", str(port), "--workers", "1"),
        *(*options, "--log-level", "warning"),
    )
    running = Running(command, {**os.environ, **(environment or {})}, ROOT, place.path / "api.log")
    try:
        _wait_listening(port, running)
        with _apart(running.tree, place):
            yield f"http://{LOOPBACK}:{port}", running.tree
    finally:
        running.stop()


def bootstrap() -> tuple[int, dict[str, str]]:
    """An account with an API key: its user id, and the headers that it sends."""
    from django.contrib.auth import get_user_model

    printed = StringIO()
    call_command("jobs_bootstrap", username="bench", password="of-no-value-1", stdout=printed)
    made = json.loads(printed.getvalue())
    user = get_user_model().objects.get(username="bench")
    headers = {"Authorization": f"Bearer {made['api_key']}", "Content-Type": "application/json"}
    return int(user.pk), headers


def submission(number: int = 0) -> dict[str, object]:
    """One job as the API takes it."""
    from bench.ours.handlers import NAME
    from bench.peers.base import payload

    return {"handler": NAME, "payload": payload(number)}


def posting(address: str, headers: Mapping[str, str], content: object) -> Call:
    return Call(address, "POST", headers, json.dumps(content))


@contextmanager
def _apart(server: Tree, place: Place) -> Iterator[None]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        yield
        return
    others = [Tree(os.getpid()), *place.services().values()]
    for tree in others:
        tree.pin(cores[1:])
    server.pin(cores[:1])
    try:
        yield
    finally:
        for tree in others:
            tree.pin(cores)


def _wait_listening(port: int, running: Running) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if running.ended:
            raise RuntimeError(f"the server ended: {running.last_words()}")
        connection = HTTPConnection(LOOPBACK, port, timeout=1)
        with suppress(OSError):
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        time.sleep(0.1)
    raise TimeoutError(f"no answer on port {port}: {running.last_words()}")
