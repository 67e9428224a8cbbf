"""Submits of many jobs: checked in one thread while the database inserts, accepted as one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from django.db import connection, transaction

from jobs import events, lifecycle, registry
from jobs.errors import InvalidPayload
from jobs.lifecycle import submitting
from jobs.lifecycle.submitting import FIRST_PART, GROWTH, PART, SHORT
from jobs.models import AuditEntry, Job, OutboxEntry
from jobs.registry import handler
from jobs.values import Submission
from tests.concurrency.test_submit_together import nothing_is_inserted
from tests.rivals import Rival, until
from tests.verbs import HANDLER, Facts, doorbells, lost_answer, rolled_back, statements

pytestmark = pytest.mark.django_db(transaction=True)

MANY = 2 * SHORT + 7


def wishes(count: int = MANY, **fields: Any) -> list[Submission]:
    return [Submission(HANDLER, {"value": number}, **fields) for number in range(count)]


def accepted_once(count: int = MANY) -> bool:
    """Whether so many jobs are there, numbered in order, with an entry and a doorbell each."""
    values = [
        payload["value"] for payload in Job.objects.order_by("id").values_list("payload", flat=True)
    ]
    told = (AuditEntry.objects.count(), len(doorbells()))
    return values == list(range(count)) and told == (count, count)


@pytest.fixture
def checked() -> Iterator[list[int]]:
    """In which threads the payloads of the handler "checked" were checked."""
    threads: list[int] = []

    def note(_: Any, __: int | None) -> Mapping[str, str]:
        threads.append(threading.get_ident())
        return {}

    def take(value: int) -> None: ...

    handler("checked", check=note)(take)
    yield threads
    del registry._handlers["checked"]


def test_many_are_accepted_in_one_transaction_and_in_their_order(facts: Facts) -> None:
    with statements() as found:
        answers = lifecycle.submit(wishes())
    assert len(found) == 5
    assert accepted_once()
    assert [one.job_id for one in answers] == list(
        Job.objects.order_by("id").values_list("id", flat=True)
    )
    assert all(one.created for one in answers)
    assert AuditEntry.objects.values("txid").distinct().count() == 1
    [told] = facts.of(events.Submitted)
    assert [born.job_id for born in told.jobs] == [one.job_id for one in answers]


def test_parts_grow_up_to_a_size() -> None:
    sizes = [len(part) for part in submitting._parted(wishes(3000))]
    assert sizes[:3] == [FIRST_PART, int(FIRST_PART * GROWTH), int(FIRST_PART * GROWTH**2)]
    assert sum(sizes) == 3000
    assert max(sizes) == PART
    assert sizes[:-1] == sorted(sizes[:-1])


def test_the_next_are_checked_while_the_first_are_inserted(checked: list[int]) -> None:
    asked: list[int] = []

    def ask() -> None:
        asked.append(threading.get_ident())
        lifecycle.submit([Submission("checked", {"value": number}) for number in range(MANY)])

    with nothing_is_inserted():
        rival = Rival(ask)
        rival.wait_until_blocked()
        until(lambda: len(checked) == FIRST_PART + int(FIRST_PART * GROWTH))
    rival.answer()
    # Checks are the handlers' code: they find their own thread, with its connections and context.
    assert checked == asked * MANY
    assert Job.objects.count() == MANY


def test_all_that_is_wrong_is_named_and_nothing_is_left() -> None:
    many = wishes()
    wrong = [SHORT + 1, MANY - 1]
    for index in wrong:
        many[index] = Submission(HANDLER, {}, queue="elsewhere")
    with pytest.raises(InvalidPayload) as caught:
        lifecycle.submit(many)
    assert [(one.index, one.path) for one in caught.value.problems] == [(n, "queue") for n in wrong]
    assert not Job.objects.exists()
    assert not OutboxEntry.objects.exists()


def test_a_rollback_of_the_caller_takes_all_parts_back() -> None:
    with rolled_back():
        lifecycle.submit(wishes())
        assert accepted_once()
    assert not Job.objects.exists()


def test_a_session_that_ends_in_the_middle_costs_nothing() -> None:
    with nothing_is_inserted():
        rival = Rival(lambda: lifecycle.submit(wishes()))
        rival.wait_until_blocked()
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE cardinality(pg_blocking_pids(pid)) > 0 AND datname = current_database()"
            )
            assert cursor.fetchone() == (1,)
    assert all(one.created for one in rival.answer())
    assert accepted_once()


@pytest.mark.parametrize("count", [1, SHORT, MANY])
def test_a_commit_whose_answer_is_lost_is_recognised(count: int) -> None:
    with lost_answer():
        answers = lifecycle.submit(wishes(count))
    assert all(one.created for one in answers)
    assert len({one.job_id for one in answers}) == count
    assert accepted_once(count)


def test_jobs_with_keys_are_inserted_together() -> None:
    """Their keys are taken in one order, whatever the order of the request."""
    many = [Submission(HANDLER, {"value": n}, idempotency_key=f"k{-n}") for n in range(MANY)]
    with statements() as found:
        lifecycle.submit(many)
    assert len(found) == 2
    assert accepted_once()


def test_what_is_not_alike_is_inserted_with_what_is() -> None:
    """Every column of every shape arrives, whichever way its row took."""
    shapes: list[dict[str, Any]] = [
        {"priority": 3},
        {"tenant": "t"},
        {"delay_seconds": 60.0},
        {"max_attempts": 7},
    ]
    rare = [Submission(HANDLER, {"value": n}, **shapes[n]) for n in range(len(shapes))]
    common = [Submission(HANDLER, {"value": n + len(rare)}, priority=5) for n in range(40)]
    with transaction.atomic(), statements() as found:
        answers = lifecycle.submit([*rare, *common])
    assert [sql.count("jobs_submit_v2(") for sql in found] == [1]
    assert accepted_once(44)
    jobs = Job.objects.in_bulk([one.job_id for one in answers])
    first = [jobs[one.job_id] for one in answers[:4]]
    assert [job.priority for job in first] == [3, 0, 0, 0]
    assert [job.tenant for job in first] == ["", "t", "", ""]
    assert [job.due_at > job.submitted_at for job in first] == [False, False, True, False]
    assert [job.max_attempts for job in first][3] == 7
    assert {jobs[one.job_id].priority for one in answers[4:]} == {5}
