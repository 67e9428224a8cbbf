"""What the lane needs of a kind of plain request, and who sends one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from jobs import cache, keys
from jobs.api import throttle
from jobs.api.auth import secret_of
from jobs.combining import Combiner
from jobs.models import ApiKey, Scope

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from jobs.keys import Principal

#: The headers that are this answer's own, by name, and its body.
Answer: TypeAlias = tuple[Mapping[str, str], bytes]


class Plain(Protocol):
    """A request that may be answered without Django."""

    @property
    def code(self) -> str:
        """What Django would answer."""

    def answer(self) -> Answer | None:
        """Do what is asked; None if Django has to."""


class Kind(Protocol):
    """Plain requests of one kind."""

    def includes(self, environ: WSGIEnvironment) -> bool:
        """Whether the request's first lines and headers are those of such a request."""

    def understood(self, environ: WSGIEnvironment) -> Plain | None:
        """The request, if nothing speaks against answering it here; changes nothing."""


def look(environ: WSGIEnvironment, scope: Scope, *names: str) -> tuple[Principal, list[Any]] | None:
    """Who asks, and the values under ``names``, in one round trip to Redis.

    Threads that look at the same moment share it. None unless the key was valid in this process
    before, still is, and has the scope.
    """
    secret = secret_of(environ)
    digest = ApiKey.digest_of(secret) if secret else ""
    if not throttle.is_known(digest):
        return None
    values = _looks.ask((keys.name_of(digest), *names))
    if values is None:
        return None
    principal = keys.principal_in(values[0], digest)
    if principal is None or scope not in principal.scopes:
        return None
    return principal, values[1:]


def _fetched(wishes: Sequence[Sequence[str]]) -> Sequence[list[Any] | None]:
    """The values under the names of each wish, in one round trip for all of them."""
    if len(wishes) == 1:
        return [cache.fetch(wishes[0])]
    values = cache.fetch([name for names in wishes for name in names])
    if values is None:
        return [None] * len(wishes)
    each = iter(values)
    return [list(islice(each, len(names))) for names in wishes]


#: One at a time: Redis has nothing to wait for, and larger groups cost everybody less.
_looks: Combiner[Sequence[str], list[Any] | None] = Combiner(_fetched, at_once=1)
