"""Who asks: an API key (from Redis, without a query) or the browser's session with CSRF."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from jobs import keys
from jobs.api import throttle
from jobs.api.throttle import TooManyFailures

if TYPE_CHECKING:
    from jobs.keys import Principal

_BEARER = re.compile(r"[Bb]earer +(ilk_[A-Za-z0-9_-]{16,196})\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyUser:
    """Stands for the owner of a key. Never loaded from the database: identity is all we need."""

    pk: int
    is_staff: bool
    is_authenticated: ClassVar[bool] = True
    is_anonymous: ClassVar[bool] = False
    is_active: ClassVar[bool] = True

    @property
    def id(self) -> int:
        return self.pk

    def __str__(self) -> str:
        return f"user {self.pk}"


class KeyAuthentication(BaseAuthentication):
    """``Authorization: Bearer ilk_...``, nowhere else: a key in a URL would end up in logs."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        header = request.META.get("HTTP_AUTHORIZATION")
        if header is None:
            return None
        principal = principal_of(request)
        if principal is None:
            text = "The API key is malformed, unknown, expired or revoked."
            raise AuthenticationFailed(text, code="invalid_key")
        return KeyUser(principal.user_id, principal.is_staff), principal

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="jobs"'


class BrowserAuthentication(SessionAuthentication):
    """The session of a logged-in browser; unsafe methods need the CSRF token."""


def secret_of(meta: Mapping[str, Any]) -> str:
    """What the ``Authorization`` header presents as an API key; empty for anything else."""
    match = _BEARER.fullmatch(meta.get("HTTP_AUTHORIZATION", ""))
    return "" if match is None else match[1]


def principal_of(request: Request | HttpRequest) -> Principal | None:
    """The holder of the key in the ``Authorization`` header, if it is a valid one.

    Raises TooManyFailures, without a query, once too many others were not.
    """
    secret = secret_of(request.META)
    guesses = throttle.Guesses(throttle.address_of(request.META), secret)
    if seconds := guesses.seconds_refused():
        raise TooManyFailures(wait=seconds)
    principal = keys.look_up(secret) if secret else None
    guesses.count(failed=principal is None)
    return principal
