"""Clients that wait at a real process: many, few threads, all told, and nobody told too much."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from django.contrib.auth.models import User
from django.db import connections

from interlock.local.ports import free_port
from interlock.local.redis_server import RedisServer, installed_binary
from jobs import keys
from jobs.models import ApiKey, Scope
from tests.marks import until
from tests.services import Services
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


def started(stack: Stack) -> Place:
    stack.jobs["waiting_limit"] = MANY
    stack.start("api")
    process = stack.spawn("waiting", port=free_port())
    until(lambda: stack.ready(process), 60, stack.tails)
    return Place(stack, process)


@pytest.fixture
def place(quiet: Stack) -> Place:
    return started(quiet)


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


def test_a_key_that_was_revoked_gets_no_news_and_a_stranger_never(place: Place) -> None:
    [job_id] = place.stack.submit("noop")
    stranger_id = User.objects.create_user("stranger").pk
    other = keys.issue(stranger_id, "other", list(Scope))
    revoked = keys.issue(User.objects.get(username="stack").pk, "revoked", list(Scope))

    async def scene() -> None:
        [stranger] = await place.clients(job_id, 1, Authorization=f"Bearer {other}")
        assert (await stranger.told()).status == 404
        # They come first, so that theirs is the question that others might be answered by.
        good = await place.clients(job_id, 50)
        clients = await place.clients(job_id, 50, Authorization=f"Bearer {revoked}")
        await place.settled([*clients, *good])
        await asyncio.to_thread(_revoke, revoked)
        await place.cancel(job_id)
        told = await all_told(clients, 10)
        assert {one.status for one in told} <= {401, 429}
        assert not any(b"CANCELLED" in one.body for one in told)
        assert {one.status for one in await all_told(good, 10)} == {200}

    place.play(scene)


def test_who_leaves_makes_room_and_beyond_it_nobody_waits(place: Place) -> None:
    [job_id] = place.stack.submit("noop")

    async def scene() -> None:
        clients = await place.clients(job_id, MANY)
        await place.settled(clients)
        [late] = await place.clients(job_id, 1)
        began = time.monotonic()
        assert (await late.told()).status == 304
        assert time.monotonic() - began < 2
        for client in clients[:10]:
            client.leave()
        await asyncio.sleep(0.5)
        again = await place.clients(job_id, 10)
        await place.settled(again)

    place.play(scene)


def test_a_stop_answers_all_who_wait_soon(place: Place) -> None:
    [job_id] = place.stack.submit("noop")

    async def scene() -> None:
        clients = await place.clients(job_id, MANY)
        await place.settled(clients)
        began = time.monotonic()
        place.process.send(signal.SIGTERM)
        told = await all_told(clients, 10)
        assert {one.status for one in told} == {304}
        assert await asyncio.to_thread(place.process.wait, 10) == 0
        assert time.monotonic() - began < 8

    place.play(scene)


def test_statuses_only_go_forwards_from_one_wait_to_the_next(place: Place) -> None:
    """Each client asks again with what it was told, while the job is cancelled and retried."""
    [job_id] = place.stack.submit("noop")

    async def follow(until: float) -> list[tuple[int, ...]]:
        seen, tag = [], ""
        while time.monotonic() < until:
            [client] = await place.clients(job_id, 1, wait=1, tag=tag)
            told = await client.told()
            assert told.status == (304 if told.etag == tag else 200)
            tag = told.etag
            seen.append(tuple(int(part) for part in tag.strip('"').split(".")))
        return seen

    async def scene() -> None:
        following = [asyncio.create_task(follow(time.monotonic() + 5)) for _ in range(20)]
        for _ in range(4):
            await asyncio.sleep(0.4)
            await place.cancel(job_id)
            await asyncio.sleep(0.4)
            answer = await asyncio.to_thread(place.stack.retry, job_id)
            assert answer.status == 200, answer.body
        for task in following:
            seen = await task
            assert seen == sorted(seen)
            assert seen[-1] == (9, 0)

    place.play(scene)


@pytest.mark.parametrize("is_back", [False, True])
def test_a_redis_that_is_killed_delays_the_news_and_loses_none(
    migrated: str, tmp_path: Path, is_back: bool
) -> None:
    if installed_binary() is None:
        pytest.skip("no redis-server installed here")
    with RedisServer(tmp_path / "redis") as server:
        services = replace(Services.given(), cache_url=server.url)
        with Stack(services, migrated, tmp_path) as stack:
            place = started(stack)
            [job_id] = stack.submit("noop")

            async def scene() -> None:
                clients = await place.clients(job_id, MANY)
                await place.settled(clients)
                await asyncio.to_thread(server.kill)
                if is_back:
                    await asyncio.to_thread(server.start)
                    # The writer and the process that waits have both noticed by then.
                    await asyncio.sleep(2.5)
                began = time.monotonic()
                await place.cancel(job_id)
                told = await all_told(clients, 15)
                assert {(one.status, one.etag) for one in told} == {(200, '"2.0"')}
                assert max(one.at for one in told) - began < 5

            place.play(scene)
            if not is_back:
                server.start()


def _revoke(secret: str) -> None:
    try:
        mine = ApiKey.objects.filter(digest=ApiKey.digest_of(secret))
        keys.revoke(mine.values_list("id", flat=True))
    finally:
        connections.close_all()
