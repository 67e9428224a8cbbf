"""Two sessions that want the opposite of one job at the same moment, three hundred times each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from jobs import lifecycle
from jobs.errors import IllegalTransition
from jobs.models import Job
from jobs.states import JobEvent
from jobs.values import Attempt, Outcome
from tests.rivals import race
from tests.verbs import USER, WORKER, claim, history, lapse, submit

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = 300


def rounds(work: Callable[[], Any], moments: threading.Barrier) -> Callable[[], list[str]]:
    """Do it ``ROUNDS`` times in one session, each time at the same moment as the rival."""

    def loop() -> list[str]:
        answers = []
        for _ in range(ROUNDS):
            moments.wait(60)
            try:
                answers.append(str(work()))
            except IllegalTransition:
                answers.append("refused")
        return answers

    return loop


def duels(one: Callable[[Any], Any], other: Callable[[Any], Any], subjects: list[Any]) -> set[Any]:
    """The pairs of answers when two sessions meet over each of the subjects."""
    moments = threading.Barrier(2)
    first, second = iter(subjects), iter(subjects)
    answers = race(
        rounds(lambda: one(next(first)), moments), rounds(lambda: other(next(second)), moments)
    )
    return set(zip(*answers, strict=True))


def test_cancel_and_completion_at_once_leave_one_legal_end() -> None:
    attempts = claim(submit(ROUNDS))
    answers = duels(
        lambda held: lifecycle.cancel([held.job_id], actor=USER)[0].event,
        lambda held: lifecycle.finish([Outcome(held, JobEvent.SUCCEED)], worker=WORKER)[0].event,
        attempts,
    )
    assert answers <= {("refused", "succeed"), ("request_cancel", "succeed")}
    for attempt in attempts:
        assert history(attempt.job_id)[-1] == "succeed"
        assert "cancel" not in history(attempt.job_id)


def test_the_holders_cancel_and_its_completion_at_once_end_the_job_once() -> None:
    """The heart gives up on a handler in the moment in which it returns: both hold the token."""
    attempts = claim(submit(ROUNDS))
    lifecycle.cancel([attempt.job_id for attempt in attempts], actor=USER)

    def ending(event: JobEvent) -> Callable[[Attempt], str]:
        def finish_(held: Attempt) -> str:
            [settled] = lifecycle.finish([Outcome(held, event)], worker=WORKER)
            assert not settled.fenced
            return str(settled.event)

        return finish_

    answers = duels(ending(JobEvent.CANCEL), ending(JobEvent.SUCCEED), attempts)
    assert answers <= {("cancel", "cancel"), ("succeed", "succeed")}, "both hear of the winner"
    for attempt in attempts:
        assert history(attempt.job_id)[2:] in (
            ["request_cancel", "cancel"],
            ["request_cancel", "succeed"],
        )


def test_cancel_and_claim_at_once_leave_one_legal_end() -> None:
    jobs = submit(ROUNDS)
    answers = duels(
        lambda job: lifecycle.cancel([job.id], actor=USER)[0].event,
        lambda job: len(claim([job])),
        jobs,
    )
    assert answers <= {("cancel", "0"), ("request_cancel", "1")}
    for job in jobs:
        assert history(job.id)[1:] in (["cancel"], ["claim", "request_cancel"])


def test_rescue_and_completion_at_once_leave_one_end() -> None:
    attempts = claim(submit(ROUNDS))
    lapse(Job.objects.all())

    def complete(held: Attempt) -> bool:
        return lifecycle.finish([Outcome(held, JobEvent.SUCCEED)], worker=WORKER)[0].fenced

    duels(lambda _: len(lifecycle.rescue(limit=1, actor_id="r")), complete, attempts)
    for attempt in attempts:
        assert history(attempt.job_id)[2:] in (["rescue"], ["succeed"])
