"""Two questions of supervisors, answered with a bare word; details are for staff only.

``live`` must not depend on anything: a supervisor that restarts every API process because the
database is away makes a bad hour worse. ``ready`` depends on what no request can do without.
"""

from __future__ import annotations

import logging
from functools import cache as once

from django.db import Error, connection
from django.db.migrations.exceptions import MigrationSchemaMissing
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from jobs import __version__, cache, status_reader, topology
from jobs.api.auth import principal_of
from jobs.api.throttle import TooManyFailures

log = logging.getLogger("jobs.health")

#: Bound on looking for the broker, which is reported and never waited for.
_BROKER_SECONDS = 0.5


@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """The process answers."""
    return _word("ok", 200)


@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """The database answers and has all migrations. ``?verbose`` shows staff what is wrong."""
    database = _database()
    good = database == "ok"
    if "verbose" in request.GET and _is_staff(request):
        details = {
            "ready": good,
            "database": database,
            "cache": _cache(),
            "broker": "ok" if topology.is_reachable(_BROKER_SECONDS) else "unreachable",
            "release": __version__,
        }
        return JsonResponse(details, status=200 if good else 503, headers=_headers(good=good))
    return _word("ready" if good else "not ready", 200 if good else 503)


def _word(word: str, status: int) -> HttpResponse:
    good = status == 200
    return HttpResponse(
        word, status=status, content_type="text/plain; charset=utf-8", headers=_headers(good=good)
    )


def _headers(*, good: bool) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    return headers if good else {**headers, "Retry-After": "2"}


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return "ok" if _has_all_migrations() else "migrations are missing"
    except Error as error:
        log.warning("not ready: %s", error)
        return "unreachable"


def _has_all_migrations() -> bool:
    try:
        _find_all_migrations()
    except _Unapplied:
        return False
    return True


@once
def _find_all_migrations() -> None:
    """Remembered once true: neither the code nor the past of the database changes under us."""
    try:
        executor = MigrationExecutor(connection)
    except MigrationSchemaMissing as error:
        raise _Unapplied from error
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise _Unapplied


class _Unapplied(Exception):
    """Raised so that ``no`` is not remembered."""


def _cache() -> str:
    if not cache.ask(lambda r: bool(r.ping())):
        return "unreachable"
    return "ok" if status_reader.is_settled() else "back, not trusted yet"


def _is_staff(request: HttpRequest) -> bool:
    try:
        if "Authorization" in request.headers:
            principal = principal_of(request)
            return principal is not None and principal.is_staff
        return bool(request.user.is_active and request.user.is_staff)
    except (Error, TooManyFailures):
        return False
