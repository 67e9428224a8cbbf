"""A doorbell that comes while its job is being submitted: its worker looks again, for a moment."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError, transaction

from jobs import doorbells, executor, lifecycle
from jobs.executor import Executor
from jobs.models import Job
from jobs.states import JobState
from jobs.values import Doorbell, Settled
from tests.rivals import Rival
from tests.verbs import history, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


class Looks:
    """Counts what is looked for, and lets a test wait for it."""

    def __init__(self) -> None:
        self.count = 0
        self.looked = threading.Event()
        self._real = lifecycle.count_there

    def __call__(self, job_ids: Collection[UUID]) -> int:
        self.count += 1
        found = self._real(job_ids)
        self.looked.set()
        return found


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks = Looks()
    monkeypatch.setattr(lifecycle, "count_there", looks)
    return looks


def answer(*jobs: Job, early: bool = True) -> list[Settled]:
    bells = [Doorbell(job.id, job.version) for job in jobs]
    return Executor("worker:1").answer(bells, early=early)


def test_a_worker_waits_for_a_job_that_is_being_submitted(
    looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long enough for a machine that is busy with something else.
    monkeypatch.setattr(executor, "_LOOKS_APART_SECONDS", (0.01,) * 2000)
    with transaction.atomic():
        [job] = submit()
        rival = Rival(lambda: answer(job))
        assert looks.looked.wait(20)
    [settled] = rival.answer()
    assert settled.job_id == job.id
    assert history(job.id) == ["submit", "claim", "succeed"]


def test_the_others_of_its_message_run_meanwhile(
    looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "_LOOKS_APART_SECONDS", (0.01,) * 2000)
    [there] = submit()
    with transaction.atomic():
        [soon] = submit()
        rival = Rival(lambda: answer(soon, there))
        assert looks.looked.wait(20)
        there.refresh_from_db()
        assert there.state == JobState.COMPLETED
    assert [one.job_id for one in rival.answer()] == [there.id, soon.id]


def test_it_gives_up_only_when_the_doorbell_counts_no_more(looks: Looks) -> None:
    assert sum(executor._LOOKS_APART_SECONDS) >= 2 * doorbells.EARLY_SECONDS
    assert Executor("worker:1").answer([Doorbell(uuid4(), 1)], early=True) == []
    assert looks.count == len(executor._LOOKS_APART_SECONDS)


def test_it_looks_once_for_one_that_others_have_run(looks: Looks) -> None:
    [job] = submit()
    assert len(answer(job)) == 1
    assert answer(job) == []
    assert looks.count == 1


def test_no_other_doorbell_is_waited_for(looks: Looks) -> None:
    assert Executor("worker:1").answer([Doorbell(uuid4(), 1)]) == []
    assert looks.count == 0


def test_a_database_that_goes_away_leaves_it_to_the_reconciler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object) -> Any:
        raise OperationalError("away")

    monkeypatch.setattr(lifecycle, "count_there", away)
    assert Executor("worker:1").answer([Doorbell(uuid4(), 1)], early=True) == []
    assert "the reconciler will ring again: away" in caplog.text
