"""Workers and what brokers do to them: a worker is never silent, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from interlock.local.servers import RabbitServer
from tests.faults.conftest import Servers
from tests.faults.place import STOP_SECONDS, Place, opened
from tests.marks import until
from tests.proxy import DELIVERY

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]

DONE = ["submit", "claim", "succeed"]


@pytest.fixture
def stack(own_servers: Servers, migrated: str, tmp_path: Path) -> Iterator[Place]:
    with opened(own_servers, migrated, tmp_path) as stack:
        yield stack


# ------------------------------------------------------------------------------------ the watchdog


def test_a_worker_on_a_dead_line_connects_anew(stack: Place) -> None:
    """Long before heartbeats are missed: an idle worker asks now and then, and gets no answer."""
    worker = stack.worker(heartbeat_seconds=600)
    stack.run_jobs()
    stack.proxy.deafen()
    ids = stack.submit("noop", {}, count=6)
    stack.check(ids)
    assert worker.alive
    assert not worker.said("is deaf")


@pytest.mark.parametrize("count", [1, 2], ids=["one worker", "two workers"])
def test_nobody_tells_the_workers_that_their_queue_is_deleted(stack: Place, count: int) -> None:
    """They would go on consuming it, while the relay declares another one of the same name."""
    workers = [stack.worker(settings="settings_untold") for _ in range(count)]
    stack.run_jobs()
    for worker in workers:
        worker.wait_said(f"as the broker counts them: .*: {count}}}")
    stack.delete_queue()
    stack.check(stack.submit("noop", {}, count=6))
    until(lambda: stack.consumers() == count, 20, stack.tails)
    assert not any(worker.said("is deaf") for worker in workers)


def test_a_busy_worker_whose_queue_is_deleted(stack: Place) -> None:
    """With one child at work it is not the time to consume anew, but it is to connect anew."""
    worker = stack.worker(settings="settings_untold")
    marks = stack.marks()
    [running] = stack.submit("stack.hold", {"marks": str(marks.directory)})
    marks.wait_started(1)
    worker.wait_said("as the broker counts them: .*: 1}")
    stack.delete_queue()
    stack.check(stack.submit("noop", {}, count=6))
    assert worker.said("no consumer of queue .* any more")
    marks.open()
    stack.check([running])
    assert stack.events(running) == DONE


def test_a_worker_that_stays_deaf_exits_with_an_error(stack: Place) -> None:
    worker = stack.worker(heartbeat_seconds=600)
    stack.run_jobs()
    stack.proxy.deafen(at=DELIVERY)
    ids = stack.submit("noop", {}, count=6)
    worker.wait_said("jobs wait, and it hears nothing; its consumer is rebuilt", 60)
    worker.wait_said("it ends for its supervisor", 90)
    assert worker.wait(STOP_SECONDS) == 1
    stack.proxy.heal(keep_held=False)
    stack.worker()
    stack.check(ids)


def test_a_worker_whose_main_loop_stands_still_exits_with_an_error(stack: Place) -> None:
    """A frozen thread cannot be made in another process; a handler of a signal that sleeps can."""
    worker = stack.worker(settings="settings_stuck")
    stack.run_jobs()
    worker.send(signal.SIGUSR2)
    worker.wait_said("its main loop stands still; its consumer is rebuilt", 60)
    worker.wait_said("its main loop stands still; it ends for its supervisor", 60)
    assert worker.wait(STOP_SECONDS + 20) == 1
    stack.worker()
    stack.run_jobs()


def test_a_frozen_worker_that_wakes_up_is_not_judged_for_its_sleep(stack: Place) -> None:
    worker = stack.worker()
    stack.run_jobs()
    worker.send(signal.SIGSTOP)
    ids = stack.submit("noop", {}, count=6)
    # Twice what it takes to be called deaf.
    time.sleep(9)
    worker.send(signal.SIGCONT)
    stack.check(ids)
    assert not worker.said("is deaf")


def test_busy_workers_and_empty_brokers_are_no_reason(stack: Place) -> None:
    """All slots busy with jobs waiting; then free slots with jobs whose doorbells are lost."""
    worker = stack.worker()
    marks = stack.marks()
    running = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    waiting = stack.submit("noop", {}, count=6)
    stack.wait_published(waiting)
    time.sleep(9)
    stack.purge()
    marks.open()
    stack.check([*running, *waiting])
    assert not worker.said("is deaf")


# ---------------------------------------------------------------------------------------- outages


def test_fifty_resets_with_long_jobs_running(stack: Place) -> None:
    worker = stack.worker()
    marks = stack.marks()
    running = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    waiting = stack.submit("noop", {}, count=20)
    for _ in range(50):
        stack.proxy.reset()
        time.sleep(0.1)
    marks.open()
    stack.check([*running, *waiting])
    stack.run_jobs(20)
    assert [stack.events(job_id) for job_id in running] == [DONE] * 2
    assert worker.alive


def test_connections_closed_by_the_operator(stack: Place, own_servers: Servers) -> None:
    broker = own_servers.rabbitmq
    assert isinstance(broker, RabbitServer)
    worker = stack.worker()
    marks = stack.marks()
    running = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    for _ in range(3):
        broker.ctl("close_all_connections", "chaos")
    marks.open()
    stack.check(running)
    stack.run_jobs(10)
    assert [stack.events(job_id) for job_id in running] == [DONE] * 2
    assert worker.alive


def test_a_job_longer_than_the_brokers_acknowledgement_timeout(
    stack: Place, own_servers: Servers
) -> None:
    # Read by the broker when a channel is opened.
    with _acknowledgement_timeout(own_servers.rabbitmq, 2000):
        worker = stack.worker()
        stack.run_jobs()
        marks = stack.marks()
        [job_id] = stack.submit("stack.hold", {"marks": str(marks.directory)})
        marks.wait_started(1)
        worker.wait_said("PRECONDITION_FAILED.*delivery acknowledgement", 60)
        stack.run_jobs()
        marks.open()
        stack.check([job_id])
    assert stack.events(job_id) == DONE
    assert len(marks.all("started")) == 1
    stack.run_jobs(10)


@contextmanager
def _acknowledgement_timeout(broker: object, milliseconds: int) -> Iterator[None]:
    assert isinstance(broker, RabbitServer)
    before = broker.ctl("eval", "application:get_env(rabbit, consumer_timeout, 1800000).").strip()
    set_to = "application:set_env(rabbit, {}, {})."
    broker.ctl("eval", set_to.format("channel_tick_interval", 1000))
    broker.ctl("eval", set_to.format("consumer_timeout", milliseconds))
    try:
        yield
    finally:
        number = "".join(char for char in before if char.isdigit()) or "1800000"
        broker.ctl("eval", set_to.format("consumer_timeout", number))
        broker.ctl("eval", set_to.format("channel_tick_interval", 60000))


# ------------------------------------------------------------------------------------------ stops


def _refused(stack: Place) -> None:
    stack.proxy.cut()


def _silent(stack: Place) -> None:
    stack.proxy.blackhole("down")


@pytest.mark.parametrize("trouble", [_refused, _silent])
def test_sigterm_while_the_broker_is_away(stack: Place, trouble: Callable[[Place], None]) -> None:
    worker = stack.worker()
    marks = stack.marks()
    ids = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    trouble(stack)
    if trouble is _refused:
        worker.wait_said("Connection refused|Cannot connect")
    assert worker.terminate(STOP_SECONDS) == 0
    assert [stack.events(job_id) for job_id in ids] == [["submit", "claim", "release"]] * 2
    stack.proxy.heal(keep_held=False)
    stack.worker()
    marks.open()
    stack.check(ids)


def test_a_second_sigterm_changes_nothing(stack: Place) -> None:
    worker = stack.worker()
    marks = stack.marks()
    [job_id] = stack.submit("stack.hold", {"marks": str(marks.directory)})
    marks.wait_started(1)
    worker.send(signal.SIGTERM)
    worker.wait_said("Warm shutdown")
    assert worker.terminate(STOP_SECONDS) == 0
    assert stack.events(job_id) == ["submit", "claim", "release"]


def test_sigterm_to_the_whole_group(stack: Place) -> None:
    """The children are told too, with what they hold: nothing is lost, and nothing is charged."""
    worker = stack.worker()
    marks = stack.marks()
    ids = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    for pid in worker.children():
        os.kill(pid, signal.SIGTERM)
    assert worker.terminate(STOP_SECONDS) == 0
    stack.worker()
    marks.open()
    stack.check(ids)
    assert [stack.job(job_id)["failed_attempts"] for job_id in ids] == [0, 0]
