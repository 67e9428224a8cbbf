"""Plain requests for the status of one job: answered from one look into Redis."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from jobs import conf, status, status_reader
from jobs.api.plain import Answer, look
from jobs.api.views.status import Seen, StatusView
from jobs.status import Copy

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

_ID = "([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
_METHODS = frozenset({"GET", "HEAD"})
#: A request with any of these is not plain.
_UNUSUAL = ("QUERY_STRING", "HTTP_COOKIE", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING")
_SCOPE = StatusView.scopes["GET"]
_HAS_NOTHING = Seen("")


class StatusRequests:
    """``GET`` or ``HEAD`` of one status; ``plain.Kind``."""

    def __init__(self) -> None:
        self._address = re.compile(f"{re.escape(conf.get().api_prefix)}jobs/{_ID}/status/")

    def includes(self, environ: WSGIEnvironment) -> bool:
        return environ["REQUEST_METHOD"] in _METHODS and not any(map(environ.get, _UNUSUAL))

    def understood(self, environ: WSGIEnvironment) -> _Hit | None:
        match = self._address.fullmatch(environ.get("PATH_INFO", ""))
        if match is None:
            return None
        job_id = match[1]
        found = look(environ, _SCOPE, status.name_of(job_id))
        if found is None:
            return None
        principal, [value] = found
        copy = status.copy_in(value, job_id)
        if copy is None or copy.owner_id != principal.user_id:
            return None
        return _shown(job_id, copy, environ.get("HTTP_IF_NONE_MATCH"))


class _Hit(NamedTuple):
    """A status that may be shown to who asks; ``plain.Plain``."""

    code: str
    etag: str
    body: bytes

    def answer(self) -> Answer:
        return {"ETag": self.etag}, self.body


def _shown(job_id: str, copy: Copy, tags: str | None) -> _Hit | None:
    seen = Seen(tags) if tags else _HAS_NOTHING
    if not status_reader.is_believed(job_id, copy, seen.rank):
        return None
    if seen.holds(copy):
        return _Hit("304", copy.etag, b"")
    return _Hit("200", copy.etag, copy.body)
