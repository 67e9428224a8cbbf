"""Takes jobs back from workers that died or stalled."""

from __future__ import annotations

from jobs import lifecycle
from jobs.presence import name_of_this_process

BATCH = 500


def run_once() -> int:
    """End every lapsed attempt, a batch at a time; returns how many."""
    total = 0
    while True:
        ended = len(lifecycle.rescue(limit=BATCH, actor_id=name_of_this_process()))
        total += ended
        if ended < BATCH:
            return total
