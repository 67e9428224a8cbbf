"""The worker of ``hops``: a process that consumes, and two children behind a pipe."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.queues import SimpleQueue
from typing import Any

import psycopg2
import redis

from bench import marks
from bench.peers.base import amqp_connection

QUEUE = "bench-hops"
SCHEMA = """
CREATE TABLE hop (
    id int PRIMARY KEY, payload jsonb NOT NULL, state text NOT NULL DEFAULT 'PENDING'
) WITH (fillfactor = 80)
"""
_MOVE = "UPDATE hop SET state = %s WHERE id = %s AND state = %s"
_CHILDREN = 2


def key(number: int) -> str:
    """Where Redis has that this job is done."""
    return f"hop:{number}"


def _answer(numbers: SimpleQueue[int]) -> None:
    database = psycopg2.connect(os.environ["DATABASE_URL"])
    database.autocommit = True
    cursor = database.cursor()
    cache = redis.Redis.from_url(os.environ["CACHE_URL"])
    while True:
        number = numbers.get()
        cursor.execute(_MOVE, ["RUNNING", number, "PENDING"])
        marks.ran(number)
        cursor.execute(_MOVE, ["COMPLETED", number, "RUNNING"])
        cache.set(key(number), 1)


def main() -> None:
    context = multiprocessing.get_context("fork")
    numbers: SimpleQueue[int] = context.SimpleQueue()
    for _ in range(_CHILDREN):
        context.Process(target=_answer, args=(numbers,), daemon=True).start()

    def on_message(message: Any) -> None:
        numbers.put(int(message.body))

    with amqp_connection(os.environ["BROKER_URL"]) as connection:
        channel = connection.channel()
        channel.basic_consume(QUEUE, callback=on_message, no_ack=True)
        while True:
            connection.drain_events()


if __name__ == "__main__":
    main()
