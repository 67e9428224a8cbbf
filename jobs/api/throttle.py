"""Counts requests with wrong keys, and refuses an address that keeps sending them.

Nobody guesses 256 random bits, so this protects the database and the log, not the keys. That is why
counters may live where they can be lost: in Redis, shared by all processes, each for a fixed time
from its first failure, and in this process's memory for when Redis is away. Losing them lets
somebody fail some more.

Counted are the address and what the log shows of the key. While either is refused, keys that were
valid here before are still looked up, so that a stranger behind the same address (or with the same
beginning of a key) does not lock out those who hold one.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rest_framework.exceptions import Throttled

from jobs import cache, conf
from jobs.models import ApiKey

if TYPE_CHECKING:
    import redis

#: What a process remembers at most of each kind, some hundred bytes each.
_MOST = 10_000
#: A hint is this long in the log and in the admin.
_HINT = len(ApiKey.PREFIX) + 6
#: An IPv6 network that one customer gets whole.
_IPV6_NETWORK = 64

#: One more failure: how many there are, and for how many milliseconds they count.
_ADD = """
local failures = redis.call('INCR', KEYS[1])
if failures == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {failures, redis.call('PTTL', KEYS[1])}
"""

V = TypeVar("V")


class TooManyFailures(Throttled):
    """Somebody at this address keeps presenting keys that are none."""

    default_detail = "Too many requests without a valid API key came from this address."
    default_code = "too_many_failures"


class _Recent(Generic[V]):
    """A dictionary of bounded size that forgets the oldest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: OrderedDict[str, V] = OrderedDict()

    def get(self, name: str) -> V | None:
        return self._values.get(name)

    def put(self, name: str, value: V) -> None:
        with self._lock:
            self._values[name] = value
            self._values.move_to_end(name)
            while len(self._values) > _MOST:
                self._values.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._values.clear()


@dataclass(frozen=True, slots=True)
class _Window:
    """Failures that count until a time on this process's monotonic clock."""

    failures: int
    until: float


_windows: _Recent[_Window] = _Recent()
#: Digests of keys that were valid here.
_known: _Recent[str] = _Recent()


class Guesses:
    """What one address has tried lately, with one beginning of a key."""

    def __init__(self, address: str, secret: str) -> None:
        settings = conf.get()
        self._limit = settings.auth_failures_limit
        self._seconds = settings.auth_failures_window_seconds
        self._digest = ApiKey.digest_of(secret) if secret else ""
        self._names = [f"a:{address}", *([f"h:{secret[:_HINT]}"] if secret else [])]

    def seconds_refused(self) -> float:
        """How long still to refuse without looking; 0: look. Asks nobody else."""
        if self._limit is None or is_known(self._digest):
            return 0.0
        windows = [_present(name) for name in self._names]
        ends = [one.until for one in windows if one and one.failures >= self._limit]
        return max(ends) - time.monotonic() if ends else 0.0

    def count(self, *, failed: bool) -> None:
        """Note what the looking found."""
        if not failed:
            if not is_known(self._digest):
                _known.put(self._digest, self._digest)
        elif self._limit is not None:
            self._count_failure()

    def _count_failure(self) -> None:
        shared = cache.ask(self._add_in_redis) or [_Window(0, 0.0)] * len(self._names)
        for name, theirs in zip(self._names, shared, strict=True):
            ours = _present(name) or _Window(0, time.monotonic() + self._seconds)
            failures = max(ours.failures + 1, theirs.failures)
            _windows.put(name, _Window(failures, theirs.until or ours.until))

    def _add_in_redis(self, client: redis.Redis) -> list[_Window]:
        milliseconds = round(self._seconds * 1000)
        with client.pipeline(transaction=False) as pipe:
            for name in self._names:
                pipe.eval(_ADD, 1, f"{conf.get().cache_prefix}:f:{name}", milliseconds)
            now = time.monotonic()
            return [_Window(count, now + max(left, 0) / 1000) for count, left in pipe.execute()]


def is_known(digest: str) -> bool:
    """Whether the key with this digest was valid here before: it is refused to nobody."""
    return _known.get(digest) is not None


def _present(name: str) -> _Window | None:
    window = _windows.get(name)
    return window if window is not None and time.monotonic() < window.until else None


def address_of(meta: Mapping[str, Any]) -> str:
    """The client's address as its connection shows it, or as the nearest trusted proxies saw it.

    What a client writes into X-Forwarded-For itself stands left of what ``trusted_proxies`` proxies
    have added, and is never looked at. IPv6 counts by network.
    """
    seen = [str(meta.get("REMOTE_ADDR", ""))]
    proxies = conf.get().trusted_proxies
    if proxies:
        forwarded = [part.strip() for part in meta.get("HTTP_X_FORWARDED_FOR", "").split(",")]
        seen = forwarded[-proxies:] if len(forwarded) >= proxies else seen
    return _network(seen[0])


def forget() -> None:
    """Forget what this process remembers."""
    _windows.clear()
    _known.clear()


def _network(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_NETWORK), strict=False))
