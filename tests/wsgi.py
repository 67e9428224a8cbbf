"""Requests to a WSGI application as its server would make them, and answers to the last header."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


class Answer(NamedTuple):
    """What a server was told to send."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes


def ask(application: WSGIApplication, path: str, body: bytes = b"", **environ: Any) -> Answer:
    """``GET`` this path; ``environ`` is put over the usual environment, None takes a name out."""
    usual = {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "",
        "SERVER_NAME": "localhost", "SERVER_PORT": "8000", "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1", "HTTP_HOST": "localhost:8000",
        "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(body),
    }  # fmt: skip
    given = {name: value for name, value in {**usual, **environ}.items() if value is not None}
    told: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(line: str, headers: list[tuple[str, str]], *_: object) -> Any:
        told.append((line, headers))

    answer = application(given, start_response)
    try:
        content = b"".join(answer)
    finally:
        getattr(answer, "close", lambda: None)()
    [(line, headers)] = told
    return Answer(line, headers, content)
