"""Relay and scheduler through the troubles of their servers: the same processes all the time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import psycopg2
import pytest

from interlock.local.servers import RabbitServer, Server
from tests.faults.conftest import Servers
from tests.marks import until
from tests.services import Services, database_name
from tests.stack import TIMINGS, Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]

EVENTS = ["submit", "claim", "succeed"]


def pids(stack: Stack) -> dict[str, int]:
    return {process.role: process.pid for process in stack.processes if process.alive}


def as_ever(stack: Stack) -> None:
    """Ordinary work gets done."""
    stack.check(stack.submit("noop", {}, count=5))


def troubles(stack: Stack, role: str, text: str) -> int:
    return stack.the(role).log.read_text(errors="replace").count(text)  # type: ignore[arg-type]


def unconfirmed(stack: Stack) -> list[int]:
    """How many messages the relay sent in vain, each time it did."""
    log = stack.the("relay").log.read_text(errors="replace")
    return [int(count) for count in re.findall(r"(\d+) messages unconfirmed in time", log)]


# -------------------------------------------------------------------------------------- RabbitMQ


@pytest.mark.parametrize("alarm", ["memory", "disk"])
def test_alarm_of_the_broker(stack: Stack, own_servers: Servers, alarm: str) -> None:
    """Nothing is marked, nothing is sent in heaps, and all is rung once the alarm is over."""
    broker = own_servers.rabbitmq
    assert isinstance(broker, RabbitServer)
    before = pids(stack)
    as_ever(stack)
    command, on, off = {
        "memory": ("set_vm_memory_high_watermark", "0", "0.4"),
        "disk": ("set_disk_free_limit", "999GB", "50MB"),
    }[alarm]
    earlier = len(unconfirmed(stack))
    broker.ctl(command, on)
    try:
        ids = stack.submit("noop", {}, count=50)
        until(lambda: len(unconfirmed(stack)) >= earlier + 3, 60, stack.tails)
        rows = stack.outbox(*ids)
    finally:
        broker.ctl(command, off)
    first, *later = unconfirmed(stack)[earlier:]
    assert first <= len(ids)
    assert set(later) == {1}
    assert sum(row["published_at"] is None for row in rows) >= 40
    stack.check(ids)
    assert pids(stack) == before


# ------------------------------------------------------------------------------------ PostgreSQL


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """All its processes stand still. Connections stay open, and the kernel answers for them."""
    assert server.pid is not None
    main = psutil.Process(server.pid)
    # The parent first, so that it forks no more.
    main.suspend()
    family = [main, *main.children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in reversed(family):
            if process.is_running():
                process.resume()


def test_postgres_frozen_for_longer_than_a_lease(stack: Stack, own_servers: Servers) -> None:
    """Nobody could beat, so nobody is charged: the rescuer lets the living speak first."""
    marks = stack.marks()
    running = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    before = pids(stack)
    with frozen(own_servers.postgres):
        time.sleep(TIMINGS["lease_seconds"] + 1)  # the fault itself: it must outlast the leases
    marks.open()
    stack.check(running)
    assert [stack.events(job_id) for job_id in running] == [EVENTS] * 2
    as_ever(stack)
    assert pids(stack) == before


def test_backends_that_die_all_the_time(stack: Stack, own_servers: Servers) -> None:
    marks = stack.marks()
    ids = stack.submit("stack.nap", {"marks": str(marks.directory), "seconds": 0.2}, count=30)
    before = pids(stack)
    for _ in range(12):
        end_backends(stack.services)
        time.sleep(0.3)  # the fault itself
    stack.check(ids)
    as_ever(stack)
    assert pids(stack) == before


def end_backends(services: Services) -> None:
    services.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def test_a_database_that_takes_no_writes(stack: Stack, own_servers: Servers) -> None:
    """As after a failover to a replica: every session works, and every write fails."""
    before = pids(stack)
    as_ever(stack)
    name = database_name(stack.services.database_url)
    setting = f"ALTER DATABASE {name} SET default_transaction_read_only"
    admin = own_servers.services
    admin.sql(f"{setting} = on")
    try:
        end_backends(stack.services)
        for role in ("relay", "scheduler"):
            until(lambda r=role: troubles(stack, r, "read-only") >= 3, 60, stack.tails)  # type: ignore[misc]
    finally:
        admin.sql(f"{setting} = off")
    as_ever(stack)
    assert pids(stack) == before


def test_a_table_that_a_stranger_holds(stack: Stack, own_servers: Servers) -> None:
    """Roles have a lock timeout. Here the database has one, because the tests have one role."""
    before = pids(stack)
    as_ever(stack)
    name = database_name(stack.services.database_url)
    own_servers.services.sql(f"ALTER DATABASE {name} SET lock_timeout = '300ms'")
    end_backends(stack.services)
    as_ever(stack)
    stranger = psycopg2.connect(stack.services.database_url)
    try:
        stranger.cursor().execute("LOCK TABLE jobs_outboxentry IN ACCESS EXCLUSIVE MODE")
        until(lambda: troubles(stack, "relay", "lock timeout") >= 3, 60, stack.tails)
    finally:
        stranger.close()
        own_servers.services.sql(f"ALTER DATABASE {name} RESET lock_timeout")
    as_ever(stack)
    assert pids(stack) == before
