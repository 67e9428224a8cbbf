"""PostgreSQL restarts and Redis goes away: the one is waited for, the other is done without."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from interlock.local.servers import Server
from tests.faults.conftest import Servers
from tests.marks import until
from tests.stack import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]


@pytest.fixture
def patient(own_servers: Servers, migrated: str, tmp_path: Path) -> Iterator[Stack]:
    """A lease that outlasts a restart, so that whatever is done twice was not lost to the lease."""
    own_servers.heal()
    here = own_servers.services
    with Stack(here, migrated, tmp_path, lease_seconds=30.0, status_ttl_seconds=60.0) as stack:
        stack.start()
        yield stack
        own_servers.heal()


def test_postgres_restart(patient: Stack, own_servers: Servers) -> None:
    """Crashes as ``pg_ctl stop -m immediate`` does, at the moment when results are due."""
    stack = patient
    marks = stack.marks()
    running = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    waiting = stack.submit("stack.nap", {"marks": str(marks.directory)}, count=20)
    pids = {process.role: process.pid for process in stack.processes if process.alive}
    stack.wait_settled()
    assert {stack.status(job_id).status for job_id in running} == {200}

    _crash(own_servers.postgres)
    marks.open()
    assert [stack.status(job_id).status for job_id in running] == [200, 200]
    refused = stack.http.ask("POST", "/api/v1/jobs/", {"handler": "noop"})
    assert refused.status == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert stack.http.get("/health/live").status == 200
    assert stack.http.get("/health/ready").status == 503
    # Both have their result by now, and nowhere to put it.
    until(lambda: len(marks.all("finished")) == 2, 10, stack.tails)
    stack.the("worker").wait_said("waiting for the database")
    own_servers.postgres.start()

    later = stack.submit("noop", {}, count=5)
    stack.check([*running, *waiting, *later])
    assert [stack.events(job_id) for job_id in running] == [["submit", "claim", "succeed"]] * 2
    assert {process.role: process.pid for process in stack.processes if process.alive} == pids


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_without_redis(stack: Stack, own_servers: Servers, how: str) -> None:
    redis = own_servers.redis
    before = stack.submit("noop", {}, count=3)
    stack.wait_for("COMPLETED", before)
    assert redis.pid is not None
    if how == "stopped":
        redis.stop()
    else:
        os.kill(redis.pid, signal.SIGSTOP)
    try:
        ids = stack.submit("noop", {}, count=20)
        # One bounded wait now and then, not one for each of the 23.
        assert _seconds_of_reading(stack, [*before, *ids]) < 3
        stack.check(ids)
        assert {stack.status(job_id).json()["state"] for job_id in ids} == {"COMPLETED"}
    finally:
        if how == "stopped":
            redis.start()
        else:
            os.kill(redis.pid, signal.SIGCONT)
    after = stack.submit("noop", {}, count=5)
    stack.check([*before, *after])
    until(lambda: _copies(stack, after) == len(after), 20, lambda: "Redis is not used again")


def _crash(postgres: Server) -> None:
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGQUIT)
    postgres.stop()


def _seconds_of_reading(stack: Stack, ids: list[UUID]) -> float:
    """How long it takes to read these statuses one by one; each must be a good answer."""
    began = time.monotonic()
    assert {stack.status(job_id).status for job_id in ids} == {200}
    return time.monotonic() - began


def _copies(stack: Stack, ids: list[UUID]) -> int:
    """How many of these jobs readers find in Redis once they have asked for them."""
    assert {stack.status(job_id).status for job_id in ids} == {200}
    client = stack.services.redis()
    try:
        return sum(client.exists(f"{stack.name}:s:{job_id}") for job_id in ids)
    finally:
        client.close()
