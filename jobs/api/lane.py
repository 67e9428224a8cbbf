"""A thin lane in front of Django for what is asked most: the status of one job.

A WSGI application around the project's own. It answers a plain ``GET`` or ``HEAD`` of a status
itself if one look into Redis, for the key and the status together, is all that it takes. Everything
else goes to Django untouched: another address, a query string, a cookie, a body; a key that was not
valid in this process before, or lacks the scope; somebody else's job; a copy that is missing,
forged, or not to be believed; a Redis that is away. So the lane refuses nobody and counts nothing:
both stay in one place.

What it says is what Django would say, to the byte. The status line and the headers are those of
Django's own answers to such requests, as soon as two of them agree in all but tag and length. See
docs/adr/0019-a-lane-for-status.md.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import UUID

from django.conf import settings

from jobs import cache, conf, keys, status, status_reader
from jobs.api import throttle
from jobs.api.auth import secret_of
from jobs.api.views.status import Seen, StatusView
from jobs.models import ApiKey
from jobs.status import Copy

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

_ID = "([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
_METHODS = frozenset({"GET", "HEAD"})
#: A request with any of these is not plain.
_UNUSUAL = ("QUERY_STRING", "HTTP_COOKIE", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING")
_SCOPE = StatusView.scopes["GET"]
_HAS_NOTHING = Seen("")
#: The headers that differ from one status to the next.
_OWN = frozenset({"ETag", "Content-Length"})
#: Fronts that are remembered, about a kilobyte each. Only who holds a key can bring new ones.
_MOST = 1000


class Lane:
    """Answers what takes no query; whatever else comes is ``application``'s.

    ``harmless`` are dotted paths of the project's own middleware that need not see these requests,
    because it neither refuses nor changes any of them. With middleware that is neither harmless nor
    understood, ``application`` answers every request, and the log says so once.
    """

    def __init__(self, application: WSGIApplication, *, harmless: Collection[str] = ()) -> None:
        self._application = application
        self._address = re.compile(f"{re.escape(conf.get().api_prefix)}jobs/{_ID}/status/")
        self._decisive = _decisive()
        self._templates = _Templates()
        unknown = set(settings.MIDDLEWARE) - UNDERSTOOD - set(harmless)
        self._is_open = not unknown
        if unknown:
            log.warning("Every status goes through Django, because of %s", sorted(unknown))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        job_id = self._asked_for(environ)
        hit = None if job_id is None else _hit(job_id, environ)
        if hit is None:
            return self._application(environ, start_response)
        front = (hit.code, *map(environ.get, self._decisive))
        template = self._templates.get(front)
        if template is None:
            return self._application(environ, self._templates.learning(front, start_response))
        start_response(template.line, template.filled(hit))
        # granian drops the Content-Length of an empty list, but not that of a stream like Django's.
        return [hit.body] if hit.body else BytesIO()

    def _asked_for(self, environ: WSGIEnvironment) -> str | None:
        """The id of the job whose status is asked for, if the request is a plain one."""
        match = self._address.fullmatch(environ.get("PATH_INFO", ""))
        if match is None or not self._is_open or environ["REQUEST_METHOD"] not in _METHODS:
            return None
        return None if any(map(environ.get, _UNUSUAL)) else match[1]


class _Hit(NamedTuple):
    """A status that may be shown to who asks."""

    code: str
    etag: str
    body: bytes


class _Template(NamedTuple):
    """An answer of Django's, without what is one status's own."""

    line: str
    headers: tuple[tuple[str, str], ...]

    def filled(self, hit: _Hit) -> list[tuple[str, str]]:
        own = {"ETag": hit.etag, "Content-Length": str(len(hit.body))}
        return [(name, own.get(name, value)) for name, value in self.headers]


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
            if line[:3] == front[0] and any(name == "ETag" for name, _ in headers):
                blank = tuple((name, "" if name in _OWN else value) for name, value in headers)
                self._note(front, _Template(line, blank))
            return start_response(line, headers, *rest)

        return noting

    def _note(self, front: Front, template: _Template) -> None:
        if len(self._last) >= _MOST:
            self._last.clear()
            self._agreed.clear()
        if self._last.get(front) == template:
            self._agreed[front] = template
        self._last[front] = template


def _hit(job_id: str, environ: WSGIEnvironment) -> _Hit | None:
    """The status, if this request may see it and Redis has it; one round trip at most."""
    secret = secret_of(environ)
    digest = ApiKey.digest_of(secret) if secret else ""
    if not throttle.is_known(digest):
        return None
    values = cache.fetch((keys.name_of(digest), status.name_of(job_id)))
    if values is None:
        return None
    principal = keys.principal_in(values[0], digest)
    copy = status.copy_in(values[1], job_id)
    if principal is None or copy is None:
        return None
    if _SCOPE not in principal.scopes or copy.owner_id != principal.user_id:
        return None
    return _shown(job_id, copy, environ.get("HTTP_IF_NONE_MATCH"))


def _shown(job_id: str, copy: Copy, tags: str | None) -> _Hit | None:
    seen = Seen(tags) if tags else _HAS_NOTHING
    if not status_reader.is_believed(UUID(job_id), copy, seen.rank):
        return None
    if seen.holds(copy):
        return _Hit("304", copy.etag, b"")
    return _Hit("200", copy.etag, copy.body)


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
