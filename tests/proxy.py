"""A TCP proxy before a server, whose network can be made bad in many ways without any right.

    with Proxy("127.0.0.1", postgres.port, seed=7) as proxy:
        connect_to(proxy.port)
        proxy.latency(0.05, jitter=0.02)
        proxy.heal()

An event loop in a thread of its own carries the bytes; every method may be called from any thread
and returns once it is in force. Random choices come from ``Random(seed)``.

What is modelled, and what is not: a *blackhole* holds bytes back and delivers them when healed, as
TCP does by sending again when a partition ends; also the end of a connection is held back, so a
server goes on believing in a client that is long gone. Bytes are never dropped or changed inside a
connection that lives on: TCP would not do that either.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from types import TracebackType
from typing import Any, Literal, Self, cast
from urllib.parse import urlsplit

Direction = Literal["up", "down"]  #: towards the server, towards the client
BOTH: tuple[Direction, ...] = ("up", "down")

#: How AMQP's basic.deliver begins: class 60, method 60.
DELIVERY = b"\x00\x3c\x00\x3c"

#: Closing with this option sends RST instead of FIN.
_RESET_AT_ONCE = struct.pack("ii", 1, 0)
_BACKLOG_CHUNKS = 64
_PATIENCE_SECONDS = 10.0

#: PostgreSQL's simple query: the byte Q, four bytes of length, the statement, a zero.
_SIMPLE_QUERY, _STATEMENT_AT = b"Q", 5


#: The server's end of an answer outside a transaction.
_IDLE = b"Z\x00\x00\x00\x05I"
_WRITES = re.compile(rb'\b(?:INSERT INTO|UPDATE|DELETE FROM) +"?jobs_|\bjobs_\w+_v\d+\(')


def is_commit(data: bytes, *, idle: bool = False) -> bool:
    """Whether a client's bytes are a COMMIT, or, ``idle``, a statement that writes and is one.

    A client that waits for its answers sends no other message in front of it, so only the beginning
    is looked at.
    """
    if not data.startswith(_SIMPLE_QUERY):
        return False
    said = data[_STATEMENT_AT : _STATEMENT_AT + 6].upper()
    return said == b"COMMIT" or (idle and _WRITES.search(data) is not None)


class _Rules:
    """What is wrong with the network at the moment. Touched by the loop's thread alone."""

    def __init__(self, seed: object) -> None:
        self.random = Random(f"{seed}")
        self.heal()

    def heal(self) -> None:
        self.delay_seconds = self.jitter_seconds = 0.0
        self.held: frozenset[Direction] = frozenset()
        self.budget_bytes: tuple[int, int] | None = None
        self.commits_to_lose = 0
        self.deaf_at = b""

    def delay(self) -> float:
        return self.delay_seconds + self.random.uniform(0, self.jitter_seconds)

    def budget(self) -> int | None:
        return self.random.randint(*self.budget_bytes) if self.budget_bytes else None


class _Flow:
    """One direction of a connection: what was read and has not been passed on yet.

    An item None is the end of the connection, which waits its turn like any byte.
    """

    def __init__(self, direction: Direction, rules: _Rules) -> None:
        self.direction: Direction = direction
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.sink_is_full = False
        self.deaf = False
        self._rules = rules
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._last_due = 0.0

    def feed(self, data: bytes | None) -> None:
        now = asyncio.get_running_loop().time()
        # Never before what was read earlier: jitter does not reorder a stream.
        self._last_due = max(self._last_due, now + self._rules.delay())
        self._waiting.append((self._last_due, data))
        self.pump()

    def pump(self) -> None:
        """Pass on what may pass now."""
        loop = asyncio.get_running_loop()
        while self._waiting and self.sink and not self._is_held():
            due, data = self._waiting[0]
            if due > loop.time():
                self._look_again_at(due)
                break
            self._waiting.popleft()
            self._pass_on(data)
        self._throttle()

    def _pass_on(self, data: bytes | None) -> None:
        if self.sink is None or self.sink.is_closing():
            return
        if data is None:
            self.sink.close()
        else:
            self.sink.write(data)

    def _is_held(self) -> bool:
        return self.sink_is_full or self.deaf or self.direction in self._rules.held

    def _look_again_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self.pump)

    def _throttle(self) -> None:
        if self.source is None or self.source.is_closing():
            return
        wanted = self._is_held() or len(self._waiting) > _BACKLOG_CHUNKS
        if wanted and not self._paused:
            self.source.pause_reading()
        elif self._paused and not wanted:
            self.source.resume_reading()
        self._paused = wanted


class _Pair:
    """A client's connection and ours to the server."""

    def __init__(self, proxy: Proxy, rules: _Rules) -> None:
        self.flows: dict[Direction, _Flow] = {way: _Flow(way, rules) for way in BOTH}
        self.budget = rules.budget()
        self.loses_answer = False
        self._idle = False
        self._lost: set[Direction] = set()
        self._proxy = proxy
        self._rules = rules

    def arrived(self, way: Direction, data: bytes) -> None:
        self._proxy.bytes_passed += len(data)
        if self.loses_answer and way == "down":
            self._proxy.commits_lost += 1
            self.reset()
            return
        if way == "down":
            self._idle = data.endswith(_IDLE)
        if way == "down" and self._rules.deaf_at and self._rules.deaf_at in data:
            self.flows["down"].deaf = True
        if way == "up" and self._rules.commits_to_lose and is_commit(data, idle=self._idle):
            self._rules.commits_to_lose -= 1
            self.loses_answer = True
        if self.budget is not None:
            data, self.budget = data[: self.budget], self.budget - len(data)
        self.flows[way].feed(data)
        if self.budget is not None and self.budget <= 0:
            self.reset()

    def opened(self, transport: asyncio.Transport) -> None:
        self._proxy.transports.add(transport)

    def lost(self, way: Direction, transport: asyncio.Transport) -> None:
        """The side that feeds this direction is gone; the other hears of it in its turn."""
        self._proxy.transports.discard(transport)
        self.flows[way].feed(None)
        self.flows["down" if way == "up" else "up"].sink = None
        self._lost.add(way)
        if len(self._lost) == len(BOTH):
            self._proxy.forget(self)

    def pump(self) -> None:
        for flow in self.flows.values():
            flow.pump()

    def reset(self) -> None:
        """RST to both sides, at once."""
        for flow in self.flows.values():
            if flow.source is not None and not flow.source.is_closing():
                _reset(flow.source)
        self._proxy.forget(self)


class _End(asyncio.Protocol):
    """One of the two connections of a pair; it feeds one direction."""

    def __init__(self, pair: _Pair, way: Direction, made: Callable[[], None] | None) -> None:
        self._pair, self._way, self._made = pair, way, made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        own = cast("asyncio.Transport", transport)
        self._own = own
        self._pair.opened(own)
        _without_delay(own)
        self._pair.flows[self._way].source = own
        self._pair.flows[self._against].sink = own
        if self._made is not None:
            self._made()
        self._pair.pump()

    @property
    def _against(self) -> Direction:
        return "down" if self._way == "up" else "up"

    def data_received(self, data: bytes) -> None:
        self._pair.arrived(self._way, data)

    def pause_writing(self) -> None:
        self._pair.flows[self._against].sink_is_full = True
        self._pair.flows[self._against].pump()

    def resume_writing(self) -> None:
        self._pair.flows[self._against].sink_is_full = False
        self._pair.flows[self._against].pump()

    def connection_lost(self, error: Exception | None) -> None:
        self._pair.lost(self._way, self._own)


class Proxy:
    """Passes everything on until told otherwise, and again after ``heal``.

    ``bytes_passed``, ``connections_made`` and ``commits_lost`` count since the start.
    """

    def __init__(self, host: str, port: int, *, seed: object = 0, listen_port: int = 0) -> None:
        self._target = (host, port)
        self._rules = _Rules(seed)
        self._pairs: set[_Pair] = set()
        self.transports: set[asyncio.Transport] = set()
        self._loop = asyncio.new_event_loop()
        self._listener: asyncio.Server | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.port = listen_port
        self.bytes_passed = self.connections_made = self.commits_lost = 0

    def url(self, given: str) -> str:
        """``given``, but through this proxy."""
        parts = urlsplit(given)
        user = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{user}@127.0.0.1:{self.port}").geturl()

    def __enter__(self) -> Self:
        self._thread.start()
        self._await(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._await(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_SECONDS)
        self._loop.close()

    # -- what can be wrong ----------------------------------------------------------------------

    def latency(self, seconds: float, jitter: float = 0.0) -> None:
        """From now on each chunk takes ``seconds`` plus up to ``jitter``, in each direction."""
        self._do(lambda: self._set(delay_seconds=seconds, jitter_seconds=jitter))

    def blackhole(self, *ways: Direction) -> None:
        """Hold back whatever goes these ways (default both), also the news of an ended
        connection. New connections seem to come about, as they do with a frozen server."""
        self._do(lambda: self._set(held=frozenset(ways or BOTH)))

    def reset(self) -> None:
        """RST every connection. New ones come about: see ``cut``."""
        self._do(self._reset_all)

    def cut(self) -> None:
        """RST every connection and refuse new ones, as if the server were down."""
        self._await(self._close_listener())
        self.reset()

    def cut_after(self, low: int, high: int) -> None:
        """RST each connection once it has carried between ``low`` and ``high`` bytes (drawn for
        each), counted from now for those that exist."""
        self._do(lambda: self._give_budgets((low, high)))

    def deafen(self, at: bytes = b"") -> None:
        """Hold back what the server says on the connections of this moment; new ones are as good
        as ever. With ``at``: on any connection, from where the server says this."""
        self._do(lambda: self._deafen(at))

    def lose_commits(self, count: int = 1) -> None:
        """Lose the answer to the next ``count`` commits of PostgreSQL clients: the server carries
        them out, and the client sees its connection reset instead. Needs a connection without
        TLS."""
        self._do(lambda: self._set(commits_to_lose=count))

    def heal(self, *, keep_held: bool = True) -> None:
        """Pass everything on again. What a blackhole held back is delivered now, late as it is;
        with ``keep_held=False`` those connections are reset instead."""
        if not keep_held:
            self.reset()
        self._await(self._listen())
        self._do(self._heal)

    @property
    def target_port(self) -> int:
        return self._target[1]

    @property
    def connections(self) -> int:
        """How many connections clients have at the moment."""
        return len(self._pairs)

    # -- in the loop's thread -------------------------------------------------------------------

    def _set(self, **rules: object) -> None:
        for name, value in rules.items():
            setattr(self._rules, name, value)
        self._pump_all()

    def _heal(self) -> None:
        self._rules.heal()
        for pair in self._pairs:
            pair.budget = None
            pair.flows["down"].deaf = False
        self._pump_all()

    def _pump_all(self) -> None:
        for pair in list(self._pairs):
            pair.pump()

    def _reset_all(self) -> None:
        for pair in list(self._pairs):
            pair.reset()

    def _deafen(self, at: bytes) -> None:
        self._rules.deaf_at = at
        for pair in [] if at else self._pairs:
            pair.flows["down"].deaf = True

    def _give_budgets(self, bounds: tuple[int, int]) -> None:
        self._rules.budget_bytes = bounds
        for pair in self._pairs:
            pair.budget = self._rules.budget()

    def forget(self, pair: _Pair) -> None:
        """A pair is over."""
        self._pairs.discard(pair)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await self._loop.create_server(
                self._accepted, "127.0.0.1", self.port, reuse_address=True, backlog=256
            )
            self.port = int(self._listener.sockets[0].getsockname()[1])

    async def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _accepted(self) -> _End:
        pair = _Pair(self, self._rules)
        self._pairs.add(pair)
        self.connections_made += 1
        return _End(pair, "up", lambda: self._keep(self._connect(pair)))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, pair: _Pair) -> None:
        try:
            await self._loop.create_connection(lambda: _End(pair, "down", None), *self._target)
        except OSError:
            pair.reset()

    async def _end(self) -> None:
        await self._close_listener()
        # Also those in which asyncio itself has just accepted somebody.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        while self.transports:
            for transport in self.transports:
                _reset(transport)
            await asyncio.sleep(0)

    # -- from other threads ---------------------------------------------------------------------

    def _do(self, work: Callable[[], None]) -> None:
        async def done() -> None:
            work()

        self._await(done())

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        future.result(_PATIENCE_SECONDS)


def _reset(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
    transport.abort()


def _without_delay(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
