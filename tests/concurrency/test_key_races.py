"""Races for an idempotency key of which one side makes a job and the other is answered by one."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction

from jobs import lifecycle
from jobs.errors import IdempotencyConflict
from jobs.models import IdempotencyKey, Job
from jobs.states import JobEvent
from jobs.values import Accepted, Submission
from tests.rivals import Rival, race
from tests.verbs import HANDLER, claim, finish, lost_answer, rolled_back, submit

pytestmark = pytest.mark.django_db(transaction=True)

SAME = Submission(HANDLER, idempotency_key="k", unique_key="u")
OTHER = Submission(HANDLER, idempotency_key="k")


@pytest.fixture
def standing() -> Job:
    """The job that answers ``SAME``."""
    [job] = submit(unique_key="u")
    return job


def ask(*wishes: Submission) -> list[Accepted]:
    return lifecycle.submit(wishes)


def end(job: Job) -> None:
    finish(claim([job]), JobEvent.SUCCEED)


def test_another_request_that_waited_for_one_that_a_standing_job_answers_is_a_conflict(
    standing: Job,
) -> None:
    with transaction.atomic():
        [first] = ask(SAME)
        late = Rival(lambda: ask(OTHER))
        late.wait_until_blocked()
    with pytest.raises(IdempotencyConflict):
        late.answer()
    assert first.job_id == standing.id == Job.objects.get().id


def test_a_request_with_a_standing_job_that_waited_for_another_request_is_a_conflict(
    standing: Job,
) -> None:
    with transaction.atomic():
        [first] = ask(OTHER)
        late = Rival(lambda: ask(SAME))
        late.wait_until_blocked()
    with pytest.raises(IdempotencyConflict):
        late.answer()
    assert first.created
    assert Job.objects.count() == 2


def test_another_request_that_waited_for_a_rollback_makes_its_job(standing: Job) -> None:
    with rolled_back():
        ask(SAME)
        late = Rival(lambda: ask(OTHER))
        late.wait_until_blocked()
    [answer] = late.answer()
    assert answer.created


def test_a_repetition_that_waited_is_answered_by_the_job_that_ended_meanwhile(
    standing: Job,
) -> None:
    with transaction.atomic():
        [first] = ask(SAME)
        late = Rival(lambda: ask(SAME))
        late.wait_until_blocked()
        Rival(lambda: end(standing)).answer()
    [answer] = late.answer()
    assert first.job_id == answer.job_id == standing.id
    assert (answer.created, answer.state) == (False, "COMPLETED")


def test_twenty_requests_have_one_answer_while_the_standing_job_ends(standing: Job) -> None:
    asked: list[Any] = race(*[lambda: ask(SAME)] * 20, lambda: end(standing))
    [job_id] = {answer.job_id for [answer] in asked[:20]}
    [again] = ask(SAME)
    assert again.job_id == job_id
    assert IdempotencyKey.objects.count() == 1


def test_a_deletion_that_waited_for_an_answer_forgets_its_key_too(standing: Job) -> None:
    with transaction.atomic():
        ask(SAME)
        Rival(lambda: end(standing)).answer()
        late: Rival[Any] = Rival(lambda: Job.objects.filter(id=standing.id).delete())
        late.wait_until_blocked()
    late.answer()
    assert not IdempotencyKey.objects.exists()


def test_a_lost_answer_of_a_commit_is_the_standing_jobs(standing: Job) -> None:
    with lost_answer():
        [answer] = ask(SAME)
    assert (answer.job_id, answer.created) == (standing.id, False)
    assert IdempotencyKey.objects.get().answered_by == standing.id


def test_keys_are_taken_in_their_order() -> None:
    """Whoever waits for one holds none that comes later, so two sets cannot wait for each other."""
    first, middle, last = (Submission(HANDLER, idempotency_key=key) for key in "abc")
    with transaction.atomic():
        ask(middle)
        late = Rival(lambda: ask(last, middle, first))
        late.wait_until_blocked()
        [free] = Rival(lambda: ask(last)).answer()
    assert late.answer()[0].job_id == free.job_id
