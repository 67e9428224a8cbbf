"""The admin's login, which lets nobody try passwords without end.

Every try is counted before the password is looked at, by address and by name and address, in
PostgreSQL: passwords can be guessed, so the count must survive a restart, hold for all processes
together and not be evicted. A login that succeeds is taken off again. A name alone is never
refused, for then anybody could lock anybody out.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render

from jobs.api import throttle

log = logging.getLogger("interlock.login")

WINDOW_SECONDS = 15 * 60
PER_NAME = 10
PER_ADDRESS = 50

_COUNT = """
INSERT INTO interlock_logincount AS known (digest, tries, ends_at)
VALUES (%(digest)s, 1, now() + make_interval(secs => %(window)s))
ON CONFLICT (digest) DO UPDATE SET
    tries = CASE WHEN known.ends_at <= now() THEN 1 ELSE known.tries + 1 END,
    ends_at = CASE WHEN known.ends_at <= now() THEN excluded.ends_at ELSE known.ends_at END
RETURNING tries, extract(epoch FROM ends_at - now())
"""
_TAKE_OFF = "UPDATE interlock_logincount SET tries = tries - 1 WHERE digest = ANY(%(digests)s)"
_PRUNE = "DELETE FROM interlock_logincount WHERE ends_at <= now()"


def throttled(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """A login view that answers 429 to whoever has tried too often."""

    @wraps(view)
    def login(request: HttpRequest, *args: Any, **options: Any) -> HttpResponseBase:
        if request.method != "POST":
            return view(request, *args, **options)
        digests = _digests(request)
        seconds = _count(digests)
        if seconds > 0:
            return _refusal(request, seconds)
        answer = view(request, *args, **options)
        if answer.status_code == 302:
            _run(_TAKE_OFF, {"digests": list(digests)})
        return answer

    return login


def _digests(request: HttpRequest) -> dict[str, int]:
    """Whom this try is counted for, with the limit of each."""
    address = throttle.address_of(request.META)
    name = request.POST.get("username", "").strip().lower()
    return {_digest(address): PER_ADDRESS, _digest(address, name): PER_NAME}


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode(errors="replace")).hexdigest()


def _count(digests: dict[str, int]) -> float:
    """Count this try; how long to refuse it, in seconds, or 0."""
    _run(_PRUNE, {})
    seconds = 0.0
    for digest, limit in digests.items():
        [(tries, left)] = _run(_COUNT, {"digest": digest, "window": WINDOW_SECONDS})
        if tries > limit:
            seconds = max(seconds, float(left))
    return seconds


def _run(statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def _refusal(request: HttpRequest, seconds: float) -> HttpResponse:
    log.warning("too many logins from %s", throttle.address_of(request.META))
    shown = {"minutes": math.ceil(seconds / 60)}
    answer = render(request, "too_many_logins.html", shown, status=429)
    answer["Retry-After"] = str(math.ceil(seconds))
    answer["Cache-Control"] = "no-store"
    return answer
