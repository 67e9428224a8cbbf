"""News of jobs for coroutines: one thread and one subscription connection for all that wait here.

Best effort, as everything in Redis. A listener says of which jobs it really hears, and calls
``on_change`` for a job whenever it hears of it again: what was told before that may have been
missed, so its owner looks.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any
from uuid import UUID

from jobs import cache, conf, status

log = logging.getLogger("jobs.news")

#: Silence of a connection after which Redis is asked whether it lives; after twice that it is dead.
_SILENCE_SECONDS = 1.0
#: Longest time until a new wish is carried out.
_TURN_SECONDS = 0.05
#: Channels in one command, and pieces of news in one call to the loop.
_AT_ONCE = 500
#: Somebody must always be subscribed to, for the connection to be one.
_NOBODY = "nobody"


class Listener:
    """Hears of the jobs that were added to it. Called from its loop, where ``on_change`` runs."""

    def __init__(self, on_change: Callable[[UUID], None]) -> None:
        """``on_change`` is called with a job of which there is news, or may have been."""
        self._on_change = on_change
        self._wanted: dict[str, UUID] = {}
        self._asked: set[str] = set()
        self._heard: set[str] = set()
        self._changed: set[str] = set()
        self._lock = threading.Lock()
        self._connected = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def works(self) -> bool:
        """Whether there is a Redis that tells."""
        return self._connected

    def start(self) -> None:
        """Listen from now on, if there is a Redis at all."""
        self._loop = asyncio.get_running_loop()
        if conf.get().cache_url:
            self._thread = threading.Thread(target=self._run, name="jobs-news", daemon=True)
            self._thread.start()

    async def stop(self) -> None:
        """Listen no more, and leave nothing open."""
        self._closed.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def add(self, job_id: UUID) -> bool:
        """Hear of a job from soon on; False if ``on_change`` will not be called to say so."""
        channel = status.channel_of(job_id)
        with self._lock:
            self._wanted[channel] = job_id
            self._touch(channel)
            return self._connected and channel not in self._heard

    def discard(self, job_id: UUID) -> None:
        """Hear no more of it."""
        channel = status.channel_of(job_id)
        with self._lock:
            self._wanted.pop(channel, None)
            self._touch(channel)

    def _touch(self, channel: str) -> None:
        # A new connection asks for all that is wanted; meanwhile there is nothing to remember.
        if self._connected:
            self._changed.add(channel)

    # -- the thread

    def _run(self) -> None:
        """Listen until closed, over a new connection whenever one breaks."""
        while not self._closed.is_set():
            try:
                self._listen()
            except Exception as error:
                # Without news everybody is looked after at a slower pace, and that must go on.
                if self._connected:
                    log.warning("no news of jobs until Redis is back: %s", error)
            self._connected = False
            self._closed.wait(conf.get().cache_retry_seconds * random.uniform(0.5, 1.0))

    def _listen(self) -> None:
        client = cache.waiting_client(2 * _SILENCE_SECONDS)
        subscription = client.pubsub()  # type: ignore[no-untyped-call] # redis-py leaves it untyped
        try:
            subscription.subscribe(status.channel_of(_NOBODY))
            with self._lock:
                self._asked.clear()
                self._heard.clear()
                self._changed = set(self._wanted)
                self._connected = True
            self._hear(subscription)
        finally:
            subscription.close()
            client.close()

    def _hear(self, subscription: Any) -> None:
        heard_at, asked_at = time.monotonic(), float("-inf")
        while not self._closed.is_set():
            self._subscribe(subscription)
            news = _received(subscription)
            now = time.monotonic()
            if news:
                heard_at = now
                self._tell(news)
            elif now - heard_at > 2 * _SILENCE_SECONDS:
                raise TimeoutError("Redis has fallen silent")
            elif now - max(heard_at, asked_at) > _SILENCE_SECONDS:
                asked_at = now
                subscription.ping()

    def _subscribe(self, subscription: Any) -> None:
        with self._lock:
            changed, self._changed = self._changed, set()
            new = [name for name in changed if name in self._wanted and name not in self._asked]
            old = [name for name in changed if name not in self._wanted and name in self._asked]
            self._asked.difference_update(old)
            self._asked.update(new)
        for ask, channels in ((subscription.unsubscribe, old), (subscription.subscribe, new)):
            for some in _portions(channels):
                ask(*some)

    def _tell(self, news: Collection[tuple[str, str]]) -> None:
        changed: list[UUID] = []
        with self._lock:
            for kind, channel in news:
                if kind == "unsubscribe":
                    self._heard.discard(channel)
                    continue
                if kind == "subscribe":
                    self._heard.add(channel)
                job_id = self._wanted.get(channel)
                if job_id is not None:
                    changed.append(job_id)
        if changed and self._loop is not None:
            self._loop.call_soon_threadsafe(self._pass_on, changed)

    def _pass_on(self, changed: Iterable[UUID]) -> None:
        for job_id in changed:
            self._on_change(job_id)


def _received(subscription: Any) -> list[tuple[str, str]]:
    """What has come, waited for at most a turn: kinds and channels."""
    news: list[tuple[str, str]] = []
    while len(news) < _AT_ONCE:
        message = subscription.get_message(timeout=0.0 if news else _TURN_SECONDS)
        if message is None:
            break
        channel = message["channel"] or b""
        news.append((message["type"], channel.decode()))
    return news


def _portions(channels: list[str]) -> Iterable[list[str]]:
    return (channels[at : at + _AT_ONCE] for at in range(0, len(channels), _AT_ONCE))
