"""Celery's consumer without the parts that chatter or get in the way.

Set ``worker_consumer = "jobs.consumer:QuietConsumer"`` in the Celery app. Left out are gossip,
mingle and event heartbeats (all-to-all messages that wait for publisher confirms inside the main
loop) and native delayed delivery, which declares 28 queues per broker for a feature that is never
used here: delays are rows in PostgreSQL.
"""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer
from kombu import Connection

from jobs import topology


class QuietConsumer(Consumer):
    """The stock consumer with fewer steps."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc,valid-type] # celery-types has no Blueprint
        default_steps = [
            step
            for step in Consumer.Blueprint.default_steps
            if not str(step).endswith(":DelayedDelivery")
        ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        quiet = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        kwargs["worker_options"] = {**(kwargs.get("worker_options") or {}), **quiet}
        super().__init__(*args, **kwargs)

    def connect(self) -> Connection:
        """Connect, and have the queues before consuming from them, also on an emptied broker."""
        broker = super().connect()
        topology.ensure(broker)
        return broker
