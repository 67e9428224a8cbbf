"""An ASGI application that holds thousands of clients who wait for a status.

What a client is answered comes from the project's own WSGI application, in a few threads: once when
the request comes, without the waiting, and once more when there is news or time is up. So codes,
bodies, headers, refusals and throttles are those of every other process. In between, a wait is a
coroutine and a place in the vigil, with no thread and no connection to anything.

Served are the addresses of single statuses, and those that the project names, such as its health
checks; not one that reads a body. See docs/adr/0022-waiting-clients.md.
"""

from __future__ import annotations

import asyncio
import re
import signal
import threading
from collections.abc import Awaitable, Callable, Collection, Hashable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from django.core.exceptions import SuspiciousOperation
from django.http import QueryDict

from jobs import conf
from jobs.api import gateway, inputs
from jobs.api.gateway import Answer
from jobs.api.problems import InvalidRequest
from jobs.api.views.status import Seen
from jobs.api.vigil import Vigil
from jobs.status_reader import NOTHING_SEEN, Rank

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: Enough for one that waits for the database while others only ask Redis.
_THREADS = 8
#: Below the API's root, and no address of it: what the application says of nothing is said here.
_NOWHERE = "not-served-here"
_METHODS = frozenset({"GET", "HEAD"})
_TAG = re.compile(r'"(\d{1,9})\.(\d{1,9})"', re.ASCII)
#: Headers that may differ between two clients who are told the same.
_OF_ONE = frozenset({b"x-request-id", b"x-forwarded-for"})
_STOPPING = (signal.SIGTERM, signal.SIGINT)


class Waiting:
    """Answers statuses as ``application`` does, and holds who waits.

    ``also`` are beginnings of further addresses that are ``application``'s, none of which may read
    a body. Everything else is 404.
    """

    def __init__(self, application: WSGIApplication, *, also: Collection[str] = ()) -> None:
        self._application = application
        self._also = tuple(also)
        self._status = re.compile(f"{re.escape(conf.get().api_prefix)}jobs/([^/]+)/status/")
        self._boarding: dict[Hashable, asyncio.Task[Answer]] = {}
        self._waiting = 0
        self._running: _Running | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            answer = await self._answer(scope, receive)
            if answer is not None:
                await _send(answer, send)
        else:
            await send({"type": "websocket.close"})

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            self._started()
            await send({"type": "lifespan.startup.complete"})
        await self._started().stop()
        self._running = None
        await send({"type": "lifespan.shutdown.complete"})

    def _started(self) -> _Running:
        """Not every server tells an application that it begins."""
        if self._running is None:
            self._running = _Running()
        return self._running

    async def _answer(self, scope: Scope, receive: Receive) -> Answer | None:
        """None: the client has gone."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        match = self._status.fullmatch(path)
        if match is None and not path.startswith(self._also):
            scope = {**scope, "path": f"{conf.get().api_prefix}{_NOWHERE}{path}"}
        seconds = _seconds(scope) if match is not None else 0.0
        if match is None or seconds <= 0:
            return await self._ask(scope)
        until = asyncio.get_running_loop().time() + seconds
        plain = {**scope, "query_string": b""}
        answer = await self._ask(plain)
        if 300 <= answer.status < 304:
            # It says where to go with the query, and nothing waits on the way there.
            return await self._ask(scope)
        rank = _rank_of(answer)
        if rank is None or not _would_wait(scope, rank) or not self._has_room():
            return answer
        return await self._waited(plain, receive, UUID(match[1]), rank, until)

    async def _waited(
        self, scope: Scope, receive: Receive, job_id: UUID, rank: Rank, until: float
    ) -> Answer | None:
        self._waiting += 1
        gone = asyncio.ensure_future(_gone(receive))
        try:
            while True:
                is_over = await self._held(gone, job_id, rank, until)
                if gone.done():
                    return None
                answer = await self._ask_together(scope)
                if is_over or _rank_of(answer) != rank:
                    return answer
        finally:
            gone.cancel()
            self._waiting -= 1

    async def _held(
        self, gone: asyncio.Future[None], job_id: UUID, rank: Rank, until: float
    ) -> bool:
        """Wait for news, the end of time, or of the client; True if nothing is left to wait for."""
        vigil = self._started().vigil
        waiter = vigil.enter(job_id, rank)

        def end(*_: object) -> None:
            if not waiter.done():
                waiter.set_result(True)

        gone.add_done_callback(end)
        timer = asyncio.get_running_loop().call_at(until, end)
        try:
            return await waiter
        finally:
            timer.cancel()
            gone.remove_done_callback(end)
            vigil.leave(job_id, waiter)

    def _has_room(self) -> bool:
        return self._waiting < conf.get().waiting_limit

    async def _ask(self, scope: Scope) -> Answer:
        loop = asyncio.get_running_loop()
        environ = gateway.environ_of(scope)
        threads = self._started().threads
        return await loop.run_in_executor(threads, gateway.ask, self._application, environ)

    async def _ask_together(self, scope: Scope) -> Answer:
        """Equal requests that are woken by the same news are one question.

        Only a status is an answer to all of them; a refusal may name or count who asked.
        """
        same = _sameness(scope)
        task = self._boarding.get(same)
        if task is not None:
            answer = await asyncio.shield(task)
            return await self._ask(scope) if _rank_of(answer) is None else answer
        task = asyncio.ensure_future(self._depart(same, scope))
        self._boarding[same] = task
        return await asyncio.shield(task)

    async def _depart(self, same: Hashable, scope: Scope) -> Answer:
        # Nobody may join a question that has begun: its answer may be older than their news.
        del self._boarding[same]
        return await self._ask(scope)


class _Running:
    """What lives as long as the server does."""

    def __init__(self) -> None:
        self.vigil = Vigil()
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="jobs-answers")
        self.vigil.start()
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._hear_signals()

    async def stop(self) -> None:
        await self.vigil.stop()
        await asyncio.to_thread(self.threads.shutdown)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear_signals(self) -> None:
        """Servers end an application's life only after all its answers, so it has to hear of it."""
        loop = asyncio.get_running_loop()

        def stopping(number: int, frame: Any) -> None:
            loop.call_soon_threadsafe(self.vigil.close)
            before = self._before.get(signal.Signals(number))
            if callable(before):
                before(number, frame)

        for number in _STOPPING:
            self._before[number] = signal.signal(number, stopping)


def _seconds(scope: Scope) -> float:
    """How long this request may wait; 0 for one that asks for something else, or wrongly."""
    if scope["method"].upper() not in _METHODS or not scope["query_string"]:
        return 0.0
    try:
        wanted = inputs.query(inputs.StatusQuery, QueryDict(scope["query_string"])).wait
    except (InvalidRequest, SuspiciousOperation):
        return 0.0
    return min(wanted, conf.get().wait_limit_seconds)


def _rank_of(answer: Answer) -> Rank | None:
    """The rank of the status that was sent or not repeated; None for any other answer."""
    match = _TAG.fullmatch(answer.header(b"etag")) if answer.status in {200, 304} else None
    return None if match is None else (int(match[1]), int(match[2]))


def _would_wait(scope: Scope, rank: Rank) -> bool:
    tags = [value for name, value in scope["headers"] if name == b"if-none-match"]
    return Seen(b",".join(tags).decode("latin-1")).rank in {NOTHING_SEEN, rank}


def _sameness(scope: Scope) -> Hashable:
    headers = (pair for pair in scope["headers"] if pair[0] not in _OF_ONE)
    return (scope["path"], scope["method"], scope.get("scheme"), tuple(map(tuple, headers)))


async def _gone(receive: Receive) -> None:
    """Return when the client has; what it still sends is no part of such a request."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(answer: Answer, send: Send) -> None:
    start = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
    await send(start)
    await send({"type": "http.response.body", "body": answer.body})
