"""How the relay sleeps without polling hard: it listens on Redis for the next submit.

Best effort on purpose. A wake-up that is lost, or a Redis that is gone, costs at most one poll
interval; ADR 0004 has the measurements behind this choice over PostgreSQL's NOTIFY.
"""

from __future__ import annotations

import time
from typing import Any

import redis

from jobs import cache, conf, status

#: News read at once before the relay looks at the outbox.
MOST_SWALLOWED = 1000


class WakeUp:
    """A subscription that is opened again by itself whenever it breaks."""

    def __init__(self) -> None:
        self._pubsub: Any = None

    def wait(self, seconds: float) -> bool:
        """Sleep until somebody rings or ``seconds`` are over; True if somebody rang."""
        if self._pubsub is None:
            self._pubsub = cache.ask(_subscribed)
        if self._pubsub is None:
            time.sleep(seconds)
            return False
        pubsub = self._pubsub
        rang = cache.ask(lambda _: (pubsub.get_message(timeout=seconds),), proves=False)
        if rang is None:
            self.close()
            return False
        self._swallow_more()
        return rang[0] is not None

    def close(self) -> None:
        """Drop the subscription; the next ``wait`` opens one."""
        if self._pubsub is not None:
            self._pubsub.close()
            self._pubsub = None

    def _swallow_more(self) -> None:
        """Many submits are one reason to look. Bounded, because more may come all the time."""
        pubsub = self._pubsub
        for _ in range(MOST_SWALLOWED):
            if cache.ask(lambda _: pubsub.get_message(timeout=0), proves=False) is None:
                break


def _subscribed(_: redis.Redis) -> Any:
    settings = conf.get()
    client = cache.waiting_client(settings.cache_timeout_seconds)
    return cache.subscribed(client, status.wake_channel())
