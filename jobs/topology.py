"""Queues on the broker, declared and versioned in this one place.

Quorum queues, so that a confirmed doorbell is on disk; an explicit delivery limit, because RabbitMQ
3.x has none and 4.x has 20. Dead letters are kept for the operator and never acted upon: their jobs
are rung again by the reconciler. Changing an argument means a new queue name or a broker policy,
because a live queue refuses other arguments.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import Any

from celery import current_app
from celery.utils.threads import (  # type: ignore[attr-defined] # newer than celery-types
    bound_open_broker_sockets,
)
from kombu import Connection, Exchange, Queue

from jobs import conf
from jobs.errors import ConfigurationError

#: AMQP's reply codes when a user lacks a right, and when a live queue has other arguments.
ACCESS_REFUSED, PRECONDITION_FAILED = 403, 406
#: Bound on each answer of the broker to ``count_ready``.
ASK_SECONDS = 3.0

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for queue '(?P<queue>[^']+)'.*?: "
    r"received (?P<received>.+?) but current is (?P<current>.+)",
    re.DOTALL,
)

_DEFAULT_EXCHANGE = Exchange("", type="direct")


def queues(*, no_declare: bool = False) -> list[Queue]:
    """The work queues, for Celery's ``task_queues``."""
    settings = conf.get()
    return [_queue(name, settings, no_declare=no_declare) for name in settings.queues]


def dead_letter_queue() -> Queue:
    """Where the broker keeps what it gave up on."""
    return Queue(
        conf.get().dead_letter_queue,
        exchange=_DEFAULT_EXCHANGE,
        routing_key=conf.get().dead_letter_queue,
        durable=True,
        queue_arguments={"x-queue-type": "quorum"},
    )


def declare(broker: Connection) -> list[str]:
    """Declare every queue; returns their names. A no-op where it has been done.

    Raises ConfigurationError, naming queue and argument, if a live queue has other arguments.
    """
    declared = []
    try:
        with broker.channel() as channel:
            for queue in [dead_letter_queue(), *queues()]:
                queue(channel).declare()
                declared.append(queue.name)
    except broker.channel_errors as error:
        if getattr(error, "reply_code", None) == PRECONDITION_FAILED:
            raise ConfigurationError(_explained(str(error))) from error
        raise
    return declared


def _explained(refusal: str) -> str:
    """What RabbitMQ says about a queue with other arguments, and what to do about it."""
    found = _INEQUIVALENT.search(refusal)
    if found is None:
        return f"a queue on the broker is not what it should be: {refusal}"
    return (
        f"queue {found['queue']!r} exists with another {found['argument']!r}: wanted is "
        f"{found['received']}, the broker has {found['current']}. A live queue cannot be changed: "
        "set the old value, use another queue name, or delete the queue once it is empty"
    )


def count_ready(names: Sequence[str]) -> int | None:
    """Messages that lie ready in these queues, or None if the broker does not say so soon.

    Asked on a connection of its own, each answer within ``ASK_SECONDS``; no right is needed. A
    queue that is not there has none.
    """
    broker = current_app.connection_for_read(connect_timeout=ASK_SECONDS)
    bound_calls(broker, ASK_SECONDS)
    try:
        with broker:
            broker.connect()
            bound_open_broker_sockets(broker, ASK_SECONDS)
            return sum(_count_ready(broker, name) for name in names)
    except broker.connection_errors + broker.channel_errors:
        return None


def _count_ready(broker: Connection, name: str) -> int:
    try:
        with broker.channel() as channel:
            return int(look_at(channel, name).message_count)
    except broker.channel_errors:
        return 0


def look_at(channel: Any, name: str) -> Any:
    """What is in a queue: ``message_count``, those that lie ready, and ``consumer_count``.

    Needs no right. Raises one of the connection's ``channel_errors`` if there is no such queue,
    which closes the channel.
    """
    return channel.queue_declare(name, passive=True)


def bound_calls(broker: Connection, seconds: float) -> None:
    """Before it connects: let no call of a connection to Redis wait for longer than this.

    AMQP's sockets are bounded once they are open, by ``bound_open_broker_sockets``.
    """
    if broker.transport_cls in ("redis", "rediss"):
        given = broker.transport_options or {}
        bounds = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
        broker.transport_options = {**bounds, **given}


def is_reachable(seconds: float) -> bool:
    """Whether something accepts connections where the broker should be. Never raises.

    No more than that: a login would need the broker's rights and could take its time.
    """
    broker = current_app.connection_for_write()
    port = broker.port or broker.get_transport_cls().default_port
    try:
        with socket.create_connection((broker.hostname, port), timeout=seconds):
            return True
    except OSError:
        return False


def ensure(broker: Connection) -> None:
    """Declare, or with a user that may not, rely on what ``jobs_topology`` declared.

    Raises as ``declare``, apart from a refusal of the right to declare.
    """
    try:
        declare(broker)
    except broker.channel_errors as error:
        if getattr(error, "reply_code", None) != ACCESS_REFUSED:
            raise


def _queue(name: str, settings: conf.JobsSettings, *, no_declare: bool) -> Queue:
    return Queue(
        name,
        exchange=_DEFAULT_EXCHANGE,
        routing_key=name,
        durable=True,
        no_declare=no_declare,
        queue_arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": settings.delivery_limit,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": settings.dead_letter_queue,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
