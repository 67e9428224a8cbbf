"""The one Redis connection of a process: short bounds, no retry, and a breaker.

Redis may forget anything or be gone at any time, so every failure here is an ordinary answer
(``None``) and never an exception. After one failure this process leaves Redis alone for
``cache_retry_seconds``: a frozen Redis costs one bounded wait per second, not one per request.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobs import conf

log = logging.getLogger("jobs.cache")

T = TypeVar("T")


class Breaker:
    """Remembers until when Redis is left alone. Times are this process's monotonic clock."""

    def __init__(self) -> None:
        self._closed_again_at = 0.0
        self._lock = Lock()

    def is_open(self) -> bool:
        return time.monotonic() < self._closed_again_at

    def trip(self, seconds: float) -> bool:
        """Open it; True for the first of a burst, so that one line is logged and not thousands."""
        with self._lock:
            fresh = not self.is_open()
            self._closed_again_at = time.monotonic() + seconds
            return fresh

    def reset(self) -> None:
        self._closed_again_at = 0.0


breaker = Breaker()


def ask(question: Callable[[redis.Redis], T]) -> T | None:
    """Put a question to Redis; None if there is no Redis, it is left alone, or it failed."""
    settings = conf.get()
    if not settings.cache_url or breaker.is_open():
        return None
    try:
        return question(client())
    except (redis.RedisError, OSError, ValueError) as error:
        if breaker.trip(settings.cache_retry_seconds):
            log.warning("Redis is left alone for %ss: %s", settings.cache_retry_seconds, error)
        return None


def client() -> redis.Redis:
    """The client of this process; a forked child gets its own instead of the parent's sockets."""
    return _client(os.getpid(), conf.get().cache_url, conf.get().cache_timeout_seconds)


def waiting_client(timeout_seconds: float) -> redis.Redis:
    """A connection of its own for subscriptions, whose reads may block for ``timeout_seconds``."""
    settings = conf.get()
    return redis.Redis.from_url(
        settings.cache_url,
        socket_connect_timeout=settings.cache_timeout_seconds,
        socket_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
    )


def subscribed(connection: redis.Redis, channel: str) -> Any:
    """A confirmed subscription: only the confirmation proves that later news is not missed."""
    pubsub = connection.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call] # redis-py leaves it untyped
    pubsub.subscribe(channel)
    pubsub.get_message(timeout=conf.get().cache_timeout_seconds)
    return pubsub


@cache
def _client(pid: int, url: str, timeout_seconds: float) -> redis.Redis:
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=32,
        timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
    )
    return redis.Redis(connection_pool=pool)
