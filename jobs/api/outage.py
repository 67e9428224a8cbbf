"""Middleware that turns the database's absence into 503, in the admin and in every other view."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from jobs.api import problems


class OutageMiddleware:
    """Answers 503 with Retry-After where a view failed because the database is away.

    It looks at failures alone: a request that needs no database is served during an outage.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return problems.unavailable(error, request) if problems.is_outage(error) else None
