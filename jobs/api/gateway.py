"""One request of an ASGI server, put to a WSGI application without its body.

For addresses that take none. A general adapter has to stream bodies both ways between a loop and a
thread; where there are none, a dictionary is all it takes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication, WSGIEnvironment

#: What CGI names without a prefix.
_PLAIN = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})


class Answer(NamedTuple):
    """What the application said."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> str:
        """The first header of this name, which is given in lower case; empty if there is none."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")


def environ_of(scope: Mapping[str, Any]) -> WSGIEnvironment:
    """The request as PEP 3333 has it, with an empty body.

    Header names with an underscore are left out: they would pass for those with a hyphen, which
    proxies set.
    """
    host, port = scope.get("server") or ("", "")
    root = scope.get("root_path", "")
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": _as_wsgi(root),
        "PATH_INFO": _as_wsgi(scope["path"].removeprefix(root)),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": (scope.get("client") or ("",))[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        if b"_" not in name:
            _add(environ, name.decode("latin-1").upper().replace("-", "_"), value.decode("latin-1"))
    return environ


def ask(application: WSGIApplication, environ: WSGIEnvironment) -> Answer:
    """The whole answer of the application. Raises what it raises."""
    told: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(line: str, headers: list[tuple[str, str]], *_: object) -> Any:
        told.append((line, headers))
        return None

    parts = application(environ, start_response)
    try:
        body = b"".join(parts)
    finally:
        getattr(parts, "close", lambda: None)()
    line, headers = told[-1]
    named = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return Answer(int(line[:3]), named, b"" if environ["REQUEST_METHOD"] == "HEAD" else body)


def _add(environ: WSGIEnvironment, name: str, value: str) -> None:
    key = name if name in _PLAIN else f"HTTP_{name}"
    if key in environ:
        value = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
    environ[key] = value


def _as_wsgi(path: str) -> str:
    return path.encode().decode("latin-1")
