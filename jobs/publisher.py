"""Publishes doorbells with confirms, on one connection of its own.

py-amqp's own confirm mode waits for *any* ack and never compares delivery tags, so a late ack could
confirm the wrong message. Here the tags are counted, and the connection is thrown away after any
trouble, so that no ack of an old channel can reach a new one. Every wait is bounded by
``publish_timeout_seconds`` of silence.
"""

from __future__ import annotations

import logging
import select
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4

from celery import Celery
from celery.utils.threads import (  # type: ignore[attr-defined] # newer than celery-types
    bound_open_broker_sockets,
)
from kombu import Connection, Producer

from jobs import conf, doorbells, topology
from jobs.values import Doorbell

log = logging.getLogger("jobs.relay")


class Taken(NamedTuple):
    """A doorbell in this relay's hands, and the outbox row that it is from."""

    id: int
    bell: Doorbell
    queue: str
    handler: str


@dataclass(frozen=True, slots=True)
class Message:
    """What goes out as one broker message: doorbells of one queue."""

    queue: str
    rows: tuple[Taken, ...]
    #: What its jobs are expected to take; None if that is not known of all.
    seconds: float | None = None
    #: Sent while its job is being submitted.
    early: bool = False


class BrokerTrouble(Exception):
    """The broker could not be reached, or did not confirm in time. Nothing is lost."""


class Refused(BrokerTrouble):
    """The broker is well but did not take messages of these queues: full, or not there."""

    def __init__(self, queues: Counter[str]) -> None:
        self.queues = queues
        counts = ", ".join(f"{count} for {queue!r}" for queue, count in queues.items())
        super().__init__(f"messages refused or unroutable: {counts}")


class Publisher:
    """Publishes messages with many confirms in flight on one channel."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._blocked = False
        self._begun: _Window | None = None

    def open(self) -> None:
        """Connect and declare, unless that is done and still good. Raises BrokerTrouble."""
        if self._producer is not None and not self._is_alive(self._producer):
            self.close()
        if self._producer is None:
            with self._told():
                self._producer = self._opened()

    def begin(self, message: Message) -> bool:
        """Send one message ahead of the others; ``publish`` waits for its confirm too.

        False, with nothing sent, where there are no confirms, or no connection that is still good.
        Raises BrokerTrouble.
        """
        producer = self._producer
        if producer is None or not self._confirms(producer) or not self._is_alive(producer):
            return False
        with self._told():
            self._begun = _Window(producer.channel)
            self._begun.sent(self._send(producer, message), message)
        return True

    def publish(self, messages: Sequence[Message], published: list[Taken]) -> None:
        """Publish all; appends each confirmed doorbell to ``published``. Raises BrokerTrouble.

        Needs ``open``. After any trouble the connection is closed, so that the next one declares
        the queues anew.
        """
        with self._told():
            if self._producer is None:
                raise BrokerTrouble("not connected")
            if self._confirms(self._producer):
                self._publish_confirmed(self._producer, messages, published)
            else:
                for message in messages:
                    self._send(self._producer, message)
                    published.extend(message.rows)

    def close(self) -> None:
        """Drop the connection without waiting for the broker."""
        broker, self._connection, self._producer = self._connection, None, None
        self._blocked, self._begun = False, None
        if broker is not None:
            broker.collect(socket_timeout=0.1)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Closes the connection on any error; says BrokerTrouble where the broker is to blame."""
        try:
            yield
        except BaseException as error:
            self.close()
            broker = self._app.connection_for_write()
            if isinstance(error, (*broker.connection_errors, *broker.channel_errors, OSError)):
                raise BrokerTrouble(f"{type(error).__name__}: {error}") from error
            raise

    def _opened(self) -> Producer:
        seconds = conf.get().publish_timeout_seconds
        options = {**self._app.conf.broker_transport_options, "confirm_publish": False}
        broker = self._app.connection_for_write(connect_timeout=seconds, transport_options=options)
        self._connection = broker
        topology.bound_calls(broker, seconds)
        broker.connect()
        # Opening a channel and declaring wait for an answer, by themselves without a bound.
        bound_open_broker_sockets(broker, seconds)
        topology.ensure(broker)
        channel = broker.channel()
        if hasattr(channel, "confirm_select"):
            amqp_channel: Any = channel
            amqp_channel.connection.on_blocked = self._on_blocked
            amqp_channel.confirm_select()
        return Producer(channel, auto_declare=False)

    def _on_blocked(self, reason: str) -> None:
        self._blocked = True
        log.warning("%s: memory or disk alarm", reason)

    def _is_alive(self, producer: Producer) -> bool:
        """False if the broker has hung up while there was nothing to publish."""
        if self._confirms(producer):
            channel: Any = producer.channel
            try:
                # Mostly nothing has come, and to hear that from a read costs an exception.
                if _is_quiet(channel.connection.sock):
                    return True
                channel.connection.drain_events(timeout=0)
            except TimeoutError:
                return True
            except Exception as error:
                log.info("the broker hung up: %s", error)
                return False
        return True

    @staticmethod
    def _confirms(producer: Producer) -> bool:
        """Redis, the embedded default, has neither confirms nor returns: its reply is the proof."""
        return hasattr(producer.channel, "confirm_select")

    def _publish_confirmed(
        self, producer: Producer, messages: Sequence[Message], published: list[Taken]
    ) -> None:
        window, self._begun = self._begun or _Window(producer.channel), None
        try:
            for message in messages:
                window.sent(self._send(producer, message), message)
            self._wait_for(window, producer.channel)
        finally:
            published.extend(window.confirmed)
        window.detach()
        if window.refused:
            raise Refused(window.refused)

    def _wait_for(self, window: _Window, channel: Any) -> None:
        """Wait while confirms keep coming: a slow broker is not a silent one."""
        settings = conf.get()
        gives_up_at = time.monotonic() + settings.relay_take_seconds
        heard_at = time.monotonic()
        while window.open_tags:
            count = len(window.open_tags)
            # What has arrived is read in any case: this process may have been frozen itself.
            silent_at = min(gives_up_at, heard_at + settings.publish_timeout_seconds)
            left = max(0.01, silent_at - time.monotonic())
            with suppress(TimeoutError):
                channel.connection.drain_events(timeout=left)
            if len(window.open_tags) < count:
                heard_at = time.monotonic()
            elif time.monotonic() >= silent_at:
                why = ", the broker blocks" if self._blocked else ""
                raise BrokerTrouble(f"{count} messages unconfirmed in time{why}")

    def _send(self, producer: Producer, message: Message) -> str:
        message_id = str(uuid4())
        bells = (row.bell for row in message.rows)
        argument = doorbells.encode(bells, message.seconds, early=message.early)
        producer.publish(
            doorbells.packed(argument),
            exchange="",
            routing_key=message.queue,
            headers=doorbells.headers(message_id),
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
            mandatory=True,
            timeout=conf.get().publish_timeout_seconds,
            correlation_id=message_id,
        )
        return message_id


def _is_quiet(sock: Any) -> bool:
    """Whether the other side has sent nothing that is not read yet, not even that it hangs up."""
    if getattr(sock, "pending", int)():
        # TLS has read it already.
        return False
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return not poll.poll(0)


class _Window:
    """The confirms in flight of one channel, by delivery tag."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._first = getattr(channel, "jobs_next_tag", 1)
        self._next = self._first
        self.open_tags: dict[int, Message] = {}
        self._returned: set[str] = set()
        self._task_ids: dict[int, str] = {}
        self.confirmed: list[Taken] = []
        self.refused: Counter[str] = Counter()
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
                self.refused[message.queue] += 1
            else:
                self.confirmed.extend(message.rows)

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001 - amqp calls it so
        self.refused.update(m.queue for _, m in self._closed(delivery_tag, multiple=multiple))

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        log.debug("doorbell returned by the broker: %s (queue %r)", error, routing_key)
        self._returned.add(str(message.properties.get("correlation_id", "")))
