"""Every refusal as ``application/problem+json`` (RFC 9457) with a stable ``code``.

Nothing of the inside is shown: no stack, no SQL, no host name. The request id joins an answer to
the log line that has the rest.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.core.signals import got_request_exception
from django.db import InterfaceError, InternalError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.views import defaults
from rest_framework import exceptions
from rest_framework.views import set_rollback

from jobs import conf
from jobs.errors import (
    FieldProblem,
    IdempotencyConflict,
    JobsError,
    SubmissionError,
    TransitionError,
)
from jobs.transactions import TryAgain

log = logging.getLogger("jobs.api")

CONTENT_TYPE = "application/problem+json"
#: How many field errors one answer lists; the detail says how many there are.
MAX_ERRORS = 100

_RETRY_AFTER_SECONDS = 2
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,100}", re.ASCII)


class InvalidRequest(JobsError):
    """The body or the query string of a request is wrong; each problem names its field."""

    code = "invalid_request"

    def __init__(self, problems: list[FieldProblem]) -> None:
        self.problems = problems
        super().__init__(f"{len(problems)} problems")


class NoSuchJob(JobsError):
    """Unknown ids and ids of other owners' jobs, which must look the same."""

    code = "not_found"

    def __init__(self, problems: Iterable[FieldProblem] = ()) -> None:
        self.problems = list(problems)
        super().__init__("There is no such job.")


class NotFound(exceptions.NotFound):
    """Something of the caller's own job, or of the catalogue, does not exist."""


class TooLarge(exceptions.APIException):
    """The body is larger than the address accepts."""

    status_code = 413
    default_detail = "The request body is larger than this address accepts."
    default_code = "too_large"


class LengthRequired(exceptions.APIException):
    """A body without Content-Length, whose size cannot be bounded before it is read."""

    status_code = 411
    default_detail = "Send the body with Content-Length; chunked bodies are not accepted."
    default_code = "length_required"


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal, before it is rendered."""

    status: int
    code: str
    detail: str
    errors: list[FieldProblem] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)


_INTERNAL = Problem(500, "internal_error", "Something went wrong. It has been logged.")
_MALFORMED = Problem(400, "bad_request", "The request is malformed.")
_FORBIDDEN = Problem(403, "permission_denied", "You may not do this.")
_NOTHING_HERE = Problem(404, "not_found", "There is nothing at this address.")
_UNAVAILABLE = Problem(
    503,
    "unavailable",
    "The database does not answer. Try again.",
    headers={"Retry-After": f"{_RETRY_AFTER_SECONDS}"},
)
#: Django calls these two neither operational: a server that is a standby for a moment, and one that
#: ended a transaction which had been idle for too long.
_PASSING = frozenset({"25006", "25P03"})
#: Errors of Django; the first kind that fits counts.
_OTHERS: tuple[tuple[tuple[type[Exception], ...], Problem], ...] = (
    ((Http404,), _NOTHING_HERE),
    ((PermissionDenied,), _FORBIDDEN),
    ((RequestDataTooBig,), Problem(413, "too_large", TooLarge.default_detail)),
    ((SuspiciousOperation,), _MALFORMED),
)


def is_outage(error: BaseException | None) -> bool:
    """Whether the database is away, full, overloaded or slow: nothing that the request did.

    Nothing was accepted then, or its answer was lost on the way and a repetition finds it. It
    includes a statement or a lock that took longer than the role may wait, and a verb whose premise
    changed at every try.
    """
    if isinstance(error, InternalError):
        return getattr(error.__cause__, "pgcode", None) in _PASSING
    return isinstance(error, OperationalError | InterfaceError | TryAgain)


def unavailable(error: Exception, request: HttpRequest) -> HttpResponse:
    """503 for an outage: a problem below the API's root, a page for people elsewhere."""
    if _is_ours(request):
        return _unavailable(error, request)
    _log_outage(error, request)
    shown = {"request_id": request_id(request), "seconds": _RETRY_AFTER_SECONDS}
    page = render_to_string("jobs/unavailable.html", shown)
    headers = {**_UNAVAILABLE.headers, "Cache-Control": "no-store"}
    return HttpResponse(page, status=503, headers=headers)


def _unavailable(error: Exception, request: HttpRequest) -> HttpResponse:
    _log_outage(error, request)
    return render(_UNAVAILABLE, request)


def _log_outage(error: Exception, request: HttpRequest) -> None:
    # One line each: an outage must not drown its own cause in stacks.
    facts = (request.method, request.path, request_id(request))
    log.warning("%s %s request=%s: %s", *facts, " ".join(str(error).split()))


def exception_handler(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """DRF's exception handler for all views of this API."""
    set_rollback()
    request = context["request"]
    django_request: HttpRequest = getattr(request, "_request", request)
    if is_outage(error):
        return _unavailable(error, django_request)
    problem = _problem_of(error)
    facts = (django_request.method, django_request.path, request_id(django_request))
    if problem.code == "internal_error":
        log.error("%s %s request=%s failed", *facts, exc_info=error)
        # Error reporters listen to this signal; DRF sends it only for what it does not handle.
        got_request_exception.send(sender=None, request=django_request)
    return render(problem, django_request)


def render(problem: Problem, request: HttpRequest) -> HttpResponse:
    """The problem as a response."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title_of(problem.status),
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        "request_id": request_id(request),
    }
    if problem.errors:
        body["errors"] = [_error(one) for one in problem.errors[:MAX_ERRORS]]
    # ASCII only: texts may quote what a client sent, lone surrogates included.
    response = HttpResponse(
        json.dumps(body), status=problem.status, content_type=CONTENT_TYPE,
        headers=dict(problem.headers),
    )  # fmt: skip
    response["X-Request-ID"] = body["request_id"]
    response["Cache-Control"] = "no-store"
    return response


def title_of(status: int) -> str:
    """The status in words, the same on every Python: its own table was changed to RFC 9110's."""
    return _TITLES.get(status) or HTTPStatus(status).phrase


def request_id(request: HttpRequest) -> str:
    """The id that a proxy gave this request, if it looks like one; else a new one, kept."""
    known = request.META.get("jobs.request_id")
    if known is None:
        given = request.headers.get("X-Request-ID", "")
        known = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request.META["jobs.request_id"] = known
    return str(known)


def _error(problem: FieldProblem) -> dict[str, Any]:
    found: dict[str, Any] = {
        "path": problem.path,
        "message": problem.message,
        "code": problem.code,
    }
    if problem.index is not None:
        found["index"] = problem.index
    return found


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, JobsError):
        return _of_ours(error)
    if isinstance(error, exceptions.APIException):
        return _of_drf(error)
    return next((problem for kinds, problem in _OTHERS if isinstance(error, kinds)), _INTERNAL)


def _of_ours(error: JobsError) -> Problem:
    if isinstance(error, NoSuchJob):
        return Problem(404, error.code, str(error), error.problems)
    if isinstance(error, TransitionError):
        return Problem(409, error.code, str(error))
    if isinstance(error, SubmissionError | InvalidRequest):
        count = len(error.problems)
        text = "The request is wrong in one place." if count == 1 else f"{count} things are wrong."
        if isinstance(error, IdempotencyConflict):
            text = "This idempotency key was used before with another request."
            return Problem(422, error.code, text, error.problems)
        return Problem(400, error.code, text, error.problems)
    return _INTERNAL


def _of_drf(error: exceptions.APIException) -> Problem:
    headers: dict[str, str] = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = str(error.auth_header)  # type: ignore[attr-defined] # set by DRF's view
    if getattr(error, "wait", None):
        headers["Retry-After"] = f"{math.ceil(error.wait)}"  # type: ignore[attr-defined] # only Throttled has it
    detail = error.detail if isinstance(error.detail, str) else "The request is malformed."
    code = error.get_codes()
    code = code if isinstance(code, str) else "bad_request"
    return Problem(error.status_code, code, detail, headers=headers)


# ------------------------------------------------------------- Django's own errors, for a urls.py


def _is_ours(request: HttpRequest) -> bool:
    root = conf.get().api_prefix.strip("/").partition("/")[0]
    return request.path_info.startswith(f"/{root}/")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """``handler400``: a problem below the API's root, Django's page elsewhere."""
    if _is_ours(request):
        return render(_MALFORMED, request)
    return defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """``handler403``: a problem below the API's root, Django's page elsewhere."""
    if _is_ours(request):
        return render(_FORBIDDEN, request)
    return defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """``handler404``: a problem below the API's root, Django's page elsewhere."""
    if _is_ours(request):
        return render(_NOTHING_HERE, request)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """``handler500``: a problem below the API's root, Django's page elsewhere.

    An outage outside of any view, as in a session middleware, comes here and is 503 all the same.
    """
    error = sys.exc_info()[1]
    if isinstance(error, Exception) and is_outage(error):
        return unavailable(error, request)
    if _is_ours(request):
        return render(_INTERNAL, request)
    return defaults.server_error(request)
