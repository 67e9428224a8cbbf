"""RabbitMQ alone: durable messages through a quorum queue, by one client of the usual library."""

from __future__ import annotations

import json
import time
from typing import Any

import amqp

from bench.peers.base import amqp_connection, delete_queues, payload
from bench.place import Place

_QUEUE = "bench-raw"
_WINDOW = 100
_PREFETCH = 100
_ACK_EVERY = 50


def measure(place: Place) -> dict[str, float]:
    """Publish with confirms, each alone and in a window; consume with acks alone and grouped."""
    count = place.plan.bulk
    body = json.dumps(payload(0))
    with amqp_connection(place.broker_url) as connection:
        channel = connection.channel()
        channel.queue_declare(
            _QUEUE, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
        )
        try:
            window = _publish(connection, body, count, _WINDOW)
            return {
                "publish_window_per_second": window,
                "consume_group_ack_per_second": _consume(connection, count, _ACK_EVERY),
                "publish_confirm_each_per_second": _publish(connection, body, count // 5, 1),
                "consume_ack_each_per_second": _consume(connection, count // 5, 1),
            }
        finally:
            delete_queues(place.broker_url, [_QUEUE])


def _publish(connection: Any, body: str, count: int, window: int) -> float:
    """Messages per second, all confirmed; at most ``window`` are on their way at once."""
    channel = connection.channel()
    channel.confirm_select()
    confirmed = 0

    def on_ack(tag: int, multiple: bool) -> None:  # noqa: FBT001 - amqp's signature
        nonlocal confirmed
        confirmed = tag if multiple else confirmed + 1

    channel.events["basic_ack"].add(on_ack)
    began = time.monotonic()
    for sent in range(count):
        message = amqp.Message(body, delivery_mode=2, content_type="application/json")
        channel.basic_publish(message, routing_key=_QUEUE)
        while sent + 1 - confirmed >= window:
            connection.drain_events(timeout=30)
    while confirmed < count:
        connection.drain_events(timeout=30)
    seconds = time.monotonic() - began
    channel.close()
    return count / seconds


def _consume(connection: Any, count: int, every: int) -> float:
    """Messages per second; every so many are acknowledged together."""
    channel = connection.channel()
    channel.basic_qos(0, _PREFETCH, False)  # noqa: FBT003 - amqp's signature
    received = 0

    def on_message(message: Any) -> None:
        nonlocal received
        received += 1
        if received % every == 0 or received == count:
            channel.basic_ack(message.delivery_tag, multiple=every > 1)

    began = time.monotonic()
    channel.basic_consume(_QUEUE, callback=on_message)
    while received < count:
        connection.drain_events(timeout=30)
    seconds = time.monotonic() - began
    channel.close()
    return count / seconds
