"""Single submits of several threads at once: one transaction, and every promise as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import IntegrityError, connection, transaction

from jobs import lifecycle
from jobs.errors import UnknownHandler
from jobs.lifecycle import submitting
from jobs.models import AuditEntry, Job
from jobs.states import ActorKind
from jobs.values import Accepted, Actor, Submission
from tests.conftest import UserFactory
from tests.rivals import Rival, until
from tests.verbs import HANDLER

pytestmark = pytest.mark.django_db(transaction=True)

ALICE, BOB = (Actor(ActorKind.USER, name) for name in ("1", "2"))
#: Two that wait each for themselves, and those who come meanwhile.
ALONE = 2


def asking(submission: Submission, actor: Actor = ALICE) -> Rival[Accepted]:
    """Somebody who submits; begun when everybody before is waiting."""
    before = _waiting()
    rival = Rival(lambda: lifecycle.submit_together(submission, actor=actor))
    until(lambda: _waiting() > before)
    return rival


def _waiting() -> int:
    return submitting._together._under_way + len(submitting._together._waiting)


@contextmanager
def nothing_is_inserted() -> Iterator[None]:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE jobs_job IN SHARE MODE")
        yield


def transactions() -> set[int]:
    return set(AuditEntry.objects.values_list("txid", flat=True))


def test_who_comes_while_two_are_under_way_shares_a_transaction() -> None:
    with nothing_is_inserted():
        rivals = [
            asking(Submission(HANDLER, {}, tenant=str(number)), (ALICE, BOB)[number % 2])
            for number in range(10)
        ]
    accepted = [rival.answer() for rival in rivals]
    assert len(transactions()) == ALONE + 1
    tenants = dict(Job.objects.values_list("id", "tenant"))
    assert [tenants[one.job_id] for one in accepted] == [str(number) for number in range(10)]
    signed = dict(AuditEntry.objects.values_list("job_id", "actor_id"))
    assert [signed[one.job_id] for one in accepted] == ["1", "2"] * 5
    assert all(one.created and one.version == 1 for one in accepted)


def test_what_the_database_refuses_of_one_costs_the_others_nothing() -> None:
    stranger = Submission(HANDLER, owner_id=2**31 - 1)
    with nothing_is_inserted():
        first = [asking(Submission(HANDLER)) for _ in range(ALONE)]
        rivals = [asking(Submission(HANDLER)), asking(stranger), asking(Submission(HANDLER))]
    with pytest.raises(IntegrityError):
        rivals.pop(1).answer()
    ids = {rival.answer().job_id for rival in (*first, *rivals)}
    assert ids == set(Job.objects.values_list("id", flat=True))
    assert len(ids) == ALONE + 2


def test_bad_input_never_meets_the_others() -> None:
    with pytest.raises(UnknownHandler):
        lifecycle.submit_together(Submission("nobody"))


def test_a_group_whose_session_is_ended_is_accepted_once() -> None:
    with nothing_is_inserted():
        rivals = [asking(Submission(HANDLER)) for _ in range(6)]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE cardinality(pg_blocking_pids(pid)) > 0 AND datname = current_database()"
            )
            assert cursor.fetchone() == (ALONE,)
    ids = {rival.answer().job_id for rival in rivals}
    assert ids == set(Job.objects.values_list("id", flat=True))
    assert len(ids) == 6


def test_jobs_with_keys_and_those_of_a_callers_transaction_go_by_themselves(
    user_factory: UserFactory,
) -> None:
    owner = user_factory().pk
    keyed = Submission(HANDLER, owner_id=owner, idempotency_key="k")
    with nothing_is_inserted():
        first = [asking(Submission(HANDLER)) for _ in range(ALONE)]
        late = Rival(lambda: lifecycle.submit_together(keyed))
        late.wait_until_blocked()
        inside = lifecycle.submit_together(Submission(HANDLER))
    late.answer()
    for rival in first:
        rival.answer()
    again = lifecycle.submit_together(keyed)
    assert (again.job_id, again.created) == (late.answer().job_id, False)
    assert Job.objects.filter(id=inside.job_id).exists()
    assert len(transactions()) == ALONE + 2
