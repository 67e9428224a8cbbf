"""API keys: issue, revoke, and look up from Redis without the database.

What Redis holds of a key lives for ``api_key_ttl_seconds``; a revocation deletes it at once and,
should that deletion be lost, takes effect when the copy expires.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.db.models.functions import Now

from jobs import cache, conf, seal
from jobs.models import ApiKey, Scope

#: No copy of ours is longer.
_LONGEST_COPY = 1000
#: Copies that a process remembers to have read, about a kilobyte each.
_COPIES_READ = 2000


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a key speaks for, and what it may do."""

    key_id: UUID
    user_id: int
    is_staff: bool
    scopes: frozenset[Scope]


def issue(
    owner_id: int, name: str, scopes: Iterable[Scope], *, valid_for: timedelta | None = None
) -> str:
    """Create a key and return its secret, which is nowhere stored and never shown again.

    It expires ``valid_for`` from now by the database's clock; None: never.
    """
    secret = ApiKey.new_secret()
    ApiKey.objects.create(
        owner_id=owner_id,
        name=name,
        digest=ApiKey.digest_of(secret),
        hint=secret[: len(ApiKey.PREFIX) + 6],
        scopes=sorted(scopes),
        expires_at=None if valid_for is None else Now() + valid_for,
    )
    return secret


def revoke(key_ids: Iterable[UUID]) -> int:
    """Revoke keys now; returns how many were not revoked before."""
    keys = ApiKey.objects.filter(id__in=list(key_ids), revoked_at=None)
    digests = list(keys.values_list("digest", flat=True))
    count = keys.update(revoked_at=Now())
    forget(digests)
    return count


def forget(digests: Iterable[str]) -> None:
    """Drop cached copies."""
    names = [name_of(digest) for digest in digests]
    if names:
        cache.ask(lambda r: r.delete(*names))


def look_up(secret: str) -> Principal | None:
    """The principal of a valid key; None for one that is unknown, revoked, expired or disabled."""
    if not secret.startswith(ApiKey.PREFIX) or len(secret) > 200:
        return None
    digest = ApiKey.digest_of(secret)
    found = cache.fetch([name_of(digest)])
    if found is not None and (principal := principal_in(found[0], digest)) is not None:
        return principal
    principal = _from_database(digest)
    if principal is not None:
        _keep(digest, principal)
    return principal


def name_of(digest: str) -> str:
    """Where Redis has the copy of the key with this digest."""
    return f"{conf.get().cache_prefix}:k:{digest}"


def principal_in(value: Any, digest: str) -> Principal | None:
    """The principal in what Redis has of this key; None for nothing, and for what is not ours."""
    if not isinstance(value, bytes) or len(value) > _LONGEST_COPY:
        return None
    return _parsed(settings.SECRET_KEY, digest, value)


def _from_database(digest: str) -> Principal | None:
    row = (
        ApiKey.objects.filter(
            Q(expires_at=None) | Q(expires_at__gt=Now()),
            digest=digest,
            revoked_at=None,
            owner__is_active=True,
        )
        .values_list("id", "owner_id", "owner__is_staff", "scopes")
        .first()
    )
    if row is None:
        return None
    return Principal(row[0], row[1], row[2], frozenset(Scope(scope) for scope in row[3]))


def _keep(digest: str, principal: Principal) -> None:
    who = [str(principal.key_id), principal.user_id, principal.is_staff, sorted(principal.scopes)]
    content = json.dumps([digest, *who]).encode()
    value = seal.of(content) + content
    life = round(conf.get().api_key_ttl_seconds * 1000)
    cache.ask(lambda r: r.set(name_of(digest), value, px=life))


@lru_cache(maxsize=_COPIES_READ)
def _parsed(_secret: str, digest: str, value: bytes) -> Principal | None:
    """A copy says whose it is: under the name of another key it is nobody's.

    Remembered, since it depends on nothing but the arguments, the secret of the seal among them:
    what counts is still what Redis says at this moment.
    """
    try:
        mark, content = value[: seal.LENGTH], value[seal.LENGTH :]
        if not seal.is_good(mark, content):
            return None
        whose, key_id, user_id, is_staff, scopes = json.loads(content)
        if whose != digest:
            return None
        return Principal(
            UUID(key_id), int(user_id), bool(is_staff), frozenset(Scope(s) for s in scopes)
        )
    except (ValueError, TypeError, AttributeError):
        return None
