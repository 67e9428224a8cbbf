"""Column by column: what moves only with a version, what never moves, and what hands may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from jobs import lifecycle, registry, testing
from jobs.context import Context
from jobs.errors import DirectWrite
from jobs.models import AuditEntry, Job
from jobs.states import JobEvent, JobState
from jobs.values import Beat, Outcome
from tests.conftest import JobFactory
from tests.refusals import execute, refused
from tests.verbs import USER, claim, entry, history, submit

pytestmark = pytest.mark.django_db

#: A new value for every column that only a transition may write.
WITH_A_VERSION: dict[str, Any] = {
    "state": JobState.PENDING,
    "lease_token": uuid4(),
    "attempt": 7,
    "failed_attempts": 1,
    "lost_attempts": 1,
    "signed_version": 3,
    "cancel_requested_at": Now(),
    "event": "succeed",
    "actor_kind": "user",
    "actor_id": "somebody else",
    "reason": "another reason",
    "worker": "worker:2",
    "started_at": None,
    "finished_at": Now(),
    "changed_at": Now(),
    "audit_hash": b"",
}
#: A new value, in SQL, for every column that says what was asked for.
NEVER: dict[str, str] = {
    "id": f"'{uuid4()}'",
    "handler": "'other'",
    "payload": """'{"action": "exit"}'""",
    "submitted_at": "now() - interval '1 day'",
    "tenant": "'t'",
    "idempotency_key": "'k'",
    "fingerprint": "'f'",
    "unique_key": "'u'",
}
#: A new value for every column that may change by hand, without a version.
BY_HAND: dict[str, Any] = {
    "queue": "other",
    "priority": 9,
    "due_at": Now() + timedelta(hours=1),
    "max_attempts": 10,
    "lease_until": Now() + timedelta(minutes=1),
    "progress": 0.5,
    "progress_message": "half",
    "progress_seq": F("progress_seq") + 1,
}


def test_every_column_is_judged_here() -> None:
    columns = {field.column for field in Job._meta.concrete_fields}
    apart = {"version", "owner_id", "result"}
    assert columns == {*WITH_A_VERSION, *NEVER, *BY_HAND, *apart}


@pytest.mark.parametrize("column", WITH_A_VERSION)
def test_columns_of_a_transition_do_not_move_alone(job_factory: JobFactory, column: str) -> None:
    [job] = job_factory(JobState.RUNNING)
    with refused("jobs_job_version"):
        Job.objects.filter(id=job.id).update(**{column: WITH_A_VERSION[column]})


@pytest.mark.parametrize("column", NEVER)
def test_what_was_asked_for_never_changes(job_factory: JobFactory, column: str) -> None:
    [job] = job_factory()
    with refused("jobs_job_fixed"):
        execute(f"UPDATE jobs_job SET {column} = {NEVER[column]} WHERE id = %s", str(job.id))


def test_the_owner_never_changes(job_factory: JobFactory, django_user_model: Any) -> None:
    [job] = job_factory()
    other = django_user_model.objects.create_user("somebody")
    with refused("jobs_job_fixed"):
        Job.objects.filter(id=job.id).update(owner=other)


@pytest.mark.parametrize("column", BY_HAND)
def test_what_hands_may_change_is_no_transition(job_factory: JobFactory, column: str) -> None:
    [job] = job_factory(JobState.RUNNING)
    assert Job.objects.filter(id=job.id).update(**{column: BY_HAND[column]}) == 1
    after = Job.objects.get(id=job.id)
    assert getattr(after, column) != getattr(job, column)
    assert (after.version, after.audit_hash) == (job.version, job.audit_hash)
    assert history(job.id) == ["submit", "claim"]


@pytest.mark.parametrize("priority", [-1, 10])
def test_priorities_are_0_to_9(job_factory: JobFactory, priority: int) -> None:
    [job] = job_factory()
    with refused("jobs_job_priority"):
        Job.objects.filter(id=job.id).update(priority=priority)


def test_a_job_has_one_attempt_at_least(job_factory: JobFactory) -> None:
    [job] = job_factory()
    with refused("jobs_job_counts"):
        Job.objects.filter(id=job.id).update(max_attempts=0)


@pytest.mark.parametrize("column", ["priority", "max_attempts", "lease_until", "result"])
def test_a_transition_writes_no_column_against_its_rule(
    job_factory: JobFactory, column: str
) -> None:
    """As its edge is legal, nothing else refuses it."""
    [job] = job_factory(JobState.RUNNING)
    constraint, wrong = {
        "priority": ("jobs_job_priority", 10),
        "max_attempts": ("jobs_job_counts", 0),
        "lease_until": ("jobs_job_lease", Now()),
        "result": ("jobs_job_result", {"answer": 43}),
    }[column]
    changes = {"lease_token": None, "lease_until": None, "finished_at": Now(), column: wrong}
    with refused(constraint):
        Job.objects.filter(id=job.id).update(
            state=JobState.FAILED, version=F("version") + 1, **changes
        )


def test_a_claim_by_hand_takes_no_lease_out_of_reach(job_factory: JobFactory) -> None:
    [job] = job_factory()
    with refused("jobs_refused"):
        Job.objects.filter(id=job.id).update(
            state=JobState.RUNNING, version=F("version") + 1, attempt=1, lease_token=uuid4(),
            lease_until=Now() + timedelta(hours=25),
        )  # fmt: skip


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.RUNNING, JobState.FAILED])
def test_a_result_belongs_to_a_completion(job_factory: JobFactory, state: JobState) -> None:
    [job] = job_factory(state)
    with refused("jobs_job_result"):
        Job.objects.filter(id=job.id).update(result={"answer": 43})


@pytest.mark.parametrize("ahead", ["25 hours", "infinity"])
def test_a_lease_cannot_be_set_out_of_reach(job_factory: JobFactory, ahead: str) -> None:
    """The job of a holder that dies then could never be rescued."""
    [job] = job_factory(JobState.RUNNING)
    until = "'infinity'" if ahead == "infinity" else f"now() + interval '{ahead}'"
    with refused("jobs_refused"):
        execute(f"UPDATE jobs_job SET lease_until = {until} WHERE id = %s", str(job.id))


def test_a_lease_may_be_as_long_as_the_settings_allow(
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(lease_seconds=86_400)
    [attempt] = claim(submit())
    assert lifecycle.heartbeat([Beat(attempt.job_id, attempt.token, 0.5)])[0].held


def test_progress_never_goes_back(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.RUNNING)
    Job.objects.filter(id=job.id).update(progress_seq=5)
    with refused("jobs_refused"):
        Job.objects.filter(id=job.id).update(progress_seq=4)


# --------------------------------------------------------------------------------------- COMPLETED


@pytest.mark.parametrize("column", [*BY_HAND, "result"])
def test_a_completed_job_never_changes(job_factory: JobFactory, column: str) -> None:
    [job] = job_factory(JobState.COMPLETED)
    change = {"result": {"answer": 43}, **BY_HAND}[column]
    with refused("jobs_refused"):
        Job.objects.filter(id=job.id).update(**{column: change})
    assert Job.objects.get(id=job.id).result == {"answer": 42}


def test_not_even_to_what_it_is(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.COMPLETED)
    with refused("jobs_refused"):
        execute("UPDATE jobs_job SET queue = queue WHERE id = %s", str(job.id))


def test_a_holder_that_comes_late_touches_nothing() -> None:
    [attempt] = claim(submit())
    done = Outcome(attempt, JobEvent.SUCCEED, result=1)
    assert not lifecycle.finish([done], worker="w")[0].fenced
    assert not lifecycle.heartbeat([Beat(attempt.job_id, attempt.token, 0.5)])[0].held
    assert not lifecycle.finish([done], worker="w")[0].fenced
    assert history(attempt.job_id) == ["submit", "claim", "succeed"]


# ------------------------------------------------------------------------------------ from Python


def _fresh() -> Job:
    job: Job = Job(handler="h", queue="default", max_attempts=3)
    return job


DIRECT: dict[str, Callable[[Job], Any]] = {
    "save": lambda job: job.save(),
    "save of some fields": lambda job: job.save(update_fields=["queue"]),
    "asave": lambda job: async_to_sync(job.asave)(),
    "delete": lambda job: job.delete(),
    "adelete": lambda job: async_to_sync(job.adelete)(),
    "create": lambda _: Job.objects.create(handler="h", queue="default", max_attempts=3),
    "get_or_create": lambda _: Job.objects.get_or_create(id=uuid4(), max_attempts=3),
    "update_or_create": lambda job: Job.objects.update_or_create({"priority": 3}, id=job.id),
    "bulk_create": lambda _: Job.objects.bulk_create([_fresh()]),
    "bulk_update": lambda job: Job.objects.bulk_update([job], ["priority"]),
}


@pytest.mark.parametrize("call", DIRECT)
@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.CANCELLED])
def test_the_orm_writes_no_rows(job_factory: JobFactory, state: JobState, call: str) -> None:
    [job] = job_factory(state)
    with pytest.raises(DirectWrite, match=r"jobs\.client\.submit"):
        DIRECT[call](job)
    assert Job.objects.get().version == job.version


def _now_done(job_id: Any) -> None:
    Job.objects.filter(id=job_id).update(
        state=JobState.COMPLETED,
        version=F("version") + 1,
        finished_at=Now(),
        lease_token=None,
        lease_until=None,
        result={"by": "hand"},
    )


FROM_A_HANDLER: dict[str, Callable[[Any], Any]] = {
    "save": lambda job_id: Job.objects.get(id=job_id).save(),
    "delete": lambda job_id: Job.objects.filter(id=job_id).delete(),
    "state": lambda job_id: Job.objects.filter(id=job_id).update(state="COMPLETED"),
    "result": lambda job_id: Job.objects.filter(id=job_id).update(result={"by": "hand"}),
    "token": lambda job_id: Job.objects.filter(id=job_id).update(lease_token=uuid4()),
    "charges": lambda job_id: Job.objects.filter(id=job_id).update(failed_attempts=0, attempt=0),
    "lease": lambda job_id: execute(
        "UPDATE jobs_job SET lease_until = 'infinity' WHERE id = %s", str(job_id)
    ),
}


@pytest.fixture
def meddler() -> Iterator[None]:
    """The handler ``test-meddler``, which writes its own row in a named way."""

    @registry.handler("test-meddler", max_attempts=1)
    def meddle(way: str, *, context: Context) -> dict[str, str]:
        with transaction.atomic():  # so that a refusal leaves the test's own transaction alive
            ({**FROM_A_HANDLER, "by hand": _now_done})[way](context.job_id)
        return {"by": "handler"}

    yield
    del registry._handlers["test-meddler"]


@pytest.mark.parametrize("way", FROM_A_HANDLER)
@pytest.mark.usefixtures("meddler")
def test_a_handler_that_writes_its_own_row_fails(way: str) -> None:
    [job] = submit(handler="test-meddler", payload={"way": way})
    testing.run_inline()
    after = Job.objects.get(id=job.id)
    assert (after.state, after.failed_attempts, after.result) == (JobState.FAILED, 1, None)
    assert history(job.id) == ["submit", "claim", "fail"]


@pytest.mark.usefixtures("meddler")
def test_a_handler_that_completes_by_hand_is_signed_for_and_fenced() -> None:
    """Legal and audited, as in psql; what the handler returns afterwards is not taken."""
    [job] = submit(handler="test-meddler", payload={"way": "by hand"})
    [settled] = testing.run_inline()
    assert settled.fenced
    assert Job.objects.get(id=job.id).result == {"by": "hand"}
    assert history(job.id) == ["submit", "claim", "hand_edit"]
    assert entry(job.id).actor_id == _session_user()


def _session_user() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT session_user")
        [name] = cursor.fetchone()
    return str(name)


def test_a_final_job_is_deleted_by_a_queryset(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.CANCELLED)
    lifecycle.reopen([job.id], actor=USER)
    lifecycle.cancel([job.id], actor=USER)
    assert Job.objects.filter(id=job.id).delete()[0] == 1
    assert AuditEntry.objects.filter(job_id=job.id).count() == 4
