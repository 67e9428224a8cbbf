"""The hops of a durable job and nothing else: what latency could be, and rates that share nothing.

The submitter commits a row and publishes to a quorum queue by itself; a worker's main process hands
the message to one of two children, as Celery's prefork pool does; the child commits that the job
runs, calls the body, commits that it is done, and says so in Redis. No relay, confirm, outbox,
audit, guard or lease, and a message counts as done when it is delivered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import amqp
import psycopg2
import redis

from bench.limits import hops_app
from bench.peers.base import Peer, amqp_connection, module, payload


class Hops(Peer):
    queues = (hops_app.QUEUE,)
    has_status = True

    def prepare(self) -> None:
        self._database = psycopg2.connect(self.place.database_url)
        self._database.autocommit = True
        self._cursor = self._database.cursor()
        self._cursor.execute(hops_app.SCHEMA)
        self._redis = redis.Redis.from_url(self.place.cache_url)
        self._broker: Any = amqp_connection(self.place.broker_url)
        self._broker.connect()
        self._channel = self._broker.channel()
        self._channel.queue_declare(
            hops_app.QUEUE, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
        )

    def commands(self) -> dict[str, list[str]]:
        return {"worker": module("bench.limits.hops_app")}

    def submit(self, number: int) -> int:
        self._cursor.execute(
            "INSERT INTO hop (id, payload) VALUES (%s, %s)", [number, json.dumps(payload(number))]
        )
        message = amqp.Message(str(number), delivery_mode=2)
        self._channel.basic_publish(message, routing_key=hops_app.QUEUE)
        return number

    def visible(self, handle: Any) -> bool:
        return bool(self._redis.exists(hops_app.key(handle)))

    def settled(self, handles: Sequence[Any], total: int) -> bool:
        del handles
        self._cursor.execute("SELECT count(*) FROM hop WHERE state = 'COMPLETED'")
        row = self._cursor.fetchone()
        return row is not None and int(row[0]) >= total

    def close(self) -> None:
        self._broker.close()
        self._database.close()
