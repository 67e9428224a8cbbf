"""Queues on the broker, declared and versioned in this one place.

Quorum queues, so that a confirmed doorbell is on disk; an explicit delivery limit, because RabbitMQ
3.x has none and 4.x has 20. Dead letters are kept for the operator and never acted upon: their jobs
are rung again by the reconciler. Changing an argument means a new queue name or a broker policy,
because a live queue refuses other arguments.
"""

from __future__ import annotations

from kombu import Connection, Exchange, Queue

from jobs import conf

_DEFAULT_EXCHANGE = Exchange("", type="direct")


def queues() -> list[Queue]:
    """The work queues, for Celery's ``task_queues``."""
    settings = conf.get()
    return [_queue(name, settings) for name in settings.queues]


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


def _queue(name: str, settings: conf.JobsSettings) -> Queue:
    return Queue(
        name,
        exchange=_DEFAULT_EXCHANGE,
        routing_key=name,
        durable=True,
        queue_arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": settings.delivery_limit,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": settings.dead_letter_queue,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
