"""A worker's main process gives a child several waiting messages at once.

A message with one short job costs its worker far more than the job. Messages say how long their
jobs are expected to take, and short ones that wait together are claimed, run and recorded together,
like the jobs of one message (ADR 0018). Each is acknowledged when all of them are done.

Messages can only wait here if the broker sends more than the children can begin. So a worker
prefetches widely while all that arrives is short, and narrowly again as soon as all its children
turn out to be slow: what it holds goes back to the broker then, for other workers (ADR 0020).
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from celery.bootsteps import RUN  # type: ignore[attr-defined] # not in celery-types
from celery.exceptions import TaskRevokedError
from celery.worker import state
from celery.worker.request import Request
from kombu import Consumer

from jobs import conf, doorbells, drain
from jobs.outstanding import Outstanding

log = logging.getLogger("jobs.gathering")

#: Jobs per child that are prefetched at most: two groups of the usual size, one that is worked on
#: and one that waits.
WIDE = 200
#: Messages per child, of those that hold more. What is left is for workers beside this one.
LEAST = 2
#: The largest number that a broker can be told (AMQP 0-9-1, ``basic.qos``).
MOST = 0xFFFF
#: Messages per child, in a row, by which the prefetch is measured.
SHORT_IN_A_ROW = 4
#: How long a worker stays narrow after a slow job, and at most if there is another soon after it.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 10.0, 300.0
#: How often a worker looks at what it holds, while that may be more than it can begin.
LOOK_SECONDS = 0.1


class Ring(Request):
    """Celery's request for one message, which may stand for others as well."""

    message: Any
    connection_errors: Any

    def __init__(self, message: Any, **named: Any) -> None:
        super().__init__(message, **named)
        self.others: list[Ring] = []
        #: Where the messages of a group are acknowledged together.
        self.outstanding: Outstanding | None = None
        self.held_since = time.monotonic()
        #: The task's one argument, if it has just one, as all messages of ours have.
        self.argument = _only(self.args) if not self.kwargs else None
        #: How many jobs it announces, and what they are expected to take. A message without the
        #: latter is answered alone, and so is one that somebody before has died with, perhaps.
        self.count = 0
        self.seconds: float | None = None
        if not self.delivery_info["redelivered"]:
            self._read()

    def _read(self) -> None:
        seconds = doorbells.expected_seconds(self.argument)
        if self.argument is None or seconds is None:
            return
        self.count = len(self.argument["jobs"])
        if self.count <= conf.get().group_limit:
            try:
                # One that cannot be read shall not have others answered with it.
                doorbells.decode(self.argument)
            except ValueError:
                return
        self.seconds = seconds

    @property
    def body(self) -> Any:
        """What the child gets: the doorbells of all the messages."""
        if not self.others:
            return super().body
        return doorbells.packed(doorbells.joined([one.argument for one in (self, *self.others)]))

    def release_others(self) -> None:
        """They are other workers' now, or come again: trying would be an error for each."""
        self.others = []

    def acknowledge(self) -> None:
        """All messages have been answered."""
        if self.outstanding is None or not self.others:
            super().acknowledge()
            return
        together = [one for one in (self, *self.others) if not one.acknowledged]
        for one in together:
            one.acknowledged = True
        self.outstanding.acknowledge([one.message for one in together], self.connection_errors)

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's signature
        """None of the messages has been answered."""
        super().reject(requeue=requeue)
        for other in self.others:
            other.reject(requeue=requeue)


def _only(arguments: Any) -> Any:
    """Anybody may have written them."""
    return arguments[0] if isinstance(arguments, list) and len(arguments) == 1 else None


class Gatherer:
    """Stands between a consumer and the children of its prefork pool. Main loop only."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._process = consumer.on_task_request
        self._outstanding = Outstanding(self._soon)
        self._held = Held(consumer.controller, self._outstanding)
        self._prefetch = Prefetch(self._held, consumer.controller.concurrency)
        self._looks = False

    def _soon(self, work: Callable[[], None]) -> None:
        self._consumer.hub.call_soon(work)

    def note(self, message: Any) -> None:
        """A message has arrived, whatever it is."""
        if self._is_amqp():
            self._outstanding.add(message)

    def take(self, ring: Request) -> None:
        """A task has arrived. Those of the project's own go the way they would without us."""
        if not isinstance(ring, Ring):
            self._process(ring)
            return
        self._held.add(ring)
        # Redis counts a channel's messages, whatever consumer they came to: it stays narrow.
        if self._prefetch.note(ring) and self._is_amqp() and not self._looks:
            self._looks = True
            # Not here, in the midst of a delivery: it waits for the broker's answers.
            self._consumer.hub.call_soon(self._adjust, self._consumer.task_consumer)

    def _is_amqp(self) -> bool:
        return bool(self._consumer.connection.transport.driver_type == "amqp")

    def consumes(self) -> bool:
        """Whether the worker is a consumer at the moment."""
        return self._prefetch.consumes()

    def forget(self) -> None:
        """Consuming ends. With a lost connection goes the right to acknowledge what it brought."""
        self._held.forget()
        if drain.seconds_since_stop() is None:
            for ring in state.active_requests:
                if isinstance(ring, Ring):
                    ring.release_others()
        self._prefetch.begin()
        self._looks = False

    def _adjust(self, consumer: Consumer) -> None:
        if consumer is not self._consumer.task_consumer or self._consumer.blueprint.state != RUN:
            return
        self._looks = self._prefetch.adjust(consumer)
        if self._looks:
            self._consumer.hub.call_later(LOOK_SECONDS, self._adjust, consumer)


class Held:
    """The messages that wait for a child, in the order of their arrival.

    ``controller`` is Celery's worker, with its pool of ``concurrency`` children. Main loop only.
    """

    def __init__(self, controller: Any, outstanding: Outstanding) -> None:
        self._controller = controller
        self._outstanding = outstanding
        self._waiting: deque[Ring] = deque()
        self._asked = False
        self._begun_at = 0.0

    def add(self, ring: Ring) -> None:
        """Keep a message until a child is free, which may be at once."""
        self._waiting.append(ring)
        self._ask()

    def stuck_seconds(self) -> float:
        """For how long no child has come for those that wait; 0 if none waits."""
        if not self._waiting:
            return 0.0
        return time.monotonic() - max(self._begun_at, self._waiting[0].held_since)

    def hand_back(self) -> int:
        """Return all to the broker, for whoever comes first; says how many."""
        waiting = list(self._waiting)
        self._waiting.clear()
        for ring in waiting:
            _leave(ring)
            ring.reject(requeue=True)
        return len(waiting)

    def forget(self) -> None:
        """The connection is lost: these are another worker's or come again, and Celery has
        forgotten who asked for a child."""
        self._waiting.clear()
        self._asked = False

    def _ask(self) -> None:
        if self._waiting and not self._asked:
            self._asked = True
            self._controller.semaphore.acquire(self._begin)

    def _begin(self) -> None:
        self._asked = False
        if not self._waiting:
            self._controller.semaphore.release()
            return
        self._begun_at = time.monotonic()
        ring = self._waiting.popleft()
        ring.others = self._companions(ring)
        ring.outstanding = self._outstanding
        try:
            ring.execute_using_pool(self._controller.pool)
        except TaskRevokedError:
            self._controller.semaphore.release()
        self._ask()

    def _companions(self, first: Ring) -> list[Ring]:
        """Those that share its child: no more than this child's part, and than a group may be."""
        settings = conf.get()
        part = math.ceil((len(self._waiting) + 1) / self._controller.concurrency)
        count, seconds = first.count, first.seconds
        others: list[Ring] = []
        while seconds is not None and self._waiting and len(others) + 1 < part:
            ring = self._waiting[0]
            if ring.seconds is None:
                break
            count, seconds = count + ring.count, seconds + ring.seconds
            if count > settings.group_limit or seconds > settings.group_seconds:
                break
            others.append(self._waiting.popleft())
            _leave(ring)
        return others


def _leave(ring: Ring) -> None:
    """Celery counts what is reserved; this is not, any more, by itself."""
    state.reserved_requests.discard(ring)
    state.requests.pop(ring.id, None)


class Prefetch:
    """How many messages the broker sends ahead: few, or many while all jobs are short.

    A broker applies another count to new consumers only, so that the old one is cancelled. What it
    brought and is still being worked on takes up children without counting for the new one, which
    asks for less until that is done: nothing, perhaps. Main loop only.
    """

    def __init__(self, held: Held, children: int) -> None:
        self._held = held
        self._children = children
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._narrow_until = float("-inf")
        self.begin()

    def begin(self) -> None:
        """Consuming has begun anew, with one message per child."""
        self._count = self._children
        self._row: deque[tuple[float, int]] = deque(maxlen=SHORT_IN_A_ROW * self._children)
        self._old: set[Any] = set()

    def consumes(self) -> bool:
        """Whether it asks for messages at all."""
        return self._count > 0

    def note(self, ring: Ring) -> bool:
        """A message has arrived; answers whether to ``adjust`` now."""
        if ring.seconds is None:
            self._row.clear()
        else:
            self._row.append((ring.seconds, ring.count))
        return self._wanted() != self._count

    def adjust(self, consumer: Consumer) -> bool:
        """Consume with the count that is right now; answers whether to look again soon."""
        if self._is_wide() and self._held.stuck_seconds() > conf.get().group_turn_seconds:
            self._become_narrow(consumer)
        elif (wanted := self._wanted()) != self._count:
            self._consume(consumer, wanted)
            log.info("all jobs are short: up to %d messages are prefetched", wanted)
        elif self._old:
            self._old.intersection_update(state.active_requests)
            self._consume(consumer, max(0, self._children - len(self._old)))
        return self._is_wide() or bool(self._old)

    def _is_wide(self) -> bool:
        return self._count > self._children

    def _wanted(self) -> int:
        """As many as the children do in ``group_seconds``, by the longest of the last messages, and
        no more than have ``WIDE`` jobs, by the largest.

        Each change waits for the broker a few times, so that only a much better count is one.
        """
        is_full = len(self._row) == self._row.maxlen
        if not is_full or self._old or time.monotonic() < self._narrow_until:
            return self._count
        work = conf.get().group_seconds
        longest = max(seconds for seconds, _ in self._row)
        largest = max(1, *(count for _, count in self._row))
        each = max(LEAST, WIDE // largest)
        if longest * each > work:
            each = max(1, int(work / longest))
        count = min(self._children * each, MOST)
        return count if count >= 2 * self._count or 4 * count <= self._count else self._count

    def _become_narrow(self, consumer: Consumer) -> None:
        now = time.monotonic()
        soon = now - self._narrow_until < LONGEST_PAUSE_SECONDS
        self._pause_seconds = (
            min(LONGEST_PAUSE_SECONDS, 2 * self._pause_seconds) if soon else FIRST_PAUSE_SECONDS
        )
        self._narrow_until = now + self._pause_seconds
        self._row.clear()
        self._old = set(state.active_requests)
        self._consume(consumer, 0)
        count = self._held.hand_back()
        log.info("jobs take longer than they used to: %d messages handed back", count)
        self._consume(consumer, max(0, self._children - len(self._old)))

    def _consume(self, consumer: Consumer, count: int) -> None:
        if count == self._count:
            return
        self._count = count
        consumer.cancel()
        if count:
            consumer.qos(prefetch_count=count)
            consumer.consume()
