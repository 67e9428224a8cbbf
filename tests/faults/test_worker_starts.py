"""Workers that start into trouble: each comes up by itself, or says why not and ends."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.local.servers import RabbitServer
from tests.faults.conftest import Servers
from tests.faults.place import STOP_SECONDS, Place, opened
from tests.marks import until
from tests.proxy import Proxy
from tests.services import ROOT

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]


@pytest.fixture
def stack(own_servers: Servers, migrated: str, tmp_path: Path) -> Iterator[Place]:
    with opened(own_servers, migrated, tmp_path) as stack:
        yield stack


def test_a_worker_that_starts_before_its_broker(stack: Place) -> None:
    stack.proxy.cut()
    worker = stack.worker(wait=False)
    worker.wait_said("Cannot connect", 60)
    stack.proxy.heal()
    stack.run_jobs()


def test_a_wrong_password_is_said_and_tried_again(stack: Place, own_servers: Servers) -> None:
    broker = own_servers.rabbitmq
    assert isinstance(broker, RabbitServer)
    broker.ctl("add_user", "late", "not yet")
    broker.ctl("set_permissions", "late", ".*", ".*", ".*")
    url = f"amqp://late:secret@127.0.0.1:{broker.port}//"
    worker = stack.spawn("worker", variables={"BROKER_URL": url})
    worker.wait_said("ACCESS_REFUSED", 60)
    broker.ctl("change_password", "late", "secret")
    stack.run_jobs()
    broker.ctl("delete_user", "late")


def test_another_queue_of_that_name_ends_the_worker(stack: Place) -> None:
    jobs = {**stack.jobs, "delivery_limit": 7}
    stack.jobs, before = jobs, stack.jobs
    worker = stack.worker(wait=False)
    stack.jobs = before
    assert worker.wait(60) == 1
    assert worker.said(f"queue '{stack.queue}' exists with another 'x-delivery-limit'")
    stack.worker()
    stack.run_jobs()


def test_database_and_cache_come_later_than_the_worker(stack: Place, own_servers: Servers) -> None:
    own_servers.redis.stop()
    own_servers.postgres.stop()
    worker = stack.worker(wait=False)
    worker.wait_said("presence not recorded", 60)
    own_servers.postgres.start()
    own_servers.redis.start()
    stack.run_jobs()
    assert worker.alive


def test_children_that_hang_as_they_start(stack: Place) -> None:
    """It has fetched doorbells and has slots, but nobody ever begins."""
    worker = stack.worker(settings="settings_hung")
    ids = stack.submit("noop", {}, count=4)
    worker.wait_said("its children do not begin what it holds; it ends for its supervisor", 60)
    assert worker.wait(STOP_SECONDS + 20) == 1
    stack.worker()
    stack.check(ids)


# -------------------------------------------------------------------- what supervisors are told


def test_health_of_a_worker_through_an_outage_and_a_freeze(
    stack: Place, own_servers: Servers
) -> None:
    """An outage is no reason to restart a worker, a main process that stands still is one."""
    worker = stack.worker()
    # Its watchdog may have looked just before it was connected, and looks again soon.
    until(lambda: _health(stack, "--ready") == 0, 30)
    assert _health(stack) == 0

    stack.proxy.cut()
    until(lambda: _health(stack, "--ready") == 1, 30)
    own_servers.postgres.stop()
    assert _health(stack) == 0
    own_servers.postgres.start()
    stack.proxy.heal()
    until(lambda: _health(stack, "--ready") == 0, 30)

    worker.send(signal.SIGSTOP)
    until(lambda: _health(stack) == 1, 60)
    worker.send(signal.SIGCONT)
    until(lambda: _health(stack) == 0, 30)
    assert worker.terminate(STOP_SECONDS) == 0
    assert _health(stack) == 1


def test_a_worker_without_a_broker_is_not_shown_as_alive(stack: Place) -> None:
    worker = stack.worker()
    stack.proxy.cut()
    until(lambda: not _is_shown(stack, worker.pid), 30)
    stack.proxy.heal()
    until(lambda: _is_shown(stack, worker.pid), 30)


def _health(stack: Place, *options: str) -> int:
    command = ["python", "-m", "interlock", "jobs_health", "worker", *options]
    return subprocess.run(command, cwd=ROOT, env=stack.environment(), check=False).returncode


def _is_shown(stack: Place, pid: int) -> bool:
    return bool(
        stack.sql(
            "SELECT 1 FROM jobs_worker WHERE pid = %(pid)s AND kind = 'worker'"
            " AND seen_at > now() - make_interval(secs => %(stale)s)",
            {"pid": pid, "stale": stack.jobs["worker_stale_seconds"]},
        )
    )


# -------------------------------------------------------------------------- Redis as the broker


def test_a_deaf_worker_on_redis_rebuilds_its_consumer(stack: Place, own_servers: Servers) -> None:
    """Redis has no heartbeats at all: without the watchdog this worker would wait for ever."""
    redis = own_servers.redis
    for role in ("relay", "scheduler"):
        stack.the(role).terminate(15)
        stack.spawn(role, variables={"BROKER_URL": f"redis://127.0.0.1:{redis.port}/3"})
    with Proxy("127.0.0.1", redis.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/3"
        worker = stack.spawn("worker", variables={"BROKER_URL": url})
        until(lambda: stack.ready(worker), 60, stack.tails)
        stack.run_jobs()
        proxy.deafen()
        ids = stack.submit("noop", {}, count=6)
        worker.wait_said("its consumer is rebuilt", 60)
        stack.check(ids)
        assert worker.alive
        assert worker.terminate(STOP_SECONDS) == 0
