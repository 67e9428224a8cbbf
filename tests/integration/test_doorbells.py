"""A doorbell is a hint: false, old, doubled or broken ones change nothing and harm nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import amqp
import pytest

from tests.marks import until
from tests.stack import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]


class Stranger:
    """Somebody with access to the broker, who writes what Celery would, or not."""

    def __init__(self, stack: Stack, channel: amqp.Channel) -> None:
        self._stack = stack
        self._channel = channel

    def ring(self, body: Any, *, task: str = "jobs.ring", args: Any = None) -> None:
        """A well-formed Celery message (protocol 2) with this doorbell, or these arguments."""
        name = str(uuid4())
        content: list[Any] = [[body] if args is None else args, {}, {}]
        self.send(
            json.dumps(content).encode(),
            content_type="application/json",
            content_encoding="utf-8",
            correlation_id=name,
            headers={"lang": "py", "task": task, "id": name, "root_id": name},
        )

    def send(self, body: bytes, **properties: Any) -> None:
        """Anything at all."""
        headers = properties.pop("headers", None)
        message = amqp.Message(body, application_headers=headers, delivery_mode=2, **properties)
        self._channel.basic_publish(message, "", self._stack.queue)


@pytest.fixture
def stranger(stack: Stack) -> Iterator[Stranger]:
    with stack.services.channel() as channel:
        yield Stranger(stack, channel)


def test_broken_messages_do_not_stop_the_worker(stack: Stack, stranger: Stranger) -> None:
    worker = stack.the("worker")
    pool = worker.children()
    [job_id] = stack.submit("noop", {"sleep_seconds": 0})
    stack.check([job_id])

    stranger.send(b"\x00\xff not a message at all")
    stranger.send(b"{]", content_type="application/json", content_encoding="utf-8")
    stranger.send(b"\x80\x04N.", content_type="application/x-python-serialize")
    stranger.ring({"v": 1, "jobs": []}, task="celery.backend_cleanup")
    stranger.ring({"v": 1, "jobs": []}, task="somebody.elses.task")
    broken: list[Any] = [
        {"v": 2, "jobs": [[str(job_id), 3]]},
        {"jobs": [[str(job_id), 3]]},
        {"v": 1},
        {"v": 1, "jobs": 7},
        {"v": 1, "jobs": [["not an id", 1]]},
        {"v": 1, "jobs": [[str(job_id)]]},
        {"v": 1, "jobs": [[str(job_id), None]]},
        {"v": 1, "jobs": [[str(job_id), 10**30]]},
        {"v": 1, "jobs": [[str(job_id), -1]]},
        {"v": 1, "jobs": [[str(uuid4()), 1]]},
        [],
        "ring",
        None,
    ]
    for body in broken:
        stranger.ring(body)
    stranger.ring(None, args=[])
    stranger.ring(None, args=[{}, {}])

    _check_awake(stack)
    worker.wait_said("doorbell dropped: not a doorbell of schema version 1")
    worker.wait_said("doorbell dropped: malformed doorbell")
    assert worker.alive
    assert worker.children() == pool
    assert stack.events(job_id) == ["submit", "claim", "succeed"]


def test_doubled_doorbells_are_answered_once(stack: Stack, stranger: Stranger) -> None:
    marks = stack.marks()
    [job_id] = stack.submit("stack.hold", {"marks": str(marks.directory)})
    marks.wait_started(1)
    for _ in range(50):
        stranger.ring({"v": 1, "jobs": [[str(job_id), 1]]})
        stranger.ring({"v": 1, "jobs": [[str(job_id), 1]] * 3})
    _check_awake(stack)
    marks.open()
    stack.check([job_id])
    _check_awake(stack)
    assert len(marks.all("started")) == 1
    assert stack.events(job_id) == ["submit", "claim", "succeed"]


def test_two_workers_race_for_doubled_doorbells(stack: Stack, stranger: Stranger) -> None:
    """Both slots look at the same waiting jobs at the same time; each job has one holder."""
    marks = stack.marks()
    stack.the("relay").terminate(10)
    ids = stack.submit("stack.nap", {"marks": str(marks.directory), "seconds": 0}, count=20)
    for job_id in ids:
        for _ in range(6):
            stranger.ring({"v": 1, "jobs": [[str(job_id), 1]]})
    stack.wait_for("COMPLETED", ids)
    stack.start("relay")
    stack.check(ids)
    assert len(marks.all("started")) == len(marks.all("finished")) == 20


def test_old_and_early_doorbells_are_not_answered(stack: Stack, stranger: Stranger) -> None:
    [done] = stack.submit("noop")
    [failed] = stack.submit("stack.refuse", {"reason": "told so"})
    stack.wait_for("COMPLETED", [done])
    stack.wait_for("FAILED", [failed])
    answer = stack.http.ask(
        "POST", "/api/v1/jobs/", {"handler": "noop", "payload": {}, "delay_seconds": 3600}
    )
    later = UUID(answer.json()["id"])
    before = stack.audit(done, failed, later)
    for job_id in (done, failed, later):
        for version in range(6):
            stranger.ring({"v": 1, "jobs": [[str(job_id), version]]})
    _check_awake(stack)
    assert stack.audit(done, failed, later) == before
    assert stack.cancel(later).json()["state"] == "CANCELLED"


def test_a_doorbell_of_another_version_is_not_answered(stack: Stack, stranger: Stranger) -> None:
    """The job waits and is due; still only the doorbell of its present version counts."""
    stack.the("relay").terminate(10)
    [job_id] = stack.submit("noop")
    for version in (0, 2, 3):
        stranger.ring({"v": 1, "jobs": [[str(job_id), version]]})
    until(lambda: stack.messages() == 0, 20, lambda: f"{stack.messages()} doorbells stay")
    [proof] = stack.submit("noop")
    stranger.ring({"v": 1, "jobs": [[str(proof), 1]]})
    stack.wait_for("COMPLETED", [proof])
    assert stack.events(job_id) == ["submit"]
    stack.start("relay")
    stack.check([job_id, proof])


def _check_awake(stack: Stack) -> None:
    """Whatever lies in the queue before this has been dealt with when this returns."""
    stack.check(stack.submit("noop", count=4))
    until(lambda: stack.messages() == 0, 20, lambda: f"{stack.messages()} doorbells stay")
