"""The database refuses what the table forbids, whoever asks: the ORM, an update, or plain SQL."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from jobs import lifecycle
from jobs.models import AuditEntry, Job, OutboxEntry
from jobs.states import ActorKind, JobEvent, JobState, is_legal
from tests.conftest import JobFactory
from tests.verbs import USER, claim, rolled_back

pytestmark = pytest.mark.django_db

UNSIGNED = 0


@contextmanager
def refused(constraint: str) -> Iterator[None]:
    """The statement inside is refused by this constraint or trigger."""
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        yield
    assert constraint_of(caught.value) == constraint


def constraint_of(error: DatabaseError) -> str | None:
    """The constraint that a statement broke, or that a trigger named."""
    cause = error.__cause__
    return cause.diag.constraint_name if isinstance(cause, psycopg2.Error) else None


def execute(statement: str, *parameters: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return int(cursor.rowcount)


def force(job_id: UUID, target: JobState, **changes: Any) -> None:
    """One step in plain SQL: state, version + 1, and the columns that CHECKs tie to them."""
    running = target is JobState.RUNNING
    final = target not in {JobState.PENDING, JobState.RUNNING}
    before = Job.objects.get(id=job_id)
    stays = running and before.state == JobState.RUNNING
    columns: dict[str, Any] = {
        "state": target.value,
        "version": before.version + 1,
        "attempt": before.attempt + (running and not stays),
        "lease_token": (before.lease_token if stays else uuid4()) if running else None,
        **changes,
    }
    names = ", ".join(f"{name} = %s" for name in columns)
    values = [str(value) if isinstance(value, UUID) else value for value in columns.values()]
    execute(
        f"UPDATE jobs_job SET {names},"
        f" lease_until = {'now()' if running else 'NULL'},"
        f" finished_at = {'now()' if final else 'NULL'} WHERE id = %s",
        *values,
        str(job_id),
    )


def takes(job: Job, target: JobState, event: JobEvent, actor: ActorKind, signed: int) -> bool:
    """Whether the database takes this step; undone in either case."""
    names = {"event": event.value, "actor_kind": actor.value, "actor_id": "x"}
    try:
        with rolled_back():
            force(job.id, target, signed_version=signed, **names)
    except DatabaseError as error:
        if constraint_of(error) != "jobs_job_edge":
            raise
        return False
    return True


@pytest.mark.parametrize("source", list(JobState))
def test_every_signed_step_is_judged_as_the_table_judges_it(
    job_factory: JobFactory, source: JobState
) -> None:
    [job] = job_factory(source)
    steps = product(JobState, JobEvent, ActorKind)
    wrong = [
        (target, event, actor)
        for target, event, actor in steps
        if takes(job, target, event, actor, job.version + 1)
        != (event is not JobEvent.HAND_EDIT and is_legal(source, target, event, actor))
    ]
    assert wrong == []


@pytest.mark.parametrize("source", list(JobState))
def test_every_unsigned_step_is_judged_as_a_hand_edit(
    job_factory: JobFactory, source: JobState
) -> None:
    [job] = job_factory(source)
    taken = {
        target
        for target in JobState
        if takes(job, target, JobEvent.SUCCEED, ActorKind.WORKER, UNSIGNED)
    }
    legal = {
        target
        for target in JobState
        if is_legal(source, target, JobEvent.HAND_EDIT, ActorKind.DATABASE)
    }
    assert taken == legal


def test_every_birth_is_judged_as_the_table_judges_it(job_factory: JobFactory) -> None:
    [job] = job_factory()
    columns = ", ".join(field.column for field in Job._meta.concrete_fields)
    for state, actor, signed in product(JobState, ActorKind, (0, 1)):
        changed = columns.replace("unique_key", "NULL")
        for name, value in {
            "id": f"'{uuid4()}'::uuid",
            "state": f"'{state}'",
            "actor_kind": f"'{actor}'",
            "signed_version": str(signed),
            "lease_token": "gen_random_uuid()" if state == JobState.RUNNING else "NULL::uuid",
            "lease_until": "now()" if state == JobState.RUNNING else "NULL",
            "finished_at": "NULL" if state in {JobState.PENDING, JobState.RUNNING} else "now()",
        }.items():
            changed = ", ".join(value if part == name else part for part in changed.split(", "))
        signer = actor if signed else ActorKind.DATABASE
        insert = f"INSERT INTO jobs_job ({columns}) SELECT {changed} FROM jobs_job WHERE id = %s"
        forged = bool(signed) and actor is ActorKind.DATABASE
        if is_legal(None, state, JobEvent.SUBMIT, signer) and not forged:
            assert execute(insert, str(job.id)) == 1
            entry = AuditEntry.objects.order_by("-at").first()
            assert entry is not None
            assert (entry.event, entry.actor_kind, entry.version) == ("submit", signer, 1)
        else:
            with refused("jobs_job_edge"):
                execute(insert, str(job.id))


@pytest.mark.parametrize(
    "changes",
    [{"version": 2}, {"attempt": 1}, {"failed_attempts": 1}, {"lost_attempts": 1}],
)
def test_a_job_cannot_be_born_with_a_past(changes: dict[str, int]) -> None:
    with refused("jobs_job_edge"):
        Job.objects.create(handler="h", queue="default", max_attempts=3, **changes)


# --------------------------------------------------------------------------------- edits by hand


def test_a_legal_update_by_hand_is_signed_by_the_database(job_factory: JobFactory) -> None:
    [job] = job_factory()
    Job.objects.filter(id=job.id).update(
        state=JobState.CANCELLED, version=F("version") + 1, finished_at=Now()
    )
    entry = AuditEntry.objects.get(job_id=job.id, version=2)
    assert (entry.from_state, entry.to_state) == ("PENDING", "CANCELLED")
    assert (entry.event, entry.actor_kind, entry.actor_id) == (
        "hand_edit",
        "database",
        session_user(),
    )
    assert entry.reason == "changed by hand in SQL"


def test_a_reason_given_by_hand_is_kept(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.FAILED)
    Job.objects.filter(id=job.id).update(
        state=JobState.PENDING, version=F("version") + 1, finished_at=None, reason="disk is back"
    )
    entry = AuditEntry.objects.get(job_id=job.id, version=4)
    assert (entry.actor_kind, entry.reason) == ("database", "disk is back")
    assert OutboxEntry.objects.filter(job_id=job.id, job_version=4).count() == 1


def session_user() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT session_user")
        [name] = cursor.fetchone()
    return str(name)


def test_the_state_cannot_move_without_its_version(job_factory: JobFactory) -> None:
    [job] = job_factory()
    with refused("jobs_job_version"):
        Job.objects.filter(id=job.id).update(state=JobState.CANCELLED, finished_at=Now())


@pytest.mark.parametrize("step", [-1, 0, 2, 100])
def test_no_version_is_skipped_or_taken_back(job_factory: JobFactory, step: int) -> None:
    [job] = job_factory(JobState.FAILED)
    with refused("jobs_job_version"):
        Job.objects.filter(id=job.id).update(
            state=JobState.PENDING, version=F("version") + step, finished_at=None
        )


def test_the_version_alone_cannot_grow(job_factory: JobFactory) -> None:
    [job] = job_factory()
    with refused("jobs_job_edge"):
        Job.objects.filter(id=job.id).update(version=F("version") + 1)


def test_one_bad_row_refuses_the_whole_statement(job_factory: JobFactory) -> None:
    jobs = [*job_factory(count=3), *job_factory(JobState.COMPLETED)]
    with refused("jobs_job_edge"):
        Job.objects.filter(id__in=[job.id for job in jobs]).update(
            state=JobState.CANCELLED, version=F("version") + 1, finished_at=Now()
        )
    assert Job.objects.filter(state=JobState.PENDING).count() == 3


@pytest.mark.parametrize(
    "change",
    [
        {"lease_token": uuid4()},
        {"attempt": 7},
        {"signed_version": 3},
        {"cancel_requested_at": Now()},
    ],
)
def test_columns_of_a_transition_do_not_move_alone(
    job_factory: JobFactory, change: dict[str, Any]
) -> None:
    [job] = job_factory(JobState.RUNNING)
    Job.objects.filter(id=job.id).update(lease_until=Now())  # a heartbeat is no transition
    if "signed_version" in change:
        change = {"signed_version": job.version + 1}
    with refused("jobs_job_version"):
        Job.objects.filter(id=job.id).update(**change)


def test_a_running_job_keeps_its_token_through_a_cancel_request(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.RUNNING)
    with refused("jobs_job_token"):
        force(
            job.id,
            JobState.RUNNING,
            lease_token=uuid4(),
            signed_version=job.version + 1,
            event="request_cancel",
            actor_kind="user",
        )


@pytest.mark.parametrize("extra", [0, 2])
def test_the_attempt_counts_claims(job_factory: JobFactory, extra: int) -> None:
    [job] = job_factory()
    with refused("jobs_job_attempt"):
        force(
            job.id,
            JobState.RUNNING,
            attempt=job.attempt + extra,
            signed_version=2,
            event="claim",
            actor_kind="worker",
        )


def test_a_running_job_needs_a_lease_and_no_other_has_one(job_factory: JobFactory) -> None:
    [waiting] = job_factory()
    with refused("jobs_job_lease"):
        force(waiting.id, JobState.RUNNING, lease_token=None)
    with refused("jobs_job_lease"):
        force(waiting.id, JobState.CANCELLED, lease_token=uuid4())


def test_an_ended_job_has_a_time_and_no_other_has_one(job_factory: JobFactory) -> None:
    [job] = job_factory()
    with refused("jobs_job_finished"):
        Job.objects.filter(id=job.id).update(state=JobState.CANCELLED, version=F("version") + 1)
    with refused("jobs_job_finished"):
        Job.objects.filter(id=job.id).update(finished_at=Now())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", f"'{uuid4()}'"),
        ("handler", "'other'"),
        ("payload", """'{"action": "exit"}'"""),
        ("submitted_at", "now() - interval '1 day'"),
        ("idempotency_key", "'k'"),
    ],
)
def test_what_was_asked_for_never_changes(job_factory: JobFactory, column: str, value: str) -> None:
    [job] = job_factory()
    with refused("jobs_job_fixed"):
        execute(f"UPDATE jobs_job SET {column} = {value} WHERE id = %s", str(job.id))


def test_the_owner_never_changes(job_factory: JobFactory, django_user_model: Any) -> None:
    [job] = job_factory()
    other = django_user_model.objects.create_user("somebody")
    with refused("jobs_job_fixed"):
        Job.objects.filter(id=job.id).update(owner=other)


@pytest.mark.parametrize("priority", [-1, 10])
def test_priorities_are_0_to_9(job_factory: JobFactory, priority: int) -> None:
    [job] = job_factory()
    with refused("jobs_job_priority"):
        Job.objects.filter(id=job.id).update(priority=priority)


# ----------------------------------------------------------------------------- nothing disappears


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.RUNNING])
def test_an_active_job_cannot_be_deleted(job_factory: JobFactory, state: JobState) -> None:
    [job] = job_factory(state)
    with refused("jobs_refused"):
        Job.objects.filter(id=job.id).delete()


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
def test_the_history_outlives_a_deleted_job(job_factory: JobFactory, state: JobState) -> None:
    [job] = job_factory(state)
    entries = AuditEntry.objects.filter(job_id=job.id).count()
    assert Job.objects.filter(id=job.id).delete()[0] == 1
    assert AuditEntry.objects.filter(job_id=job.id).count() == entries == job.version


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE jobs_job",
        "TRUNCATE jobs_auditentry",
        "DELETE FROM jobs_auditentry",
        "UPDATE jobs_auditentry SET reason = 'nicer'",
        "UPDATE jobs_auditentry SET reason = 'nicer' WHERE false",
        "INSERT INTO jobs_auditentry SELECT * FROM jobs_auditentry",
        "INSERT INTO jobs_auditentry SELECT * FROM jobs_auditentry WHERE false",
    ],
)
def test_history_is_not_rewritten(job_factory: JobFactory, statement: str) -> None:
    job_factory()
    execute("SET CONSTRAINTS ALL IMMEDIATE")  # a check that waits would refuse the TRUNCATE first
    with refused("jobs_refused"):
        execute(statement)


def test_the_audit_cannot_be_copied_into() -> None:
    with refused("jobs_refused"), connection.cursor() as cursor, connection.wrap_database_errors:
        cursor.cursor.copy_expert("COPY jobs_auditentry FROM STDIN", io.StringIO(""))


def test_an_edge_taken_twice_is_one_entry(job_factory: JobFactory) -> None:
    [job] = job_factory()
    lifecycle.cancel([job.id], actor=USER)
    lifecycle.cancel([job.id], actor=USER)
    versions = AuditEntry.objects.filter(job_id=job.id).values_list("version", flat=True)
    assert sorted(versions) == [1, 2]
    assert claim([job]) == []
