"""Of which submits the relay hears before they are committed: those of lone jobs that are due."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import transaction

from jobs import events, lifecycle, observers, status
from jobs.errors import SubmissionError
from jobs.models import Job
from jobs.values import Born, Foretold, Submission
from tests.verbs import HANDLER, lost_answer, submit

pytestmark = pytest.mark.django_db(transaction=True)


class Preparer:
    """Keeps of whom it was told, and what the database had of them then."""

    def __init__(self) -> None:
        self.told: list[Born] = []
        self.there: list[bool] = []

    def __call__(self, job: Born) -> None:
        self.told.append(job)
        self.there.append(Job.objects.filter(id=job.job_id).exists())


@pytest.fixture
def preparer(monkeypatch: pytest.MonkeyPatch) -> Preparer:
    monkeypatch.setattr(events, "_preparers", [])
    preparer = Preparer()
    events.prepare_with(preparer)
    events.prepare_with(preparer)
    return preparer


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Foretold | None]]:
    """What the relay is told; after a submit it is told nothing more for a while."""
    monkeypatch.setattr(observers._ringer, "_quiet_seconds", lambda: 60.0)
    said: list[Foretold | None] = []
    monkeypatch.setattr(status, "wake", lambda foretold=None: said.append(foretold))
    observers._ringer._quiet_until = float("-inf")
    yield said
    observers._ringer._quiet_until, observers._ringer._waits = float("-inf"), False


@pytest.mark.parametrize("verb", ["submit", "submit_together"])
def test_a_lone_job_is_expected_before_it_is_there(preparer: Preparer, verb: str) -> None:
    if verb == "submit":
        [accepted] = lifecycle.submit([Submission(HANDLER)])
    else:
        accepted = lifecycle.submit_together(Submission(HANDLER))
    assert preparer.told == [Born(accepted.job_id, None, HANDLER, "default")]
    assert preparer.there == [False]


@pytest.mark.parametrize(
    "wishes",
    [
        pytest.param([Submission(HANDLER)] * 2, id="several"),
        pytest.param([Submission(HANDLER, idempotency_key="k")], id="idempotency key"),
        pytest.param([Submission(HANDLER, unique_key="k")], id="unique key"),
    ],
)
def test_others_are_not(preparer: Preparer, wishes: list[Submission]) -> None:
    lifecycle.submit(wishes)
    assert preparer.told == []


def test_nor_is_one_in_a_transaction_of_its_caller(preparer: Preparer) -> None:
    """Who knows when that ends, and how."""
    with transaction.atomic():
        submit()
    assert preparer.told == []


def test_nor_what_is_refused(preparer: Preparer) -> None:
    with pytest.raises(SubmissionError):
        lifecycle.submit([Submission("nobody's")])
    assert preparer.told == []


def test_it_is_expected_once_however_often_it_is_tried(preparer: Preparer) -> None:
    with lost_answer():
        submit()
    assert len(preparer.told) == 1


def test_a_preparer_that_fails_harms_nobody(
    preparer: Preparer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(job: Born) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(events, "_preparers", [broken, preparer])
    [job] = submit()
    assert [one.job_id for one in preparer.told] == [job.id]
    assert "no disk" in caplog.text


def test_the_relay_hears_of_it_before_and_after(said: list[Foretold | None]) -> None:
    [job] = submit()
    soon = Foretold(job.id, HANDLER, "default", is_there=False)
    assert said == [soon, soon._replace(is_there=True)]


def test_not_before_if_it_is_not_due(said: list[Foretold | None]) -> None:
    submit(delay_seconds=60)
    assert said == [None]


def test_not_before_if_it_would_not_hear_at_once_after(said: list[Foretold | None]) -> None:
    """It is busy, or soon looks in any case."""
    [first] = submit()
    submit()
    assert {one.job_id for one in said if one} == {first.id}
    assert len(said) == 2
