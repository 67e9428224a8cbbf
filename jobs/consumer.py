"""Celery's consumer without the parts that chatter or get in the way.

Set ``worker_consumer = "jobs.consumer:QuietConsumer"`` in the Celery app. Left out are gossip,
mingle and event heartbeats (all-to-all messages that wait for publisher confirms inside the main
loop) and native delayed delivery, which declares 28 queues per broker for a feature that is never
used here: delays are rows in PostgreSQL.
"""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer


class QuietConsumer(Consumer):
    """The stock consumer with fewer steps."""

    class Blueprint(Consumer.Blueprint):
        default_steps = [
            step
            for step in Consumer.Blueprint.default_steps
            if not str(step).endswith(":DelayedDelivery")
        ]

    def __init__(
        self, *args: Any, worker_options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        quiet = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        super().__init__(*args, worker_options={**(worker_options or {}), **quiet}, **kwargs)
