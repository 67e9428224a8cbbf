"""The one Redis connection of a process: short bounds, no retry, and a breaker.

Redis may forget anything or be gone at any time, so every failure here is an ordinary answer
(``None``) and never an exception. After one failure this process leaves Redis alone for
``cache_retry_seconds``; then one caller finds out for all. A frozen Redis costs one bounded wait
per second, not one per request.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from threading import Lock
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.retry import Retry

from jobs import conf, names

log = logging.getLogger("jobs.cache")

T = TypeVar("T")
Command = tuple[str | bytes | int | float, ...]


class Breaker:
    """Remembers until when Redis is left alone. Times are this process's monotonic clock."""

    def __init__(self) -> None:
        self._closed_again_at = 0.0
        self._failed_at = float("-inf")
        self._answers_since = float("-inf")
        self._lock = Lock()

    @property
    def failed_at(self) -> float:
        """When Redis last failed this process; minus infinity if it never did."""
        return self._failed_at

    @property
    def answers_since(self) -> float:
        """When Redis first answered this process after its last failure; infinity before that, and
        minus infinity if it never failed."""
        return float("inf") if self._closed_again_at else self._answers_since

    def doubt_the_past(self) -> None:
        """As if Redis had failed until now: this process has not seen whether it did."""
        with self._lock:
            self._failed_at = self._answers_since = time.monotonic()

    def is_open(self) -> bool:
        return time.monotonic() < self._closed_again_at

    def admits(self, trial_seconds: float) -> bool:
        """Whether the caller may ask Redis. After a failure it may once per ``trial_seconds``."""
        if not self._closed_again_at:
            return True
        with self._lock:
            if self.is_open():
                return False
            self._closed_again_at = time.monotonic() + trial_seconds
            return True

    def trip(self, seconds: float) -> bool:
        """Open it; True for the first of a burst, so that one line is logged and not thousands."""
        with self._lock:
            fresh = not self._closed_again_at
            self._failed_at = time.monotonic()
            self._closed_again_at = self._failed_at + seconds
            return fresh

    def reset(self) -> None:
        """Close it: Redis answers."""
        if self._closed_again_at:
            with self._lock:
                self._answers_since = time.monotonic()
                self._closed_again_at = 0.0

    def forget(self) -> None:
        """As new, for processes that outlive one Redis, such as tests."""
        self._closed_again_at = 0.0
        self._failed_at = self._answers_since = float("-inf")


breaker = Breaker()


def ask(question: Callable[[redis.Redis], T], *, proves: bool = True) -> T | None:
    """Put a question to Redis; None if there is no Redis, it is left alone, or it failed.

    Not ``proves``: it waits for news, whose absence does not tell that Redis lives.
    """
    settings = conf.get()
    retry_seconds = settings.cache_retry_seconds
    if not settings.cache_url:
        return None
    admitted = breaker.admits(retry_seconds) if proves else not breaker.is_open()
    if not admitted:
        return None
    try:
        answer: T | None = _answer(question)
    except (redis.RedisError, OSError, ValueError) as error:
        if not _is_about_a_value(error):
            if breaker.trip(retry_seconds):
                log.warning("Redis is left alone, and tried every %ss: %s", retry_seconds, error)
            return None
        log.warning("Redis holds what is not ours: %s", error)
        answer = None
    if proves:
        breaker.reset()
    return answer


#: The code that begins an error of Redis, behind what redis-py says of a pipeline.
_CODE = re.compile(r"(?:.*pipeline caused error: )?(\S+)", re.DOTALL)


def _is_about_a_value(error: Exception) -> bool:
    """Whether Redis is well, and only a key holds what it should not.

    Taken for an outage, one such key would keep a process from telling any news, of which the
    others would know nothing.
    """
    if isinstance(error, ValueError):
        return True
    if type(error) is not redis.ResponseError:
        return False
    match = _CODE.match(str(error))
    # redis-py has taken the code ERR away. The others are trouble of the whole server.
    return match is not None and (match[1] == "WRONGTYPE" or not match[1].isupper())


def fetch(names: Sequence[str]) -> list[Any] | None:
    """The values under ``names`` in one round trip, None for what is missing; None as in ``ask``.

    Asked over a connection that each thread keeps for this: to borrow one from the pool and to
    give it back takes longer than the question.
    """
    answers = ask(lambda client: _line.ask(client, [("MGET", *names)]))
    return None if answers is None else answers[0]


def carry_out(commands: Sequence[Command], otherwise: Sequence[Command] = ()) -> None:
    """Have Redis carry these out in one round trip, over the same connection as ``fetch``.

    ``otherwise``: what to say as well if Redis does not know a script that they name. The others
    have been carried out by then.
    """

    def question(client: redis.Redis) -> list[Any]:
        try:
            return _line.ask(client, commands)
        except redis.exceptions.NoScriptError:
            return _line.ask(client, otherwise)

    ask(question)


def tell(commands: Sequence[Command]) -> None:
    """Send these to Redis and do not wait: for what may get lost, and what nobody answers for.

    Over the same connection as ``fetch``, which throws the answers away before its own.
    """
    ask(lambda client: _line.tell(client, commands), proves=False)


#: Connections that are tried for one question.
_CONNECTIONS = 5


def _answer(question: Callable[[redis.Redis], T]) -> T:
    """A connection that breaks says little of Redis: fresh ones are tried, while there is time.

    To give up is dear: the news is lost, of which processes whose connections hold know nothing.
    """
    gives_up_at = time.monotonic() + conf.get().cache_timeout_seconds / 2
    for _ in range(_CONNECTIONS - 1):
        try:
            return question(client())
        except redis.ConnectionError as error:
            refused = isinstance(error.__cause__ or error.__context__, ConnectionRefusedError)
            if refused or time.monotonic() > gives_up_at:
                raise
    return question(client())


def watch() -> None:
    """Notice every outage of Redis from now on, also while nobody asks this process anything.

    Whoever was away with Redis may have missed news. A process that did not notice the outage would
    go on to trust what Redis still holds, and contradict those that did. So would one that began
    just after it.
    """
    if conf.get().cache_url:
        breaker.doubt_the_past()
        threading.Thread(target=_keep_asking, name="jobs-cache-watch", daemon=True).start()


def _keep_asking() -> None:
    while True:
        time.sleep(conf.get().cache_timeout_seconds / 2)
        ask(lambda r: r.ping())


def client() -> redis.Redis:
    """The client of this process; a forked child gets its own instead of the parent's sockets."""
    return _client(os.getpid(), conf.get().cache_url, conf.get().cache_timeout_seconds)


def waiting_client(timeout_seconds: float) -> redis.Redis:
    """A connection of its own for subscriptions, whose reads may block for ``timeout_seconds``."""
    settings = conf.get()
    pool = _bounded(
        redis.ConnectionPool.from_url(
            settings.cache_url,
            socket_connect_timeout=settings.cache_timeout_seconds,
            socket_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
        )
    )
    return redis.Redis.from_pool(pool)


def subscribed(connection: redis.Redis, channel: str) -> Any:
    """A confirmed subscription: only the confirmation proves that later news is not missed."""
    pubsub = connection.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call] # redis-py leaves it untyped
    pubsub.subscribe(channel)
    pubsub.get_message(timeout=conf.get().cache_timeout_seconds)
    return pubsub


#: Answers that a thread leaves unread, a few bytes each.
_MOST_UNWANTED = 100
#: The kernel's seconds and microseconds, as C lays them out.
_TIMEVAL = "ll"


class _Line(threading.local):
    """This thread's own connection for what is asked most often."""

    def __init__(self) -> None:
        self._client: redis.Redis | None = None
        self._connection: Any = None
        self._since = 0.0
        #: Answers that are still to come and that nobody wants.
        self._unwanted = 0

    def ask(self, client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
        """The answers; raises the first that is an error, when all have been heard."""
        connection = self._connected(client)
        answers: list[Any] = []
        errors: list[redis.ResponseError] = []
        try:
            self._send(connection, commands)
            self._hear_unwanted(connection)
            for _ in commands:
                try:
                    answers.append(connection.read_response())
                except redis.ResponseError as error:
                    errors.append(error)
        except BaseException:
            self._give_up(connection)
            raise
        if errors:
            raise errors[0]
        return answers

    def tell(self, client: redis.Redis, commands: Sequence[Command]) -> None:
        """Send these; their answers are thrown away when they are in the way, or many."""
        connection = self._connected(client)
        try:
            if self._unwanted >= _MOST_UNWANTED:
                self._hear_unwanted(connection)
            self._send(connection, commands)
            self._unwanted += len(commands)
        except BaseException:
            self._give_up(connection)
            raise

    def _give_up(self, connection: Any) -> None:
        """An answer that nobody has read would be taken for that to the next question."""
        connection.disconnect()
        self._unwanted = 0

    @staticmethod
    def _send(connection: Any, commands: Sequence[Command]) -> None:
        pack = connection.pack_command
        packed = b"".join([part for command in commands for part in pack(*command)])
        connection.send_packed_command([packed])

    def _hear_unwanted(self, connection: Any) -> None:
        while self._unwanted:
            self._unwanted -= 1
            with suppress(redis.ResponseError):
                connection.read_response()

    def _connected(self, client: redis.Redis) -> Any:
        # Whatever made Redis fail may have cut this connection too, without a word.
        if self._client is not client or self._since < breaker.failed_at:
            if self._connection is not None:
                self._connection.disconnect()
            pool = client.connection_pool
            self._connection = pool.connection_class(**pool.connection_kwargs)
            self._client, self._since = client, time.monotonic()
            self._unwanted = 0
        return self._connection


_line = _Line()


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
    return redis.Redis(connection_pool=_bounded(pool))


class _Tcp(Connection):
    """redis-py bounds the connecting but not the look-up of the name before it.

    And it has Python bound each sending and receiving, which costs a system call more for each; the
    kernel's own bounds cost none. TLS needs Python's.
    """

    def _connect(self) -> Any:
        names.resolve(self.host, self.port, self.socket_connect_timeout or 0.0)
        connected = super()._connect()  # type: ignore[no-untyped-call] # redis-py leaves it untyped
        if self.socket_timeout:
            seconds, fraction = divmod(self.socket_timeout, 1)
            bound = struct.pack(_TIMEVAL, int(seconds), int(fraction * 1_000_000))
            for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                connected.setsockopt(socket.SOL_SOCKET, direction, bound)
            connected.settimeout(None)
        return connected

    def read_response(self, *args: Any, **named: Any) -> Any:
        try:
            return super().read_response(*args, **named)
        except redis.ConnectionError as error:
            if isinstance(error.__context__, BlockingIOError):
                raise redis.TimeoutError("no answer in time") from error
            raise


class _Tls(SSLConnection):
    """The same over TLS."""

    def _connect(self) -> Any:
        names.resolve(self.host, self.port, self.socket_connect_timeout or 0.0)
        return super()._connect()  # type: ignore[no-untyped-call] # redis-py leaves it untyped


_BOUNDED = {Connection: _Tcp, SSLConnection: _Tls}
P = TypeVar("P", bound=redis.ConnectionPool)


def _bounded(pool: P) -> P:
    pool.connection_class = _BOUNDED.get(pool.connection_class, pool.connection_class)
    return pool
