"""Submit: all or nothing, in the caller's transaction too; a refusal names what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from pytest_django import DjangoCaptureOnCommitCallbacks

from jobs import events, lifecycle, registry
from jobs.errors import FieldProblem, IdempotencyConflict, InvalidPayload, UnknownHandler
from jobs.models import AuditEntry, Job, OutboxEntry
from jobs.registry import handler
from jobs.states import ActorKind, JobEvent, JobState
from jobs.values import Actor, Born, Submission
from tests.conftest import JobFactory, UserFactory
from tests.verbs import HANDLER, USER, Facts, claim, finish, rolled_back, statements, submit

pytestmark = pytest.mark.django_db


@pytest.fixture
def anything() -> Iterator[str]:
    """A handler that takes any JSON value."""

    def take(value: Any) -> None: ...

    handler("anything")(take)
    yield "anything"
    del registry._handlers["anything"]


def refusal(*submissions: Submission, kind: type[Exception] = InvalidPayload) -> FieldProblem:
    """Submit what must be refused; nothing may be left of it."""
    with pytest.raises(kind) as caught:
        lifecycle.submit(submissions)
    assert not Job.objects.exists()
    assert not OutboxEntry.objects.exists()
    [problem] = caught.value.problems  # type: ignore[attr-defined]  # every SubmissionError has it
    assert isinstance(problem, FieldProblem)
    return problem


def test_no_submission_is_no_query() -> None:
    with statements() as found:
        assert lifecycle.submit([]) == []
    assert found == []


@pytest.mark.parametrize("count", [1, 100])
def test_one_statement_accepts_all(count: int) -> None:
    with statements() as found:
        accepted = lifecycle.submit([Submission(HANDLER)] * count)
    assert len(found) == 1
    assert len({one.job_id for one in accepted}) == count
    assert {(one.state, one.version, one.created) for one in accepted} == {
        (JobState.PENDING, 1, True)
    }


def test_every_column_is_as_asked(user_factory: UserFactory) -> None:
    user = user_factory()
    due = datetime(2030, 5, 1, 12, tzinfo=UTC)
    submission = Submission(
        HANDLER,
        {"value": "Grüße"},
        owner_id=user.pk,
        priority=7,
        max_attempts=9,
        due_at=due,
        tenant="acme",
        unique_key="u",
        idempotency_key="i",
    )
    actor = Actor(ActorKind.USER, str(user.pk))
    [accepted] = lifecycle.submit([submission], actor=actor, reason="nightly")
    job = Job.objects.get(id=accepted.job_id)
    assert job.payload == {"value": "Grüße"}
    assert (job.owner_id, job.priority, job.max_attempts) == (user.pk, 7, 9)
    assert (job.due_at, job.tenant, job.queue) == (due, "acme", "default")
    assert (job.unique_key, job.idempotency_key) == ("u", "i")
    assert (job.state, job.version, job.attempt) == (JobState.PENDING, 1, 0)
    assert (job.actor_kind, job.actor_id, job.reason) == ("user", str(user.pk), "nightly")
    assert job.result is None
    assert job.started_at is job.finished_at is None


def test_handler_then_settings_give_the_defaults(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(queues=("default", "slow"), max_attempts=4)

    def f() -> None: ...

    handler("slow-one", queue="slow", priority=2, max_attempts=8)(f)
    try:
        [slow, plain] = [submit(handler="slow-one")[0], submit()[0]]
        [urgent] = submit(handler="slow-one", priority=0, max_attempts=1, queue="default")
    finally:
        del registry._handlers["slow-one"]
    assert (slow.queue, slow.priority, slow.max_attempts) == ("slow", 2, 8)
    assert (plain.queue, plain.priority, plain.max_attempts) == ("default", 0, 4)
    assert (urgent.queue, urgent.priority, urgent.max_attempts) == ("default", 0, 1)


def test_ids_are_ordered_by_time() -> None:
    ids = [job.id for _ in range(5) for job in submit(3)]
    assert ids == sorted(ids)
    assert all(job_id.version == 7 for job_id in ids)


def test_a_delay_counts_on_the_databases_clock() -> None:
    [job] = submit(delay_seconds=3600)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT due_at - submitted_at, due_at > now() FROM jobs_job WHERE id = %s",
            [str(job.id)],
        )
        [[delay, later]] = cursor.fetchall()
    assert abs(delay - timedelta(hours=1)) < timedelta(seconds=5)
    assert later
    assert OutboxEntry.objects.get(job_id=job.id).due_at == job.due_at


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"priority": 10}, "priority"),
        ({"priority": -1}, "priority"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1001}, "max_attempts"),
        ({"delay_seconds": -1}, "delay_seconds"),
        ({"delay_seconds": float("nan")}, "delay_seconds"),
        ({"delay_seconds": 367 * 86_400}, "delay_seconds"),
        ({"delay_seconds": 5, "due_at": datetime(2030, 1, 1, tzinfo=UTC)}, "due_at"),
        ({"queue": "nowhere"}, "queue"),
        ({"tenant": "x" * 201}, "tenant"),
        ({"unique_key": "a\x00"}, "unique_key"),
        ({"idempotency_key": "x" * 201}, "idempotency_key"),
        ({"tenant": "\ud800"}, "tenant"),
        ({"payload": {"action": "dance"}}, "payload.action"),
        ({"payload": {"typo": 1}}, "payload.typo"),
    ],
)
def test_a_wrong_field_refuses_all_and_is_named(wrong: dict[str, Any], path: str) -> None:
    good = Submission(HANDLER)
    problem = refusal(good, good, Submission(HANDLER, **wrong))
    assert (problem.path, problem.index) == (path, 2)
    assert problem.message


def test_an_unknown_handler_refuses_all() -> None:
    problem = refusal(Submission(HANDLER), Submission("nobody"), kind=UnknownHandler)
    assert (problem.path, problem.index) == ("handler", 1)
    assert HANDLER in problem.message


@pytest.mark.parametrize(
    "value",
    [
        "a\x00b",
        {"a\x00": 1},
        ["\ud800"],
        float("nan"),
        [float("inf")],
        {"x": float("-inf")},
    ],
    ids=["nul", "nul-key", "surrogate", "nan", "inf", "minus-inf"],
)
def test_json_that_postgresql_cannot_hold_is_refused(anything: str, value: Any) -> None:
    problem = refusal(Submission(anything, {"value": value}))
    assert problem.path.startswith("payload")


@pytest.mark.parametrize("depth", [120, 250, 300, 900, 3000])
def test_deep_nesting_is_refused(anything: str, depth: int) -> None:
    value: Any = "é"
    for _ in range(depth):
        value = {"deeper": value}
    assert refusal(Submission(anything, {"value": value})).path == "payload"


@pytest.mark.parametrize(
    "value", ["\\u0000", "\x01\x7f", "😀", "\u2028", 2**100, -0.0, 1.5e-300, [], {}, None, ""]
)
def test_unusual_but_valid_json_comes_back_the_same(anything: str, value: Any) -> None:
    [job] = submit(handler=anything, payload={"value": value})
    assert job.payload == {"value": value}


def test_a_payload_has_a_limit_in_bytes(anything: str, jobs_settings: Callable[..., None]) -> None:
    jobs_settings(payload_limit_bytes=100)
    submit(handler=anything, payload={"value": "x" * 80})
    with pytest.raises(InvalidPayload, match="at most 100 are allowed"):
        submit(handler=anything, payload={"value": "x" * 90})


# ------------------------------------------------------------------------------- the transaction


def test_a_rollback_of_the_caller_leaves_nothing_and_tells_nothing(
    facts: Facts, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with django_capture_on_commit_callbacks(execute=True), rolled_back():
        submit(3)
    assert not Job.objects.exists()
    assert not AuditEntry.objects.exists()
    assert not OutboxEntry.objects.exists()
    assert facts.all == []


def test_jobs_are_born_with_the_callers_own_rows(
    user_factory: UserFactory, facts: Facts,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:  # fmt: skip
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        user = user_factory()
        [job] = submit(owner_id=user.pk)
        assert facts.all == []
    [told] = facts.of(events.Submitted)
    assert [born.job_id for born in told.jobs] == [job.id]


@pytest.mark.django_db(transaction=True)
def test_a_birth_is_told_with_what_the_job_is(facts: Facts) -> None:
    [one, other] = lifecycle.submit([Submission(HANDLER)] * 2)
    [told] = facts.all
    assert told == events.Submitted(
        (
            Born(one.job_id, None, HANDLER, "default"),
            Born(other.job_id, None, HANDLER, "default"),
        )
    )


@pytest.mark.django_db(transaction=True)
def test_nothing_is_told_of_a_job_that_stood_already(facts: Facts) -> None:
    wish = Submission(HANDLER, idempotency_key="k")
    first = lifecycle.submit([wish])
    facts.all.clear()
    assert [one.job_id for one in lifecycle.submit([wish])] == [one.job_id for one in first]
    assert facts.all == []


@pytest.mark.django_db(transaction=True)
def test_row_audit_and_outbox_share_one_transaction() -> None:
    submit(3)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT j.xmin::text::bigint, a.xmin::text::bigint, o.xmin::text::bigint,"
            " a.txid & (2^32 - 1)::bigint"
            " FROM jobs_job j JOIN jobs_auditentry a ON a.job_id = j.id"
            " JOIN jobs_outboxentry o ON j.id = ANY(o.job_id || o.others)"
        )
        rows = cursor.fetchall()
    assert len(rows) == 3
    assert all(len(set(row)) == 1 for row in rows)
    assert len({row[0] for row in rows}) == 1


# --------------------------------------------------------------------- idempotency and unique keys


def keyed(value: Any = None, key: str = "k", **fields: Any) -> Submission:
    return Submission(HANDLER, {"value": value}, idempotency_key=key, **fields)


def test_the_same_request_again_is_answered_by_the_same_job() -> None:
    [first] = lifecycle.submit([keyed()])
    [again] = lifecycle.submit([keyed()])
    assert (again.job_id, again.created, first.created) == (first.job_id, False, True)
    assert AuditEntry.objects.count() == OutboxEntry.objects.count() == 1


def test_the_answer_says_where_the_job_is_now() -> None:
    [first] = lifecycle.submit([keyed()])
    attempts = claim(Job.objects.all())
    finish(attempts, JobEvent.SUCCEED)
    [again] = lifecycle.submit([keyed()])
    assert (again.job_id, again.state, again.version) == (first.job_id, JobState.COMPLETED, 3)


@pytest.mark.parametrize(
    "other",
    [
        keyed(value=2),
        keyed(priority=5),
        keyed(max_attempts=1),
        keyed(delay_seconds=5),
        keyed(tenant="t"),
        keyed(unique_key="u"),
    ],
)
def test_another_request_under_the_same_key_is_a_conflict(other: Submission) -> None:
    lifecycle.submit([keyed()])
    with pytest.raises(IdempotencyConflict) as caught:
        lifecycle.submit([Submission(HANDLER), other])
    [problem] = caught.value.problems
    assert (problem.index, problem.path) == (1, "idempotency_key")
    assert Job.objects.count() == 1


def test_a_default_that_changed_meanwhile_is_no_conflict(
    jobs_settings: Callable[..., None],
) -> None:
    [first] = lifecycle.submit([keyed()])
    jobs_settings(max_attempts=9, queues=("other", "default"))
    [again] = lifecycle.submit([keyed()])
    assert (again.job_id, again.created) == (first.job_id, False)


def test_keys_belong_to_their_owner(user_factory: UserFactory) -> None:
    owners = [user_factory().pk, user_factory().pk, None]
    accepted = lifecycle.submit([keyed(value=owner, owner_id=owner) for owner in owners])
    assert all(one.created for one in accepted)
    again = lifecycle.submit([keyed(value=owner, owner_id=owner) for owner in reversed(owners)])
    assert [one.job_id for one in again] == [one.job_id for one in reversed(accepted)]


def test_the_same_key_twice_in_one_submit_is_one_job() -> None:
    first, second, other = lifecycle.submit([keyed(), keyed(), keyed(key="l")])
    assert first.job_id == second.job_id != other.job_id
    assert [first.created, second.created, other.created] == [True, False, True]


def test_two_requests_under_one_key_in_one_submit_conflict() -> None:
    with pytest.raises(IdempotencyConflict) as caught:
        lifecycle.submit([keyed(value=1), keyed(value=2)])
    assert caught.value.problems[0].index == 1
    assert not Job.objects.exists()


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.RUNNING])
def test_an_active_job_with_the_unique_key_answers(
    job_factory: JobFactory, state: JobState
) -> None:
    [job] = job_factory(state, unique_key="u")
    [answer] = lifecycle.submit([Submission(HANDLER, {"value": "other"}, unique_key="u")])
    assert (answer.job_id, answer.state, answer.created) == (job.id, state, False)


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
def test_an_ended_job_frees_its_unique_key(job_factory: JobFactory, state: JobState) -> None:
    [job] = job_factory(state, unique_key="u")
    [answer] = lifecycle.submit([Submission(HANDLER, unique_key="u")])
    assert answer.created
    assert answer.job_id != job.id


def test_a_large_repeat_costs_a_fixed_number_of_queries() -> None:
    wishes = [keyed(key=f"k{n}", unique_key=f"u{n}") for n in range(100)]
    first = lifecycle.submit(wishes)
    with statements() as found:
        again = lifecycle.submit(wishes)
    assert [one.job_id for one in again] == [one.job_id for one in first]
    assert len(found) <= 4


def test_answers_keep_the_order_of_a_mixed_submit() -> None:
    [old] = lifecycle.submit([keyed(key="old")])
    answers = lifecycle.submit(
        [Submission(HANDLER, {"value": 0}), keyed(key="old"), Submission(HANDLER, {"value": 2})]
    )
    values: dict[UUID, Any] = dict(Job.objects.values_list("id", "payload__value"))
    assert [values[one.job_id] for one in answers] == [0, None, 2]
    assert answers[1].job_id == old.job_id


def test_people_and_the_system_submit_and_nobody_else() -> None:
    lifecycle.submit([Submission(HANDLER)], actor=USER)
    with pytest.raises(Exception, match="worker may not submit"), transaction.atomic():
        lifecycle.submit([Submission(HANDLER)], actor=Actor(ActorKind.WORKER, "w"))
