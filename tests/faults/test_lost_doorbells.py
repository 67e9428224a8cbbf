"""What the broker forgets is rung again from the tables, and what it repeats does no harm."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

import psycopg2
import pytest

from interlock.local.servers import RabbitServer, Server
from tests.faults.conftest import Servers
from tests.marks import until
from tests.stack import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]


def test_purged_queue(stack: Stack) -> None:
    marks = stack.marks()
    running = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    waiting = stack.submit("stack.nap", {"marks": str(marks.directory)}, count=20)
    stack.wait_published(waiting)
    # A worker whose last jobs were short holds all of them, until it sees that no child comes.
    until(stack.messages, 20, stack.tails)

    purged = stack.purge()
    assert purged > 0
    marks.open()

    stack.check([*running, *waiting])
    again = [row for row in stack.outbox(*waiting) if row["rearms"] > 0]
    assert len(again) >= purged, "each message that is gone had a job, or several"


@pytest.mark.parametrize("worker_lives", [True, False])
def test_emptied_broker(stack: Stack, own_servers: Servers, worker_lives: bool) -> None:
    """A broker that comes back as a new one: no queue, no message, no user's work."""
    broker = own_servers.rabbitmq
    assert isinstance(broker, RabbitServer)
    marks = stack.marks()
    running = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    waiting = stack.submit("stack.nap", {"marks": str(marks.directory)}, count=20)
    stack.wait_published(waiting)

    if not worker_lives:
        stack.the("worker").kill()
    for command in ("stop_app", "reset", "start_app"):
        broker.ctl(command)
    if not worker_lives:
        stack.start("worker")
    marks.open()

    stack.check([*running, *waiting])


def test_deleted_queue_under_a_living_worker(stack: Stack) -> None:
    """The worker's consumer is cancelled by the broker; it must not stay deaf."""
    first = stack.submit("noop", {}, count=3)
    stack.check(first)
    stack.delete_queue()
    ids = stack.submit("noop", {}, count=10)
    stack.check(ids)


def test_relay_killed_between_publish_and_settle(stack: Stack, own_servers: Servers) -> None:
    """The doorbell is out, but its row says otherwise: it is rung twice and answered once."""
    relay = stack.the("relay")
    with _frozen(own_servers.rabbitmq):
        [job_id] = stack.submit("noop")
        _wait_taken(stack, job_id)
        lock = psycopg2.connect(stack.services.database_url)
        lock.cursor().execute("SELECT FROM jobs_outboxentry FOR UPDATE")
    with closing(lock):
        # Published and even answered, while the relay waits to write that down.
        stack.wait_for("COMPLETED", [job_id])
        assert stack.outbox(job_id)[0]["published_at"] is None
        relay.kill()
        # What the dead relay had already sent would else be carried out once the lock is gone.
        lock.cursor().execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
    stack.start("relay")
    _check_rung_twice(stack, job_id)


def test_relay_frozen_between_publish_and_settle(stack: Stack, own_servers: Servers) -> None:
    """Another relay takes over the row; the first wakes up later and settles it once more."""
    frozen = stack.the("relay")
    with _frozen(own_servers.rabbitmq):
        [job_id] = stack.submit("noop")
        _wait_taken(stack, job_id)
        frozen.send(signal.SIGSTOP)
    try:
        assert stack.outbox(job_id)[0]["published_at"] is None
        stack.start("relay")
        stack.wait_published([job_id])
    finally:
        frozen.send(signal.SIGCONT)
    # Two relays from here on.
    more = stack.submit("noop", {}, count=50)
    stack.check(more)
    _check_rung_twice(stack, job_id)
    assert frozen.terminate(10) == 0


@contextmanager
def _frozen(server: Server) -> Iterator[None]:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def _wait_taken(stack: Stack, job_id: UUID) -> None:
    """Until a relay has this row in its hands, and therefore waits for the frozen broker."""
    until(lambda: stack.outbox(job_id)[0]["taken_until"], 20, lambda: "no relay took the row")


def _check_rung_twice(stack: Stack, job_id: UUID) -> None:
    stack.check([job_id])
    assert stack.outbox(job_id)[0]["tries"] == 2
    assert stack.events(job_id) == ["submit", "claim", "succeed"]
    until(lambda: stack.messages() == 0, 20, lambda: f"{stack.messages()} doorbells stay")


def test_a_purge_is_noticed_by_what_comes_after(
    own_servers: Servers, migrated: str, tmp_path: Path
) -> None:
    """A doorbell that was heard proves that the older ones are lost: nobody waits for their age."""
    own_servers.heal()
    here = own_servers.services
    with Stack(here, migrated, tmp_path, rearm_seconds=600.0, rearm_cap_seconds=600.0) as stack:
        stack.start()
        marks = stack.marks()
        running = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
        marks.wait_started(2)
        lost = stack.submit("stack.nap", {"marks": str(marks.directory)}, count=20)
        stack.wait_published(lost)
        until(stack.messages, 20, stack.tails)
        assert stack.purge() > 0
        marks.open()
        stack.check(running)
        later = stack.submit("stack.nap", {"marks": str(marks.directory), "seconds": 3.0}, count=2)
        stack.check([*lost, *later])
        again = [row["job_id"] for row in stack.outbox(*lost, *later) if row["rearms"]]
        assert len(again) >= 18
        assert not {str(job_id) for job_id in later} & set(again)
