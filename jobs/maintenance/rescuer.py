"""Takes jobs back from workers that died or stalled."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobs import conf, lifecycle
from jobs.models import Job
from jobs.presence import name_of_this_process

BATCH = 500
#: Batches in one tick. The other duties wait meanwhile.
MOST_BATCHES = 10


def run_once(still: Callable[[], bool] = lambda: True) -> int:
    """End the lapsed attempts, a batch at a time and a bounded number of them; returns how many.

    ``still`` as for ``lifecycle.rescue``.
    """
    total = 0
    for _ in range(MOST_BATCHES):
        actor_id = name_of_this_process()
        ended = len(lifecycle.rescue(limit=BATCH, actor_id=actor_id, still=still))
        total += ended
        if ended < BATCH:
            break
    return total


class Rescuer:
    """Rescues at every tick, but after a gap lets the living beat first.

    While the database is away or frozen nobody can renew a lease. Once it is back every lease has
    lapsed, of the living too, and taking their jobs would charge them for the outage. The gap is
    seen by this process's own clock: no answer for a third of a lease. The wait is a few heartbeats
    from the first answer on, and a scheduler that is always slow waits at every other tick only.
    """

    def __init__(self) -> None:
        self._answered_at = float("-inf")
        self._waits_until: float | None = None

    def run_once(self) -> int:
        """End lapsed attempts, or wait for signs of life first; returns how many were ended."""
        settings = conf.get()
        asked_at = time.monotonic()
        # Forgotten if this tick fails: then the next answer begins a wait of its own.
        waits_until, self._waits_until = self._waits_until, None
        bound = settings.lease_seconds / 3
        is_steady = asked_at - self._answered_at <= bound
        if waits_until is not None:
            is_steady = asked_at >= waits_until
        ended = 0
        if is_steady:
            # The database may freeze in the very statement that finds the lapsed.
            ended = run_once(still=lambda: time.monotonic() - asked_at <= bound)
        else:
            Job.objects.lapsed().exists()
        self._answered_at = time.monotonic()
        if self._answered_at - asked_at > bound or (not is_steady and waits_until is None):
            self._waits_until = self._answered_at + 3 * settings.heartbeat_seconds
        elif not is_steady:
            self._waits_until = waits_until
        return ended
