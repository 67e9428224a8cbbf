"""The four faults that a platform meets first, each with jobs that run and jobs that wait.

Whatever is killed, restarted or emptied: every job is COMPLETED once, and its history says how.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self
from uuid import UUID

import pytest

from tests.faults.conftest import Servers
from tests.marks import until
from tests.stack import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]

RESCUED = ["submit", "claim", "rescue", "claim", "succeed"]


def test_kill_9_of_a_child_in_its_handler(stack: Stack) -> None:
    marks = stack.marks()
    ids = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    victim, bystander = marks.wait_started(2)
    others = stack.submit("stack.nap", {"marks": str(marks.directory)}, count=10)

    os.kill(victim.pid, signal.SIGKILL)
    marks.wait_started(3)
    marks.open()

    stack.check([*ids, *others])
    assert stack.events(victim.job_id) == RESCUED
    assert stack.job(victim.job_id)["lost_attempts"] == 1
    assert stack.job(victim.job_id)["failed_attempts"] == 0
    assert stack.events(bystander.job_id) == ["submit", "claim", "succeed"]
    assert stack.the("worker").alive


def test_kill_9_of_a_whole_worker(stack: Stack) -> None:
    marks = stack.marks()
    running = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    waiting = stack.submit("stack.nap", {"marks": str(marks.directory)}, count=10)
    stack.wait_published(waiting)

    stack.the("worker").kill()
    stack.start("worker")
    marks.open()

    stack.check([*running, *waiting])
    assert [stack.events(job_id) for job_id in running] == [RESCUED] * 2


def test_kill_9_of_the_workers_main_process_alone(stack: Stack) -> None:
    """Its children have lost their master: what they hold is finished or rescued, never both."""
    marks = stack.marks()
    ids = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    pids = {mark.pid for mark in marks.wait_started(2)}
    os.kill(stack.the("worker").pid, signal.SIGKILL)
    stack.start("worker")
    marks.open()
    stack.check(ids)
    until(lambda: not any(_exists(pid) for pid in pids), 30, lambda: f"orphans {pids} stay")


@pytest.mark.parametrize("how", ["stop_app", "kill -9"])
def test_broker_restart(stack: Stack, own_servers: Servers, how: str) -> None:
    broker = own_servers.rabbitmq
    marks = stack.marks()
    running = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    waiting = stack.submit("stack.nap", {"marks": str(marks.directory)}, count=20)
    stack.wait_published(waiting)

    if how == "stop_app":
        _ctl(broker, "stop_app")
    else:
        broker.kill()
    # The API needs no broker; these doorbells are rung when it is back.
    unheard = stack.submit("stack.nap", {"marks": str(marks.directory)}, count=5)
    if how == "stop_app":
        _ctl(broker, "start_app")
    else:
        broker.start()
    marks.open()

    stack.check([*running, *waiting, *unheard])
    # A handler that runs needs no broker either: nobody interrupted or repeated it.
    assert [stack.events(job_id) for job_id in running] == [["submit", "claim", "succeed"]] * 2


def test_flushall_under_load(stack: Stack, own_servers: Servers) -> None:
    marks = stack.marks()
    ids: list[UUID] = []
    with _again_and_again(own_servers.services.redis().flushall) as count, _Reader(stack) as reader:
        for _ in range(4):
            more = stack.submit("stack.nap", {"marks": str(marks.directory)}, count=15)
            ids += more
            reader.ids = list(ids)
        stack.wait_for("COMPLETED", ids)
    stack.check(ids)
    assert count() > 10
    assert reader.seen > 50
    assert not reader.backwards
    assert {stack.status(job_id).json()["state"] for job_id in ids} == {"COMPLETED"}


class _Reader:
    """Reads the status of jobs all the time, and notes every answer that goes backwards."""

    def __init__(self, stack: Stack) -> None:
        self.ids: list[UUID] = []
        self.seen = 0
        self.backwards: list[str] = []
        self._stack = stack
        self._newest: dict[UUID, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _read(self) -> None:
        while not self._ended.is_set():
            for job_id in self.ids:
                self._look(job_id)
            self._ended.wait(0.01)

    def _look(self, job_id: UUID) -> None:
        answer = self._stack.status(job_id)
        if answer.status != 200:
            self.backwards.append(f"{job_id} answered {answer.status}: {answer.body[:200]!r}")
            return
        version = answer.json()["version"]
        self.seen += 1
        if version < self._newest.get(job_id, 0):
            self.backwards.append(f"{job_id}: {version} after {self._newest[job_id]}")
        self._newest[job_id] = version


@contextmanager
def _again_and_again(what: Callable[[], object]) -> Iterator[Callable[[], int]]:
    """Do it in a thread all the time; gives the number of times so far."""
    ended, done = threading.Event(), [0]

    def loop() -> None:
        while not ended.wait(0.05):
            what()
            done[0] += 1

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield lambda: done[0]
    finally:
        ended.set()
        thread.join(10)


def _ctl(broker: object, *arguments: str) -> None:
    ctl = getattr(broker, "ctl", None)
    assert ctl is not None
    ctl(*arguments)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
