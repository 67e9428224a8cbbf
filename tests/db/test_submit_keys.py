"""Keys across owners, and idempotency keys of requests that a standing job answered."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from jobs import lifecycle
from jobs.errors import IdempotencyConflict
from jobs.models import Job
from jobs.states import JobEvent
from jobs.values import Accepted, Submission
from tests.conftest import UserFactory
from tests.verbs import HANDLER, USER, claim, finish, submit

pytestmark = pytest.mark.django_db


def wish(key: str | None = "k", unique: str | None = "u", **fields: Any) -> Submission:
    return Submission(HANDLER, idempotency_key=key, unique_key=unique, **fields)


def ask(*wishes: Submission) -> list[Accepted]:
    return lifecycle.submit(wishes)


def end(*jobs: Job) -> None:
    finish(claim(jobs), JobEvent.SUCCEED)


# ------------------------------------------------------------------------------ unique keys, owners


def test_another_owners_unique_key_is_nobody_elses(user_factory: UserFactory) -> None:
    owners = [user_factory().pk, user_factory().pk, None]
    first = ask(*(wish(None, owner_id=owner) for owner in owners))
    assert [one.created for one in first] == [True, True, True]
    again = ask(*(wish(None, owner_id=owner) for owner in reversed(owners)))
    assert [one.job_id for one in again] == [one.job_id for one in reversed(first)]
    assert not any(one.created for one in again)


def test_the_system_has_one_active_job_per_unique_key() -> None:
    [job] = submit(unique_key="u")
    with pytest.raises(IntegrityError, match="jobs_job_unique_key"), transaction.atomic():
        copy_of(job)


def copy_of(job: Job) -> None:
    """Insert the job a second time, as nothing but the constraints would refuse it."""
    names = ", ".join(
        field.column
        for field in Job._meta.concrete_fields
        if field.column not in {"id", "audit_hash", "changed_at"}
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO jobs_job (id, {names})"
            f" SELECT gen_random_uuid(), {names} FROM jobs_job WHERE id = %s",
            [str(job.id)],
        )


def test_a_job_is_reopened_beside_another_owners_with_its_unique_key(
    user_factory: UserFactory,
) -> None:
    [mine] = submit(unique_key="u", owner_id=user_factory().pk)
    lifecycle.cancel([mine.id], actor=USER)
    submit(unique_key="u", owner_id=user_factory().pk)
    [changed] = lifecycle.reopen([mine.id], actor=USER)
    assert changed.event is JobEvent.REOPEN


# ------------------------------------------------------ idempotency keys that made no job of theirs


def test_a_request_that_a_standing_job_answered_is_answered_by_it_for_ever() -> None:
    [standing] = submit(unique_key="u")
    [first] = ask(wish())
    end(standing)
    [again] = ask(wish())
    assert first.job_id == again.job_id == standing.id
    assert (again.created, again.state) == (False, "COMPLETED")
    assert Job.objects.count() == 1


def test_a_key_that_a_standing_job_answered_takes_no_other_request() -> None:
    [standing] = submit(unique_key="u")
    ask(wish())
    for other in (wish(priority=5), wish(unique=None), wish(unique="v")):
        with pytest.raises(IdempotencyConflict):
            ask(Submission(HANDLER), other)
    end(standing)
    for other in (wish(priority=5), wish(unique=None), wish(unique="v")):
        with pytest.raises(IdempotencyConflict) as caught:
            ask(Submission(HANDLER), other)
        [problem] = caught.value.problems
        assert (problem.index, problem.path) == (1, "idempotency_key")
    assert Job.objects.count() == 1


def test_one_standing_job_may_answer_many_keys(user_factory: UserFactory) -> None:
    owner = user_factory().pk
    [standing] = submit(unique_key="u", owner_id=owner)
    wishes = [wish(f"k{number}", owner_id=owner) for number in range(3)]
    first = ask(*wishes)
    end(standing)
    again = ask(*reversed(wishes))
    assert {one.job_id for one in [*first, *again]} == {standing.id}


def test_a_mixture_is_answered_the_same_after_all_has_ended() -> None:
    [standing] = submit(unique_key="u")
    wishes = [
        wish("new", None),
        wish("absorbed"),
        wish("first", "v"),
        wish("absorbed"),
        wish("second", "v"),
        wish("new", None),
    ]
    first = ask(*wishes, wish(None, None), wish(None))
    assert [one.created for one in first] == [True, False, True, False, False, False, True, False]
    assert first[0].job_id == first[5].job_id
    assert {first[1].job_id, first[3].job_id, first[7].job_id} == {standing.id}
    assert first[2].job_id == first[4].job_id
    end(*Job.objects.all())
    again = ask(*wishes)
    assert [one.job_id for one in again] == [one.job_id for one in first[:6]]
    assert not any(one.created for one in again)


def test_two_requests_under_one_key_conflict_also_where_the_first_is_answered() -> None:
    submit(unique_key="u")
    with pytest.raises(IdempotencyConflict) as caught:
        ask(wish(), wish(priority=5))
    assert caught.value.problems[0].index == 1


def test_a_refused_submit_leaves_its_keys_free() -> None:
    submit(unique_key="u")
    ask(wish("taken", None))
    with pytest.raises(IdempotencyConflict):
        ask(wish("free"), wish("taken", "other"))
    [answer] = ask(wish("free", None))
    assert answer.created


def test_a_key_is_free_again_once_the_job_that_answered_it_is_deleted() -> None:
    [standing, bystander] = [*submit(unique_key="u"), *submit(idempotency_key="other")]
    ask(wish())
    end(standing, bystander)
    Job.objects.filter(id=standing.id).delete()
    [new, kept] = ask(wish(), wish("other", None))
    assert (new.created, kept.created) == (True, False)
    assert kept.job_id == bystander.id


def test_a_key_that_somebody_wrote_by_hand_is_known_too() -> None:
    """As processes of the release before wrote it: in the job's row and nowhere else."""
    [job] = ask(wish(unique=None))
    forget_all_keys()
    for _ in range(2):
        [answer] = ask(wish(unique=None))
        assert (answer.job_id, answer.created) == (job.job_id, False)
        with pytest.raises(IdempotencyConflict):
            ask(wish(unique=None, priority=5))


def forget_all_keys() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM jobs_idempotencykey")
