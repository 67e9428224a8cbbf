"""Queues on the broker, declared and versioned in this one place.

Quorum queues, so that a confirmed doorbell is on disk; an explicit delivery limit, because RabbitMQ
3.x has none and 4.x has 20. Dead letters are kept for the operator and never acted upon: their jobs
are rung again by the reconciler. Changing an argument means a new queue name or a broker policy,
because a live queue refuses other arguments.
"""

from __future__ import annotations

import socket

from celery import current_app
from kombu import Connection, Exchange, Queue

from jobs import conf

#: AMQP's reply code when a user lacks a right.
ACCESS_REFUSED = 403

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

    Raises amqp.PreconditionFailed if a live queue has other arguments.
    """
    declared = []
    with broker.channel() as channel:
        for queue in [dead_letter_queue(), *queues()]:
            queue(channel).declare()
            declared.append(queue.name)
    return declared


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
