"""The database goes away under a worker and comes back: claims wait, and finished work is kept.

The worker's thread reaches PostgreSQL through a proxy that is cut; the test itself stays connected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connection, connections

from jobs import drain, testing
from jobs.context import Context
from jobs.models import Job
from jobs.states import JobEvent, JobState
from tests.concurrency.attempts import Declare, run
from tests.proxy import Proxy
from tests.rivals import Rival, until
from tests.verbs import history, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Stands between PostgreSQL and every connection that is made from now on."""
    connection.ensure_connection()
    given = connections.settings["default"]
    with Proxy(given["HOST"], int(given["PORT"])) as proxy:
        monkeypatch.setitem(given, "HOST", "127.0.0.1")
        monkeypatch.setitem(given, "PORT", proxy.port)
        yield proxy


def waits(caplog: pytest.LogCaptureFixture) -> bool:
    return "waiting for the database" in caplog.text


def test_a_claim_waits_until_the_database_is_back(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    [job] = submit()
    proxy.cut()
    worker = Rival(lambda: run(job), connects=False)
    until(lambda: waits(caplog))
    proxy.heal()
    [settled] = worker.answer()
    assert settled.event is JobEvent.SUCCEED
    assert history(job.id) == ["submit", "claim", "succeed"]
    assert caplog.text.count("waiting for the database") == 1, "not a line for every try"


def test_a_connection_that_dies_between_two_jobs_costs_nothing(proxy: Proxy) -> None:
    first, second = submit(2)

    def work() -> list[Any]:
        answers = run(first)
        proxy.reset()
        return answers + run(second)

    assert [one.event for one in Rival(work).answer()] == [JobEvent.SUCCEED] * 2


def test_a_worker_that_stops_gives_the_doorbell_back(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    [job] = submit()
    proxy.cut()
    worker = Rival(lambda: run(job), connects=False)
    until(lambda: waits(caplog))
    drain.stop()
    with pytest.raises(drain.Stopping):
        worker.answer()
    assert history(job.id) == ["submit"]


def test_patience_has_an_end(proxy: Proxy, jobs_settings: Callable[..., None]) -> None:
    """Before RabbitMQ's own: the doorbell is acknowledged, and the reconciler rings again."""
    jobs_settings(claim_patience_seconds=0.5)
    [job] = submit()
    proxy.cut()
    assert Rival(lambda: run(job), connects=False).answer() == []
    assert history(job.id) == ["submit"]


def test_work_that_ended_during_the_outage_is_recorded_after_it(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    [job] = submit(payload={"action": "wait", "gate_name": "g", "value": "kept"})
    gate = testing.gate("g")
    worker = Rival(lambda: run(job))
    assert gate.entered.wait(60)
    proxy.cut()
    gate.opened.set()
    until(lambda: waits(caplog))
    proxy.heal()
    [settled] = worker.answer()
    assert settled.event is JobEvent.SUCCEED
    assert Job.objects.get().result == "kept"
    assert history(job.id) == ["submit", "claim", "succeed"]


def test_time_limits_hold_while_no_beat_gets_through(
    proxy: Proxy, jobs_settings: Callable[..., None], declare: Declare
) -> None:
    """What stops a handler needs no database until its end is recorded."""
    jobs_settings(timeout_seconds=0.3)
    gate = testing.gate("g")

    def deaf() -> None:
        try:
            gate.entered.set()
            while True:
                time.sleep(0.01)
        finally:
            gate.opened.set()

    [job] = submit(handler=declare(deaf))
    worker = Rival(lambda: run(job))
    assert gate.entered.wait(60)
    proxy.cut()
    assert gate.opened.wait(60), "it was never interrupted"
    proxy.heal()
    [settled] = worker.answer()
    assert settled.event is JobEvent.RETRY
    job.refresh_from_db()
    assert (job.reason, job.failed_attempts) == ("ran longer than 0.3 s", 1)


def test_a_stopping_worker_stops_its_handlers_during_an_outage(
    proxy: Proxy, jobs_settings: Callable[..., None], declare: Declare
) -> None:
    # The grace is also the time for which the worker waits to record what it has stopped.
    jobs_settings(stop_grace_seconds=30)
    gate = testing.gate("g")

    def polite(*, context: Context) -> None:
        gate.entered.set()
        try:
            while True:
                context.check()
        finally:
            gate.opened.set()

    [job] = submit(handler=declare(polite))
    worker = Rival(lambda: run(job))
    assert gate.entered.wait(60)
    proxy.cut()
    drain.stop()
    assert gate.opened.wait(60), "nobody asked it to stop"
    proxy.heal()
    [settled] = worker.answer()
    assert settled.event is JobEvent.RELEASE
    assert history(job.id) == ["submit", "claim", "release"]


def test_a_stopping_worker_does_not_wait_for_ever_to_record(
    proxy: Proxy, jobs_settings: Callable[..., None]
) -> None:
    """Its supervisor will not either. The lease lapses, and the job is rescued."""
    jobs_settings(stop_grace_seconds=0.2)
    [job] = submit(payload={"action": "wait", "gate_name": "g"})
    gate = testing.gate("g")
    worker = Rival(lambda: run(job))
    assert gate.entered.wait(60)
    proxy.cut()
    drain.stop()
    with pytest.raises(OperationalError):
        worker.answer()
    assert Job.objects.get().state == JobState.RUNNING
