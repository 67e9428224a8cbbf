"""Celery's consumer without the parts that chatter or get in the way, and never silent for long.

Set ``worker_consumer = "jobs.consumer:QuietConsumer"`` in the Celery app. Left out are gossip,
mingle and event heartbeats (all-to-all messages that wait for publisher confirms inside the main
loop) and native delayed delivery, which declares 28 queues per broker for a feature that is never
used here: delays are rows in PostgreSQL.

Added is what a worker needs to be at work again within seconds of a broker's return: short, uneven
waits between tries, a bound on every answer, and a watchdog (``jobs.watchdog``). And messages that
wait for a child of a prefork pool are given to it together (``jobs.gathering``).
"""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import signals
from celery.bootsteps import RUN  # type: ignore[attr-defined] # not in celery-types
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import WorkerShutdown
from celery.utils.threads import (  # type: ignore[attr-defined] # newer than celery-types
    _open_broker_sockets,
    bound_open_broker_sockets,
)
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu import Connection
from vine import promise

from jobs import conf, drain, topology
from jobs.errors import ConfigurationError
from jobs.gathering import Gatherer
from jobs.rollcall import RollCall
from jobs.watchdog import Watchdog

log = logging.getLogger("jobs.consumer")

#: Longest wait between two tries to connect. Kombu's own wait grows to 30 s.
LONGEST_WAIT_SECONDS = 1.5
#: A connection that held for this long was a good one: the next try after it comes at once.
GOOD_SECONDS = 10.0
#: Bound on one answer of the broker while the main loop waits for it.
ANSWER_SECONDS = 5.0
#: The same while consuming is being set up, doubled after every silence up to the other. A broker
#: that has just started accepts connections before its queues answer, and forgets who asked.
FIRST_ANSWER_SECONDS = 1.5
#: The same during a stop. Acknowledgements that are lost then cost other workers one look each.
LAST_ANSWER_SECONDS = 1.0
#: Least time between two log lines about the same broker that is away.
COMPLAIN_SECONDS = 15.0
#: More results than a child can have sent, and still a C int after some more.
ALL_READ = 2**30
#: What a worker exits with when its supervisor shall notice.
FAILURE = 1


class QuietConsumer(Consumer):
    """The stock consumer with fewer steps and less patience."""

    hub: Any
    strategies: Any
    task_consumer: Any
    on_task_request: Any

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
        self._heard = 0
        self._listening_since: float | None = None
        self._failures = 0
        self._silences = 0
        self._complained_at = float("-inf")
        self._pulse = time.monotonic()
        # One object for all beats, so that a loop that stands still does not collect them.
        self._show_life = promise(self._look)
        # A call that waits shows no life, and must be over before it is taken for a dead loop.
        self._answer_seconds = min(ANSWER_SECONDS, conf.get().deaf_seconds / 2)
        self._watchdog = Watchdog(self, sorted(self.app.amqp.queues.consume_from))
        self._roll_call = RollCall()
        # Only prefork hands jobs over, and without a hub it does not wait for a free child.
        hands_over = isinstance(self.pool, PreforkPool) and self.hub is not None
        self._gatherer = Gatherer(self) if hands_over else None
        if self._gatherer is not None:
            self.on_task_request = self._gatherer.take

    # -- the main thread: connect, listen, lose the connection, connect again

    def start(self) -> None:
        """Consume until asked to stop. The pool has its processes by now, so threads may begin."""
        signals.worker_shutting_down.connect(self._on_stop_asked)
        self._watchdog.start()
        super().start()

    def stop(self) -> None:
        """The first step of every orderly stop, whatever its reason; the pool's comes after it.

        The broker may be silent, and there is little left to hear from it.
        """
        drain.stop()
        _let_children_go(self.pool)
        if self.connection:
            bound_open_broker_sockets(self.connection, LAST_ANSWER_SECONDS)
        super().stop()

    def shutdown(self) -> None:
        """The last step: leave the broker, and end the watchdog."""
        super().shutdown()
        self._watchdog.stop()

    def connect(self) -> Connection:
        """Connect, and have the queues before consuming from them, also on an emptied broker.

        Raises WorkerShutdown if a live queue has other arguments: no try would end otherwise.
        """
        broker = super().connect()
        patience = FIRST_ANSWER_SECONDS * 2 ** min(self._silences, 10)
        bound_open_broker_sockets(broker, min(patience, self._answer_seconds))
        try:
            topology.ensure(broker)
        except ConfigurationError as error:
            log.critical("%s", error)
            drain.stop()
            raise WorkerShutdown(FAILURE) from error
        return broker

    def ensure_connected(self, conn: Any) -> Connection:
        """As Celery's, but with short waits, and with one log line now and then."""
        patient = conn.ensure_connection

        def quick(
            complain: Callable[..., object], max_retries: int | None, callback: Callable[[], object]
        ) -> Connection:
            def showing_life() -> None:
                self._beat()
                callback()

            connected: Connection = patient(
                lambda *error: self._now_and_then(complain, *error),
                max_retries,
                callback=showing_life,
                interval_start=random.uniform(0.1, 0.5),
                interval_step=random.uniform(0.1, 0.5),
                interval_max=random.uniform(LONGEST_WAIT_SECONDS / 2, LONGEST_WAIT_SECONDS),
            )
            return connected

        topology.bound_calls(conn, self._answer_seconds)
        conn.ensure_connection = quick
        connected: Connection = super().ensure_connected(conn)
        return connected

    def on_ready(self) -> None:
        """Called whenever the queues are being consumed, after every connect."""
        self._listening_since = time.monotonic()
        self._silences = 0
        self._roll_call.begin()
        if self.connection:
            bound_open_broker_sockets(self.connection, self._answer_seconds)
        super().on_ready()

    def on_close(self) -> None:
        """Consuming ends, by a stop or with the connection."""
        if self._gatherer is not None:
            self._gatherer.forget()
        super().on_close()

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        self._now_and_then(super().on_connection_error_before_connected, exc)
        self._rest(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        self._rest(exc)

    def _rest(self, error: Exception) -> None:
        """Wait before the next try: longer each time while the broker answers with refusals."""
        self._silences += isinstance(error, TimeoutError)
        since, self._listening_since = self._listening_since, None
        held = 0.0 if since is None else time.monotonic() - since
        self._failures = 0 if held > GOOD_SECONDS else self._failures + 1
        wait = min(LONGEST_WAIT_SECONDS, 0.1 * 2 ** min(self._failures, 10))
        self._beat()
        state.maybe_shutdown()
        time.sleep(wait * random.uniform(0.5, 1))

    def _now_and_then(self, complain: Callable[..., object], *what: object) -> None:
        if time.monotonic() - self._complained_at > COMPLAIN_SECONDS:
            self._complained_at = time.monotonic()
            complain(*what)

    def update_strategies(self) -> None:
        """Without Celery's own tasks, which apply others to arguments out of a message."""
        super().update_strategies()
        for name in [name for name in self.strategies if name.startswith("celery.")]:
            del self.strategies[name]

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], object]:
        """Celery's, counting what arrives."""
        handle = super().create_task_handler(*args, **kwargs)

        def counted(message: Any) -> object:
            self._heard += 1
            if self._gatherer is not None:
                self._gatherer.note(message)
            return handle(message)

        return counted

    def _beat(self) -> None:
        self._pulse = time.monotonic()

    def _look(self) -> None:
        """In the main loop: show life, and notice what Celery has not.

        It reads a little before its loop begins (``_quick_drain``), and elsewhere, and drops what
        it meets there: nothing would be heard any more until the broker's heartbeats are missed.
        """
        self._beat()
        broker = self.connection
        if not (broker and self.is_listening() and self.blueprint.state == RUN):
            return
        if not broker.connected:
            raise ConnectionResetError("closed by the broker, and nobody noticed")
        # Whoever has told the worker to leave a queue alone changes what it consumes from.
        queues = self.app.amqp.queues.consume_from
        if self._should_hear() and self._roll_call.look(broker, queues, self._heard):
            self._consume_anew()

    def _should_hear(self) -> bool:
        """Whether a message that is there for it would be here by now."""
        return self.has_free_slot() and (self._gatherer is None or self._gatherer.consumes())

    def _consume_anew(self) -> None:
        """Costs two answers of the broker, and nothing if there was no need. Not while something is
        under way: it would not count for the new consumer, which got one too many."""
        if not (state.reserved_requests or state.active_requests):
            log.info("a queue has fewer consumers than before: consuming anew, to be one of them")
            self.task_consumer.cancel()
            self.task_consumer.consume()
            self._roll_call.begin_count()

    def _on_stop_asked(self, **_: object) -> None:
        """Runs inside the signal handler of SIGTERM."""
        drain.stop()
        self._watchdog.notice()

    # -- the watchdog's thread: see jobs.watchdog.Worker

    def heard(self) -> int:
        return self._heard

    def begun(self) -> int:
        return state.all_total_count[0]

    def has_free_slot(self) -> bool:
        return bool(len(state.active_requests) < self.pool.num_processes)

    def hoards(self) -> bool:
        return len(state.reserved_requests) > len(state.active_requests)

    def is_listening(self) -> bool:
        return self._listening_since is not None

    def pulse(self) -> float | None:
        """Asks for the next beat of the loop and returns the last one."""
        if self.hub is None or (isinstance(self.pool, SoloPool) and state.active_requests):
            return None
        self.hub.call_soon(self._show_life)
        return self._pulse

    def rebuild(self) -> None:
        """Two ways at once: a loop that turns is told so, one that waits in a call is woken."""
        broker = self.connection
        if self.hub is not None:
            self.hub.call_soon(promise(self._give_up, (broker,)))
        for open_socket in _open_broker_sockets(broker) if broker else ():
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)

    def hurry(self) -> None:
        if self.hub is not None:
            self.hub.call_soon(self._show_life)

    def stop_with_error(self) -> None:
        vars(state)["should_stop"] = FAILURE
        self.hurry()

    def _give_up(self, broker: Connection | None) -> None:
        """In the main loop: lose this connection, unless it has been lost meanwhile."""
        if broker is not None and broker is self.connection:
            raise ConnectionResetError("given up by the watchdog")


def _let_children_go(pool: Any) -> None:
    """Keep a pool's children from waiting at their end, for up to 30 s, until the main process has
    read every result of theirs. What it forgot when a connection was lost it never reads; and a
    result that nobody reads costs one look at a row."""
    counters = getattr(getattr(pool, "_pool", None), "_on_ready_counters", {})
    for counter in list(counters.values()):
        counter.value = ALL_READ
