"""Somebody can write to the broker: messages that ask Celery for more than to look at a job."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import amqp
import pytest

from tests.marks import until
from tests.stack import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]


class Forger:
    """Writes Celery messages (protocol 2) to the stack's queue, and has a queue of its own."""

    def __init__(self, stack: Stack, channel: amqp.Channel) -> None:
        self._stack = stack
        self._channel = channel
        self.loot = f"{stack.queue}.loot"
        channel.queue_declare(self.loot, auto_delete=False)
        # Not a queue of the worker's own: Celery refuses to send to those it does not know.
        channel.queue_bind(self.loot, "amq.fanout")

    def send(self, task: str, args: Any, *, embed: Any = None, **headers: Any) -> None:
        name = str(uuid4())
        self.raw(
            json.dumps([args, {}, embed or {}]).encode(),
            content_type="application/json",
            content_encoding="utf-8",
            correlation_id=name,
            headers={"lang": "py", "task": task, "id": name, "root_id": name, **headers},
        )

    def raw(self, body: bytes, **properties: Any) -> None:
        headers = properties.pop("headers", None)
        message = amqp.Message(body, application_headers=headers, delivery_mode=2, **properties)
        self._channel.basic_publish(message, "", self._stack.queue)

    def stolen(self) -> int:
        """Messages that a worker has sent where the forger wanted them."""
        declared = self._channel.queue_declare(self.loot, passive=True)
        assert declared is not None
        return int(declared[1])

    def signature(self, task: str, *args: Any) -> dict[str, Any]:
        """A task as Celery writes it into a message, to be sent to the forger."""
        options = {"exchange": "amq.fanout", "routing_key": "loot"}
        return {
            "task": task, "args": list(args), "kwargs": {}, "options": options,
            "subtask_type": None, "immutable": True,
        }  # fmt: skip


@pytest.fixture
def forger(stack: Stack) -> Iterator[Forger]:
    with stack.services.channel() as channel:
        made = Forger(stack, channel)
        yield made
        channel.queue_delete(made.loot)


class Bomb:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


def _worker_is_done_with_it(stack: Stack) -> None:
    """Both children have answered a doorbell that came later."""
    stack.check(stack.submit("noop", {}, count=10))
    until(lambda: stack.messages() == 0, 20, stack.tails)


def test_a_forged_sequel_is_not_sent(stack: Stack, forger: Forger) -> None:
    more = forger.signature("jobs.ring", {"v": 1, "jobs": []})
    doorbell = [{"v": 1, "jobs": [[str(uuid4()), 1]]}]
    forger.send("jobs.ring", doorbell, embed={"callbacks": [more]})
    forger.send("jobs.ring", doorbell, embed={"callbacks": [more, more], "chain": [more]})
    forger.send("jobs.ring", doorbell, embed={"chain": [more]})
    forger.send("jobs.ring", ["no doorbell"], embed={"callbacks": [more], "errbacks": [more]})
    forger.send("jobs.ring", [1, 2, 3], embed={"errbacks": [more]})
    _worker_is_done_with_it(stack)
    assert forger.stolen() == 0
    assert stack.the("worker").alive


def test_the_tasks_that_celery_brings_along_are_not_run(stack: Stack, forger: Forger) -> None:
    more = forger.signature("jobs.ring", {"v": 1, "jobs": []})
    group = {"task": "celery.group", "args": [], "kwargs": {"tasks": [more]}, "options": {}}
    forger.send("celery.map", [more, [[1], [2]]])
    forger.send("celery.starmap", [more, [[1], [2]]])
    forger.send("celery.chunks", [more, [[1], [2]], 1])
    forger.send("celery.group", [[more], str(uuid4()), [], None])
    forger.send("celery.chain", [])
    forger.send("celery.chord", [group, more])
    forger.send("celery.chord_unlock", [str(uuid4()), more])
    forger.send("celery.accumulate", [1])
    forger.send("celery.backend_cleanup", [])
    forger.send("os.system", ["true"])
    _worker_is_done_with_it(stack)
    worker = stack.the("worker")
    for name in ("map", "chord_unlock", "backend_cleanup", "accumulate"):
        worker.wait_said(rf"unregistered task of type 'celery\.{name}'")
    assert forger.stolen() == 0
    assert worker.alive


@pytest.mark.parametrize("kind", ["application/x-python-serialize", "application/json"])
def test_a_pickle_is_never_loaded(stack: Stack, forger: Forger, tmp_path: Path, kind: str) -> None:
    trap = tmp_path / "loaded"
    body = pickle.dumps(([Bomb(trap)], {}, {}))
    headers = {"lang": "py", "task": "jobs.ring", "id": str(uuid4())}
    forger.raw(body, content_type=kind, content_encoding="binary", headers=headers)
    # The prefix under which Redis would hold a status, and a key.
    [job_id] = stack.submit("noop")
    with stack.services.redis() as client:
        client.set(f"{stack.name}:s:{job_id}", pickle.dumps(Bomb(trap)))
    assert stack.status(job_id).json()["id"] == str(job_id)
    _worker_is_done_with_it(stack)
    assert not trap.exists()


def test_a_control_message_finds_nobody(stack: Stack, forger: Forger) -> None:
    """Revoke and shutdown go to an exchange that a worker would bind; none has."""
    with stack.services.channel() as channel, pytest.raises(amqp.exceptions.NotFound):
        channel.exchange_declare("celery.pidbox", "fanout", passive=True)
    assert stack.the("worker").alive


def test_an_early_doorbell_starts_nothing_before_its_time(stack: Stack, forger: Forger) -> None:
    [job_id] = stack.submit("noop")
    stack.check([job_id])
    answer = stack.http.ask("POST", "/api/v1/jobs/", {"handler": "noop", "delay_seconds": 3600})
    waiting = answer.json()["id"]
    forger.send("jobs.ring", [{"v": 1, "jobs": [[waiting, 1], [str(job_id), 1], [str(job_id), 3]]}])
    _worker_is_done_with_it(stack)
    assert stack.http.get(f"/api/v1/jobs/{waiting}/status/").json()["state"] == "PENDING"
    assert stack.events(job_id) == ["submit", "claim", "succeed"]
