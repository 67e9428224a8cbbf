"""A thin lane in front of Django for what is asked most: the status of one job, and submits of one.

A WSGI application around the project's own. It answers plain requests itself: a ``GET`` or ``HEAD``
of a status if one look into Redis, for the key and the status together, is all that it takes
(``jobs.api.plain_status``), and a ``POST`` of a job without keys (``jobs.api.plain_submit``).
Everything else goes to Django untouched: another address, a query string, a cookie; a key that was
not valid in this process before, or lacks the scope; whatever is wrong with a request; a Redis that
is away. So the lane refuses nobody and counts nothing: both stay in one place.

What it says is what Django would say, to the byte. The status line and the headers are those of
Django's own answers to such requests, as soon as two of them agree in all but what is one job's
own. See docs/adr/0019-a-lane-for-status.md and 0023-single-submits-over-http.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from django.conf import settings

from jobs.api.plain import Plain
from jobs.api.plain_status import StatusRequests
from jobs.api.plain_submit import SubmitRequests

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("jobs.lane")

#: What decides whether Django answers, and with which headers: the code, then ``_decisive``.
Front: TypeAlias = tuple[str | None, ...]

#: Middleware that treats requests with the same front alike, as long as they bring no cookie.
UNDERSTOOD = frozenset({
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "jobs.api.outage.OutageMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
})  # fmt: skip

#: Headers by which an answer of Django's shows that it is one of those that the lane gives.
_SIGNS = frozenset({"ETag", "Location"})
#: The headers that differ from one job to the next.
_OWN = _SIGNS | {"Content-Length"}
#: Fronts that are remembered, about a kilobyte each. Only who holds a key can bring new ones.
_MOST = 1000


class Lane:
    """Answers plain requests; whatever else comes is ``application``'s.

    ``harmless`` are dotted paths of the project's own middleware that need not see these requests,
    because it neither refuses nor changes any of them. With middleware that is neither harmless nor
    understood, ``application`` answers every request, and the log says so once.
    """

    def __init__(self, application: WSGIApplication, *, harmless: Collection[str] = ()) -> None:
        self._application = application
        self._kinds = (StatusRequests(), SubmitRequests())
        self._decisive = _decisive()
        self._templates = _Templates()
        unknown = set(settings.MIDDLEWARE) - UNDERSTOOD - set(harmless)
        self._is_open = not unknown
        if unknown:
            log.warning("Every request goes through Django, because of %s", sorted(unknown))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        plain = self._understood(environ)
        if plain is None:
            return self._application(environ, start_response)
        front = (plain.code, *map(environ.get, self._decisive))
        template = self._templates.get(front)
        if template is None:
            return self._application(environ, self._templates.learning(front, start_response))
        answer = plain.answer()
        if answer is None:
            return self._application(environ, start_response)
        own, body = answer
        start_response(template.line, template.filled(own, body))
        # granian drops the Content-Length of an empty list, but not that of a stream like Django's.
        return [body] if body else BytesIO()

    def _understood(self, environ: WSGIEnvironment) -> Plain | None:
        if self._is_open:
            for kind in self._kinds:
                if kind.includes(environ):
                    return kind.understood(environ)
        return None


class _Template(NamedTuple):
    """An answer of Django's, without what is one job's own."""

    line: str
    headers: tuple[tuple[str, str], ...]
    #: Where the headers stand that are one job's own.
    blanks: tuple[tuple[int, str], ...]

    def filled(self, own: Mapping[str, str], body: bytes) -> list[tuple[str, str]]:
        headers = list(self.headers)
        for place, name in self.blanks:
            headers[place] = (
                name,
                str(len(body)) if name == "Content-Length" else own.get(name, ""),
            )
        return headers


class _Templates:
    """Answers of Django's by front, used from the second on that says the same."""

    def __init__(self) -> None:
        self._last: dict[Front, _Template] = {}
        self._agreed: dict[Front, _Template] = {}

    def get(self, front: Front) -> _Template | None:
        return self._agreed.get(front)

    def learning(self, front: Front, start_response: StartResponse) -> StartResponse:
        """``start_response``, but what Django says is noted on its way."""

        def noting(
            line: str, headers: list[tuple[str, str]], *rest: Any
        ) -> Callable[[bytes], object]:
            if line[:3] == front[0] and any(name in _SIGNS for name, _ in headers):
                blank = tuple((name, "" if name in _OWN else value) for name, value in headers)
                places = ((place, name) for place, (name, _) in enumerate(headers))
                blanks = tuple((place, name) for place, name in places if name in _OWN)
                self._note(front, _Template(line, blank, blanks))
            return start_response(line, headers, *rest)

        return noting

    def _note(self, front: Front, template: _Template) -> None:
        if len(self._last) >= _MOST:
            self._last.clear()
            self._agreed.clear()
        if self._last.get(front) == template:
            self._agreed[front] = template
        self._last[front] = template


def _decisive() -> tuple[str, ...]:
    """What of a request's environment the middleware that is understood looks at."""
    names = ["REQUEST_METHOD", "wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SCRIPT_NAME"]
    # Django takes it apart before any middleware, and fails for some.
    names.append("CONTENT_TYPE")
    if settings.SECURE_PROXY_SSL_HEADER:
        names.append(settings.SECURE_PROXY_SSL_HEADER[0])
    if settings.USE_X_FORWARDED_HOST:
        names.append("HTTP_X_FORWARDED_HOST")
    if settings.DISALLOWED_USER_AGENTS:
        names.append("HTTP_USER_AGENT")
    return tuple(names)
