"""RabbitMQ saw somebody die: their jobs go on soon, long before their leases would end.

The lease here is two minutes, so that whatever ends within the tests' patience owes it to doubt.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from pytest_django import DjangoDbBlocker

from jobs import lifecycle
from jobs.values import Submission
from tests.inside import inside
from tests.marks import Marks, until
from tests.proxy import Proxy
from tests.services import Services
from tests.stack import Stack
from tests.testapp import handlers

assert handlers  # imported to be declared, for submits of this process

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]


@pytest.fixture
def broker() -> Iterator[Proxy]:
    url = urlsplit(Services.given().broker_url)
    with Proxy(url.hostname or "", url.port or 5672) as proxy:
        yield proxy


@pytest.fixture
def stack(
    broker: Proxy, migrated: str, tmp_path: Path, django_db_blocker: DjangoDbBlocker
) -> Iterator[Stack]:
    """A worker that reaches RabbitMQ through the proxy, and whoever it needs."""
    services = Services.given()
    with (
        Stack(services, migrated, tmp_path, lease_seconds=120.0, doubt_seconds=2.0) as stack,
        inside(stack, django_db_blocker),
    ):
        start_worker(stack, broker)
        stack.start("relay", "scheduler")
        yield stack


def start_worker(stack: Stack, broker: Proxy) -> None:
    url = urlsplit(stack.services.broker_url)
    account = url.netloc.rpartition("@")[0]
    through = url._replace(netloc=f"{account}@127.0.0.1:{broker.port}").geturl()
    process = stack.spawn("worker", variables={"BROKER_URL": through})
    until(lambda: stack.ready(process), 60, stack.tails)


def hold(stack: Stack) -> tuple[list[UUID], Marks]:
    marks = stack.marks()
    wish = Submission("stack.hold", {"marks": str(marks.directory)})
    ids = [one.job_id for one in lifecycle.submit([wish, wish])]
    marks.wait_started(2)
    return ids, marks


def test_a_killed_childs_job_is_claimed_again(stack: Stack) -> None:
    _, marks = hold(stack)
    victim, bystander = marks.all("started")
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: "rescue" in stack.events(victim.job_id), 60, stack.tails)
    marks.open()
    stack.wait_for("COMPLETED", [victim.job_id, bystander.job_id])
    assert stack.events(victim.job_id) == ["submit", "claim", "rescue", "claim", "succeed"]
    assert stack.events(bystander.job_id) == ["submit", "claim", "succeed"]


def test_a_killed_workers_jobs_are_claimed_again(stack: Stack, broker: Proxy) -> None:
    ids, marks = hold(stack)
    stack.the("worker").kill()
    start_worker(stack, broker)
    marks.open()
    stack.wait_for("COMPLETED", ids)
    for job_id in ids:
        assert stack.events(job_id) == ["submit", "claim", "rescue", "claim", "succeed"]


def test_a_worker_that_loses_only_its_connection_keeps_its_jobs(
    stack: Stack, broker: Proxy
) -> None:
    ids, marks = hold(stack)
    for _ in range(5):
        before = {job_id: stack.job(job_id)["lease_until"] for job_id in ids}
        broker.reset()
        # The doorbells come back to this very worker, and its heart goes on beating.
        until(lambda then=before: all(stack.job(i)["lease_until"] > then[i] for i in ids), 60)  # type: ignore[misc] # a lambda's default
    marks.open()
    stack.wait_for("COMPLETED", ids)
    assert [stack.events(job_id) for job_id in ids] == [["submit", "claim", "succeed"]] * 2
