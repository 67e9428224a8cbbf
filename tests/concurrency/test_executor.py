"""What the executor leaves alone, and with whom it may be shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import connection, transaction

from jobs import registry, testing
from jobs.executor import Executor
from jobs.models import Job
from jobs.registry import handler
from jobs.states import JobState
from jobs.values import Doorbell, Settled
from tests.concurrency.attempts import Declare, run, run_one, when_entered
from tests.rivals import running
from tests.verbs import history, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


def test_handlers_never_run_inside_a_transaction() -> None:
    [job] = submit()
    with transaction.atomic(), pytest.raises(RuntimeError, match="never run inside a transaction"):
        run(job)
    inside = []

    def look() -> None:
        inside.append(connection.in_atomic_block)

    handler("test-look")(look)
    try:
        run(*submit(handler="test-look"))
    finally:
        del registry._handlers["test-look"]
    assert inside == [False]


def test_stale_and_unknown_doorbells_run_nothing() -> None:
    [job] = submit()
    assert Executor("w").answer([Doorbell(job.id, 7), Doorbell(uuid4(), 1)]) == []
    assert history(job.id) == ["submit"]


def test_a_handler_that_vanishes_after_the_claim_hands_the_job_back(declare: Declare) -> None:
    def gone() -> None: ...

    name = declare(gone)
    first, second = [*submit(payload={"action": "wait", "gate_name": "g"}), *submit(handler=name)]
    gate = testing.gate("g")

    def vanish() -> None:
        del registry._handlers[name]
        gate.opened.set()

    rival = when_entered(gate, vanish)
    run(first, second)
    rival.answer()
    assert history(second.id) == ["submit", "claim", "release"]


def test_two_threads_may_share_an_executor() -> None:
    executor = Executor("worker:1")
    jobs = submit(10, payload={"action": "sleep", "seconds": 0.01})

    def half(mine: list[Job]) -> Callable[[], list[Settled]]:
        return lambda: [one for job in mine for one in run(job, executor=executor)]

    with running(half(jobs[:5])), running(half(jobs[5:])):
        pass
    assert set(Job.objects.values_list("state", flat=True)) == {JobState.COMPLETED}


def test_marks_tell_who_ran(tmp_path: Path) -> None:
    run_one(payload={"mark": str(tmp_path / "mark")})
    assert len((tmp_path / "mark").read_text().splitlines()) == 1
