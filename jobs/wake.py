"""How the relay sleeps without polling hard: it listens on Redis for the next submit.

Best effort on purpose. A wake-up that is lost, or a Redis that is gone, costs at most one poll
interval; ADR 0004 has the measurements behind this choice over PostgreSQL's NOTIFY.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis

from jobs import cache, conf, doorbells, status
from jobs.values import Foretold

#: News read at once before the relay looks at the outbox.
MOST_SWALLOWED = 1000
#: How long an answer holds to the question whether other relays listen.
COUNT_SECONDS = 1.0


class WakeUp:
    """A subscription that is opened again by itself whenever it breaks."""

    def __init__(self) -> None:
        # Kept, because a client that is forgotten takes its connections along.
        self._client: redis.Redis | None = None
        self._pubsub: Any = None
        self._is_alone = False
        self._counted_at = float("-inf")

    def wait(self, seconds: float) -> Foretold | None:
        """Sleep until there is something to do or ``seconds`` are over.

        Returns the doorbell that was foretold, if it is all that was heard and no other relay heard
        it: else each of them would ring it. None says to look at the outbox.
        """
        if self._pubsub is None:
            self._pubsub = cache.ask(self._subscribed)
        if self._pubsub is None:
            time.sleep(max(0.0, seconds))
            return None
        self._count()
        ends = time.monotonic() + seconds
        while True:
            said = self._heard(max(0.0, ends - time.monotonic()))
            if said is None:
                return None
            foretold = _all_of([said, *self._more()])
            if foretold is None or self._is_alone:
                return foretold
            if foretold.is_there:
                return None

    def close(self) -> None:
        """Drop the subscription; the next ``wait`` opens one."""
        if self._client is not None:
            self._client.close()
        self._client = self._pubsub = None

    def _subscribed(self, _: redis.Redis) -> Any:
        self._client = cache.waiting_client(conf.get().cache_timeout_seconds)
        return cache.subscribed(self._client, status.wake_channel())

    def _heard(self, seconds: float) -> bytes | None:
        """The next wake-up within ``seconds``, if one comes."""
        pubsub = self._pubsub
        heard = cache.ask(lambda _: (pubsub.get_message(timeout=seconds),), proves=False)
        if heard is None:
            self.close()
        if heard is None or heard[0] is None:
            return None
        said: bytes = heard[0]["data"]
        return said

    def _more(self) -> list[bytes]:
        """What else has come: many submits are one reason to look. Bounded, because more may come
        all the time."""
        more: list[bytes] = []
        while len(more) < MOST_SWALLOWED and self._pubsub is not None:
            said = self._heard(0)
            if said is None:
                break
            more.append(said)
        return more

    def _count(self) -> None:
        """Whether this is the only relay, asked now and then, and not while a job waits for it."""
        if time.monotonic() - self._counted_at < COUNT_SECONDS:
            return
        self._counted_at = time.monotonic()
        self._is_alone = cache.ask(_listeners, proves=False) == 1


def _all_of(said: Sequence[bytes]) -> Foretold | None:
    """The one doorbell that all these wake-ups foretell, as the last of them knows it."""
    heard = [doorbells.foretold_in(one) for one in said]
    last = heard[-1]
    if last is None or any(one is None or one.job_id != last.job_id for one in heard):
        return None
    return last


def _listeners(client: redis.Redis) -> int | None:
    try:
        [(_, count)] = client.pubsub_numsub(status.wake_channel())
    except redis.exceptions.NoPermissionError:
        # The rules for this user may be older than the question. Redis is well.
        return None
    return int(count)
