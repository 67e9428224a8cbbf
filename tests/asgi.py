"""Requests to an ASGI application as its server would make them, and answers to the last header."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from tests.wsgi import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Message: TypeAlias = MutableMapping[str, Any]
Application: TypeAlias = Callable[..., Awaitable[None]]


def scope_of(path: str, environ: dict[str, Any]) -> dict[str, Any]:
    """The request of ``tests.wsgi.ask``, in the words of ASGI."""
    usual = {"HTTP_HOST": "localhost:8000", **environ}
    plain = {"CONTENT_TYPE", "CONTENT_LENGTH"}
    headers = [
        (_name(key).encode(), str(value).encode("latin-1"))
        for key, value in usual.items()
        if value is not None and (key.startswith("HTTP_") or key in plain)
    ]
    root = str(environ.get("SCRIPT_NAME", ""))
    return {
        "type": "http",
        "http_version": "1.1",
        "method": environ.get("REQUEST_METHOD", "GET"),
        "scheme": environ.get("wsgi.url_scheme", "http"),
        "root_path": root,
        "path": root + path,
        "query_string": str(environ.get("QUERY_STRING", "")).encode("latin-1"),
        "headers": headers,
        "server": ("localhost", 8000),
        "client": ("192.0.2.1", 1234),
    }


class Request:
    """One request on its way; the client may leave before it is answered."""

    def __init__(self, application: Application, scope: dict[str, Any]) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        self._said: list[Message] = []
        self.task = asyncio.ensure_future(application(scope, self._messages.get, self._send))

    async def _send(self, message: Message) -> None:
        self._said.append(message)

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def answer(self, seconds: float = 20) -> Answer:
        async with asyncio.timeout(seconds):
            await self.task
        start, *parts = self._said
        headers = [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]]
        return Answer(str(start["status"]), headers, b"".join(part["body"] for part in parts))

    @property
    def was_answered(self) -> bool:
        return bool(self._said)


@asynccontextmanager
async def living(application: Application) -> AsyncIterator[None]:
    """From the server's start to its stop."""
    told: asyncio.Queue[Message] = asyncio.Queue()
    said: asyncio.Queue[Message] = asyncio.Queue()
    life = asyncio.ensure_future(application({"type": "lifespan"}, told.get, said.put))
    await told.put({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await told.put({"type": "lifespan.shutdown"})
        assert (await said.get())["type"] == "lifespan.shutdown.complete"
        await life


def _name(key: str) -> str:
    return key.removeprefix("HTTP_").replace("_", "-").lower()
