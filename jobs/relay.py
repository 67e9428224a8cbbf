"""The relay: takes due outbox rows, rings the broker with no transaction open, settles.

A row is marked published only after the broker confirmed the message *and* did not return it as
unroutable. Whatever goes wrong in between, the row stays and is rung again; ringing twice is
harmless because a claim decides. A broker outage costs tries, which nothing counts against a job.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from celery import Celery
from django.db import connection
from kombu import Connection, Producer

from jobs import conf, doorbells, sql, topology
from jobs.values import Doorbell

log = logging.getLogger("jobs.relay")


@dataclass(frozen=True, slots=True)
class Taken:
    """An outbox row in this relay's hands."""

    id: int
    bell: Doorbell
    queue: str
    handler: str
    priority: int
    created_at: datetime
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Message:
    """What goes out as one broker message: rows of one queue."""

    queue: str
    rows: tuple[Taken, ...]


class BrokerTrouble(Exception):
    """The broker could not be reached, or did not confirm in time. Nothing is lost."""


class Relay:
    """One relay; any number may run, each takes other rows."""

    def __init__(self, app: Celery) -> None:
        self._publisher = Publisher(app)

    def run_once(self) -> int:
        """Publish one batch; returns how many rows were taken. Raises BrokerTrouble."""
        rows = take(conf.get().relay_batch_size)
        if rows:
            published: list[int] = []
            try:
                self._publisher.publish(grouped(rows), published)
            finally:
                settle(published, [row.id for row in rows])
        return len(rows)

    def close(self) -> None:
        """Close the broker connection."""
        self._publisher.close()


def take(limit: int) -> list[Taken]:
    """Take up to ``limit`` due rows for ``relay_take_seconds``, most urgent first."""
    with connection.cursor() as cursor:
        cursor.execute(
            sql.load("relay_take"),
            {"limit": limit, "take_seconds": conf.get().relay_take_seconds},
        )
        rows = cursor.fetchall()
    taken = [
        Taken(row[0], Doorbell(row[1], row[2]), row[3], row[4], row[5], row[6], row[7])
        for row in rows
    ]
    return sorted(taken, key=lambda row: (-row.priority, row.due_at))


def grouped(rows: Sequence[Taken]) -> list[Message]:
    """The messages that carry these rows: latency first, so one job each."""
    return [Message(row.queue, (row,)) for row in rows]


def settle(published: Sequence[int], taken: Sequence[int]) -> None:
    """Mark what the broker confirmed, and give back the rest at once.

    Each statement is a transaction of its own: they concern different rows, and a mark that is lost
    with a connection only means that the row is rung again once ``relay_take_seconds`` are over.
    """
    given_back = sorted(set(taken) - set(published))
    with connection.cursor() as cursor:
        if published:
            cursor.execute(
                "UPDATE jobs_outboxentry SET published_at = clock_timestamp(),"
                " taken_until = NULL WHERE id = ANY(%s)",
                [list(published)],
            )
        if given_back:
            cursor.execute(
                "UPDATE jobs_outboxentry SET taken_until = NULL WHERE id = ANY(%s)",
                [given_back],
            )


class Publisher:
    """Publishes messages with many confirms in flight on one channel of its own.

    py-amqp's own confirm mode waits for *any* ack and never compares delivery tags, so a late ack
    could confirm the wrong message. Here the tags are counted, and the connection is thrown away
    after any trouble, so that no ack of an old channel can reach a new one.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Connection | None = None
        self._producer: Producer | None = None

    def publish(self, messages: Sequence[Message], published: list[int]) -> None:
        """Publish all; appends each confirmed row id to ``published``. Raises BrokerTrouble."""
        broker = self._app.connection_for_write()
        trouble: tuple[type[BaseException], ...] = (
            *broker.connection_errors,
            *broker.channel_errors,
            OSError,
        )
        try:
            producer = self._open()
            if self._confirms(producer):
                self._publish_confirmed(producer, messages, published)
            else:
                for message in messages:
                    self._send(producer, message)
                    published.extend(row.id for row in message.rows)
        except trouble as error:
            self.close()
            raise BrokerTrouble(f"{type(error).__name__}: {error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection without waiting for the broker."""
        broker, self._connection, self._producer = self._connection, None, None
        if broker is not None:
            broker.collect(socket_timeout=0.1)

    def _open(self) -> Producer:
        if self._producer is None:
            seconds = conf.get().publish_timeout_seconds
            options = {**self._app.conf.broker_transport_options, "confirm_publish": False}
            broker = self._app.connection_for_write(
                connect_timeout=seconds, transport_options=options
            )
            self._connection = broker
            broker.connect()
            topology.ensure(broker)
            channel = broker.channel()
            if hasattr(channel, "confirm_select"):
                channel.confirm_select()
            self._producer = Producer(channel, auto_declare=False)
        return self._producer

    @staticmethod
    def _confirms(producer: Producer) -> bool:
        """Redis, the embedded default, has neither confirms nor returns: its reply is the proof."""
        return hasattr(producer.channel, "confirm_select")

    def _publish_confirmed(
        self, producer: Producer, messages: Sequence[Message], published: list[int]
    ) -> None:
        channel: Any = producer.channel
        window = _Window(channel)
        for message in messages:
            window.sent(self._send(producer, message), message)
        deadline = time.monotonic() + conf.get().publish_timeout_seconds
        while window.open_tags:
            left = deadline - time.monotonic()
            if left <= 0:
                raise BrokerTrouble(f"{len(window.open_tags)} messages unconfirmed in time")
            try:
                channel.connection.drain_events(timeout=left)
            except TimeoutError:
                continue
            finally:
                published.extend(window.take_confirmed())
        window.detach()
        if window.refused:
            raise BrokerTrouble(f"{window.refused} messages refused or unroutable")

    def _send(self, producer: Producer, message: Message) -> str:
        task_id = str(uuid4())
        body = doorbells.encode(row.bell for row in message.rows)
        built = self._app.amqp.create_task_message(
            task_id, doorbells.TASK_NAME, args=(body,), kwargs={}, ignore_result=True
        )
        producer.publish(
            built.body,
            exchange="",
            routing_key=message.queue,
            headers=built.headers,
            serializer="json",
            delivery_mode=2,
            mandatory=True,
            timeout=conf.get().publish_timeout_seconds,
            **built.properties,
        )
        return task_id


class _Window:
    """The confirms in flight of one channel, by delivery tag."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._first = getattr(channel, "jobs_next_tag", 1)
        self._next = self._first
        self.open_tags: dict[int, Message] = {}
        self._returned: set[str] = set()
        self._task_ids: dict[int, str] = {}
        self._confirmed: list[int] = []
        self.refused = 0
        for name, callback in self._callbacks().items():
            channel.events[name].add(callback)

    def _callbacks(self) -> dict[str, Any]:
        return {
            "basic_ack": self._on_ack,
            "basic_nack": self._on_nack,
            "basic_return": self._on_return,
        }

    def sent(self, task_id: str, message: Message) -> None:
        self.open_tags[self._next] = message
        self._task_ids[self._next] = task_id
        self._next += 1
        self._channel.jobs_next_tag = self._next

    def take_confirmed(self) -> list[int]:
        confirmed, self._confirmed = self._confirmed, []
        return confirmed

    def detach(self) -> None:
        for name, callback in self._callbacks().items():
            self._channel.events[name].discard(callback)

    def _closed(self, tag: int, *, multiple: bool) -> list[tuple[int, Message]]:
        tags = [open_tag for open_tag in self.open_tags if open_tag <= tag] if multiple else [tag]
        return [(one, self.open_tags.pop(one)) for one in tags if one in self.open_tags]

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001 - amqp calls it so
        for tag, message in self._closed(delivery_tag, multiple=multiple):
            # The broker sends the return of an unroutable message before its ack.
            if self._task_ids[tag] in self._returned:
                self.refused += 1
            else:
                self._confirmed.extend(row.id for row in message.rows)

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001 - amqp calls it so
        self.refused += len(self._closed(delivery_tag, multiple=multiple))

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        log.error("doorbell returned by the broker: %s (queue %r)", error, routing_key)
        self._returned.add(str(message.properties.get("correlation_id", "")))
