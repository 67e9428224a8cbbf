"""A worker that hears nothing asks whether it is still a consumer of its queues, as it believes.

Whoever deletes a queue ends the consumers that it has, and RabbitMQ tells them so. What is told can
get lost: the queue is declared anew by the next who needs it, and workers that were told nothing go
on consuming one that is no more. A passive declaration costs the broker next to nothing, and says
how many consumers a queue has. Not who they are: so fewer than before are reason enough to consume
anew while that disturbs nobody, and none at all, twice, is the end of the connection.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any, NoReturn

from kombu import Connection

from jobs import topology

log = logging.getLogger("jobs.rollcall")

#: Least time between two questions while all is well.
EVERY_SECONDS = 1.5
#: Answers of none in a row that are believed. RabbitMQ says 0 as well while it knows no better: a
#: queue whose leader does not answer at once has no consumers, as far as it tells.
SURE = 2


class RollCall:
    """The questions of one worker. Main loop only."""

    def __init__(self) -> None:
        self._heard = 0
        self.begin()

    def begin(self) -> None:
        """The worker has connected anew."""
        self._channel: Any = None
        self._asked_at = float("-inf")
        self.begin_count()

    def begin_count(self) -> None:
        """The worker has consumed anew. Whether a broker counts it, the next answer tells."""
        self._before: dict[str, int] = {}
        self._counted = self._doubtful = False
        self._missing = 0

    def look(self, broker: Connection, queues: Collection[str], heard: int) -> bool:
        """Ask, if it is time to, on the connection that consumes these; ``heard`` counts what
        arrived.

        Answers whether to consume anew as soon as nothing is under way. Raises ConnectionResetError
        if the worker is no consumer any more, and what a lost connection raises. Only RabbitMQ has
        consumers to count; with Redis, who listens comes back for each message.
        """
        if broker.transport.driver_type != "amqp":
            return False
        silent, self._heard = heard == self._heard, heard
        now = time.monotonic()
        if not silent:
            self._doubtful = False
            if self._counted:
                self._asked_at, self._missing = now, 0
        if self._missing or now - self._asked_at >= EVERY_SECONDS:
            self._asked_at = now
            self._compare({name: self._consumers(broker, name) for name in queues})
        return self._doubtful

    def _compare(self, counts: dict[str, int]) -> None:
        log.debug("consumers, as the broker counts them: %s", counts)
        fewer = [name for name, count in counts.items() if count < self._before.get(name, 0)]
        self._doubtful = self._doubtful or bool(fewer)
        self._before = counts
        deserted = [name for name, count in counts.items() if not count]
        # A broker that has never counted this worker proves nothing by not counting it.
        self._counted = self._counted or not deserted
        self._missing = self._missing + 1 if deserted and self._counted else 0
        if self._missing >= SURE:
            _give_up(deserted[0])

    def _consumers(self, broker: Connection, name: str) -> int:
        if self._channel is None:
            self._channel = broker.channel()
        try:
            return int(topology.look_at(self._channel, name).consumer_count)
        except broker.channel_errors:
            _give_up(name)


def _give_up(queue: str) -> NoReturn:
    log.error("this worker is no consumer of queue %r any more: it connects anew", queue)
    raise ConnectionResetError(f"no longer a consumer of queue {queue!r}")
