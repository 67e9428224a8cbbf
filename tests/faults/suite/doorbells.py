"""Doorbells rung by a stranger: repeated, stale, shuffled, unreadable.

Each function publishes straight to the queue and returns how many messages it published.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any
from uuid import uuid4

import amqp

from tests.faults.suite.world import World

Bell = tuple[str, int]
#: Marks what the suite itself has put into the queue.
STRANGER = "stranger"


def repeated(world: World, rng: Random) -> int:
    """The bells of a few waiting jobs, 100 times in all."""
    bells = _bells(world, "PENDING", 5) or _bells(world, "RUNNING", 5)
    return _ring(world, [bell for bell in bells for _ in range(100 // max(len(bells), 1))])


def stale(world: World, rng: Random) -> int:
    """Bells of ended jobs, at their present and at earlier versions."""
    ended = [bell for state in ("COMPLETED", "FAILED") for bell in _bells(world, state, 20)]
    older = [(job_id, max(1, version - back)) for job_id, version in ended for back in (1, 2)]
    return _ring(world, [*ended, *older])


def unknown(world: World, rng: Random) -> int:
    """Bells of jobs that nobody has submitted."""
    return _ring(world, [(str(uuid4()), 1) for _ in range(20)])


def reordered(world: World, rng: Random) -> int:
    """Take what waits in the queue and put it back in another order."""
    with world.channel() as channel:
        taken: list[amqp.Message] = []
        while (message := channel.basic_get(world.queue, no_ack=True)) and len(taken) < 200:
            taken.append(message)
        rng.shuffle(taken)
        for message in taken:
            again = amqp.Message(message.body, **message.properties)
            channel.basic_publish(again, "", world.queue)
    return len(taken)


def undecodable(world: World, rng: Random) -> int:
    """What no worker can read: foreign bytes, foreign types, foreign tasks."""
    good_headers = {"lang": "py", "task": _task_name(), "id": str(uuid4())}
    body = json.dumps([["not a doorbell"], {}, {}]).encode()
    odd = [
        amqp.Message(rng.randbytes(200), content_type="application/json", app_id=STRANGER),
        amqp.Message(b"\x80\x04N.", content_type="application/x-python-serialize", app_id=STRANGER),
        amqp.Message(b"{}", content_type="application/json", app_id=STRANGER),
        _message(body, {**good_headers, "task": "no.such.task"}),
        _message(body, good_headers),
        _message(json.dumps([[["x", "y", "z"]], {}, {}]).encode(), good_headers),
        _message(json.dumps([[], {}, {}]).encode(), good_headers),
    ]
    with world.channel() as channel:
        for message in odd:
            channel.basic_publish(message, "", world.queue)
    return len(odd)


def _bells(world: World, state: str, count: int) -> list[Bell]:
    found = world.sql(
        "SELECT id::text, version FROM jobs_job WHERE state = %(state)s"
        " ORDER BY id DESC LIMIT %(count)s",
        {"state": state, "count": count},
    )
    return [(row[0], row[1]) for row in found]


def _ring(world: World, bells: Sequence[Bell]) -> int:
    from uuid import UUID

    from jobs import doorbells
    from jobs.values import Doorbell

    with world.channel() as channel:
        for job_id, version in bells:
            body = doorbells.encode([Doorbell(UUID(job_id), version)])
            headers = {"lang": "py", "task": doorbells.TASK_NAME, "id": str(uuid4())}
            message = _message(json.dumps([[body], {}, {}]).encode(), headers)
            channel.basic_publish(message, "", world.queue)
    return len(bells)


def _message(body: bytes, headers: dict[str, Any]) -> amqp.Message:
    return amqp.Message(
        body,
        content_type="application/json",
        content_encoding="utf-8",
        application_headers=headers,
        correlation_id=headers["id"],
        delivery_mode=2,
        app_id=STRANGER,
    )


def _task_name() -> str:
    from jobs import doorbells

    return doorbells.TASK_NAME
