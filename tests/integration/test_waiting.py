"""Clients that wait at a real process: many, few threads, all told, and nobody told too much."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

import psutil
import pytest

from interlock.local.ports import free_port
from tests.marks import until
from tests.stack import Process, Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]

#: More than any pool of threads here.
MANY = 300
FIRST = '"1.0"'


@dataclass(frozen=True)
class Told:
    """What one client was answered, and when."""

    at: float
    status: int
    etag: str
    body: bytes


class Client:
    """One long poll on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def ask(cls, port: int, path: str, headers: Mapping[str, str]) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return cls(reader, writer)

    async def told(self) -> Told:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        line, *rest = head.split("\r\n")
        headers = dict(one.split(": ", 1) for one in rest if one)
        status = int(line.split()[1])
        length = 0 if status == 304 else int(headers["content-length"])
        body = await self._reader.readexactly(length)
        self.leave()
        return Told(time.monotonic(), status, headers.get("etag", ""), body)

    def leave(self) -> None:
        with suppress(OSError):
            self._writer.close()


@dataclass(frozen=True)
class Place:
    """A stack with a waiting process, whose clients all have the same key."""

    stack: Stack
    process: Process
    asked: list[Client] = field(default_factory=list)

    def play(self, scene: Callable[[], Awaitable[None]]) -> None:
        """Run it, and hang up whatever happened."""

        async def played() -> None:
            try:
                await scene()
            finally:
                for client in self.asked:
                    client.leave()
                await asyncio.sleep(0.05)

        asyncio.run(played())

    async def cancel(self, job_id: UUID) -> None:
        """By another process, which tells it."""
        answer = await asyncio.to_thread(self.stack.cancel, job_id)
        assert answer.status == 200, answer.body

    async def clients(
        self, job_id: UUID, count: int, *, wait: float = 30, tag: str = FIRST, **more: str
    ) -> list[Client]:
        headers = {"Authorization": f"Bearer {self.stack.key}", **more}
        if tag:
            headers["If-None-Match"] = tag
        path = f"/api/v1/jobs/{job_id}/status/?wait={wait:g}"
        new = [await Client.ask(self.process.port, path, headers) for _ in range(count)]
        self.asked.extend(new)
        return new

    async def settled(self, clients: Sequence[Client]) -> None:
        """All of them wait: each has had its first look, and nobody was answered."""
        await asyncio.sleep(0.5)
        for client in clients[-1:]:
            await self.silent(client, 1.0)

    async def silent(self, client: Client, seconds: float) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await client._reader.readexactly(1)

    def threads(self) -> int:
        return max(psutil.Process(pid).num_threads() for pid in self.process.children())


@pytest.fixture
def place(quiet: Stack) -> Place:
    quiet.start("api")
    quiet.jobs["waiting_limit"] = MANY
    process = quiet.spawn("waiting", port=free_port())
    until(lambda: quiet.ready(process), 60, quiet.tails)
    return Place(quiet, process)


async def all_told(clients: Sequence[Client], seconds: float) -> list[Told]:
    async with asyncio.timeout(seconds):
        return list(await asyncio.gather(*(client.told() for client in clients)))


def test_one_update_reaches_all_who_wait_with_a_handful_of_threads(place: Place) -> None:
    [job_id] = place.stack.submit("noop")

    async def scene() -> None:
        clients = await place.clients(job_id, MANY)
        await place.settled(clients)
        assert place.threads() < 30
        began = time.monotonic()
        await place.cancel(job_id)
        told = await all_told(clients, 10)
        assert {(one.status, one.etag) for one in told} == {(200, '"2.0"')}
        assert max(one.at for one in told) - began < 3

    place.play(scene)
