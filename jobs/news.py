"""News of jobs for coroutines: one subscription connection for all that wait in a process.

Best effort, as everything in Redis. A listener says of which jobs it really hears, and calls
``on_change`` for a job whenever it hears of it again: what was told before that may have been
missed, so its owner looks.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import redis

from jobs import cache, conf, status

log = logging.getLogger("jobs.news")

#: Silence of a connection after which Redis is asked whether it lives; after twice that it is dead.
_SILENCE_SECONDS = 1.0
#: Channels in one command.
_AT_ONCE = 500


class Listener:
    """Hears of the jobs that were added to it. Everything but ``run`` is called from its loop."""

    def __init__(self, on_change: Callable[[UUID], None]) -> None:
        """``on_change`` is called with a job of which there is news, or may have been."""
        self._on_change = on_change
        self._wanted: dict[str, UUID] = {}
        self._asked: set[str] = set()
        self._heard: set[str] = set()
        self._changed: set[str] = set()
        self._has_changed = asyncio.Event()
        self._connected = False
        self._is_closed = False

    @property
    def works(self) -> bool:
        """Whether there is a Redis that tells."""
        return self._connected

    def add(self, job_id: UUID) -> bool:
        """Hear of a job from soon on; False if ``on_change`` will not be called to say so."""
        channel = status.channel_of(job_id)
        self._wanted[channel] = job_id
        self._touch(channel)
        return self._connected and channel not in self._heard

    def discard(self, job_id: UUID) -> None:
        """Hear no more of it."""
        channel = status.channel_of(job_id)
        self._wanted.pop(channel, None)
        self._touch(channel)

    def close(self) -> None:
        """End ``run`` soon. Cancel it as well: it may be waiting for Redis."""
        self._is_closed = True

    async def run(self) -> None:
        """Listen until closed, over a new connection whenever one breaks."""
        while conf.get().cache_url and not self._is_closed:
            try:
                await self._listen()
            except Exception as error:
                # Without news everybody is looked after at a slower pace, and that must go on.
                if self._connected:
                    log.warning("no news of jobs until Redis is back: %s", error)
            self._connected = False
            await asyncio.sleep(conf.get().cache_retry_seconds * random.uniform(0.5, 1.0))

    async def _listen(self) -> None:
        connection = cache.listener()
        writer: asyncio.Task[None] | None = None
        over = asyncio.Event()
        connecting = asyncio.ensure_future(connection.connect())
        try:
            await asyncio.shield(connecting)
            self._asked.clear()
            self._heard.clear()
            self._changed = set(self._wanted)
            self._has_changed.set()
            self._connected = True
            writer = asyncio.create_task(self._write(connection, over))
            await self._read(connection)
        finally:
            over.set()
            self._has_changed.set()
            # Cancelled in its midst, it would leave a socket that nobody closes. It is bounded.
            await asyncio.wait([connecting])
            await connection.disconnect(nowait=True)
            if writer is not None:
                await asyncio.wait([writer])

    # Both loops end by a flag and not by being cancelled alone: before Python 3.12 a cancellation
    # is lost if it meets the end of a ``wait_for``, which redis-py sends with.

    async def _read(self, connection: Any) -> None:
        doubted = False
        while not self._is_closed:
            answer = await connection.read_response(timeout=_SILENCE_SECONDS)
            if answer is not None:
                doubted = False
                self._take(answer)
            elif doubted:
                raise redis.TimeoutError("Redis has fallen silent")
            else:
                doubted = True
                await connection.send_command("PING")

    async def _write(self, connection: Any, over: asyncio.Event) -> None:
        try:
            while not over.is_set():
                await self._has_changed.wait()
                self._has_changed.clear()
                await self._subscribe(connection)
        except Exception:
            # The reader finds the connection closed, and says so.
            await connection.disconnect(nowait=True)

    async def _subscribe(self, connection: Any) -> None:
        changed, self._changed = self._changed, set()
        new = [name for name in changed if name in self._wanted and name not in self._asked]
        old = [name for name in changed if name not in self._wanted and name in self._asked]
        self._asked.difference_update(old)
        self._asked.update(new)
        for command, channels in (("UNSUBSCRIBE", old), ("SUBSCRIBE", new)):
            for some in _portions(channels):
                await connection.send_command(command, *some)

    def _take(self, answer: Any) -> None:
        kind, channel = answer[0], bytes(answer[1]).decode()
        if kind == b"unsubscribe":
            self._heard.discard(channel)
            return
        if kind == b"subscribe":
            self._heard.add(channel)
        job_id = self._wanted.get(channel)
        if job_id is not None:
            self._on_change(job_id)

    def _touch(self, channel: str) -> None:
        # A new connection asks for all that is wanted; meanwhile there is nothing to remember.
        if self._connected:
            self._changed.add(channel)
            self._has_changed.set()


def _portions(channels: list[str]) -> Iterable[list[str]]:
    return (channels[at : at + _AT_ONCE] for at in range(0, len(channels), _AT_ONCE))
