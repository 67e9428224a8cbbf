"""The database refuses what the table forbids, whoever asks: the ORM, an update, or plain SQL."""

from __future__ import annotations

import io
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, connection
from django.db.models import F
from django.db.models.functions import Now

from jobs import lifecycle
from jobs.models import AuditEntry, Job, OutboxEntry
from jobs.states import ActorKind, JobEvent, JobState, is_legal
from tests.conftest import JobFactory
from tests.refusals import constraint_of, execute, force, refused, triggers_off
from tests.verbs import USER, claim, entry, lapse, rolled_back

pytestmark = pytest.mark.django_db

UNSIGNED = 0


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
    lapse([job])  # or no rescuer might take it
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
            newest = AuditEntry.objects.order_by("-at").first()
            assert newest is not None
            assert (newest.event, newest.actor_kind, newest.version) == ("submit", signer, 1)
        else:
            with refused("jobs_job_edge"):
                execute(insert, str(job.id))


def born(**changes: Any) -> None:
    """Insert a job, or not, in plain SQL."""
    columns: dict[str, Any] = {
        "id": str(uuid4()), "handler": "h", "queue": "default", "priority": 0, "tenant": "",
        "payload": "{}", "state": "PENDING", "version": 1, "attempt": 0, "failed_attempts": 0,
        "lost_attempts": 0, "max_attempts": 3, "worker": "", "progress": 0, "progress_seq": 0,
        "progress_message": "", "event": "submit", "actor_kind": "system", "actor_id": "",
        "reason": "", "signed_version": 1, **changes,
    }  # fmt: skip
    places = ", ".join(["%s"] * len(columns))
    execute(f"INSERT INTO jobs_job ({', '.join(columns)}) VALUES ({places})", *columns.values())


@pytest.mark.parametrize(
    "changes",
    [{"version": 2}, {"attempt": 1}, {"failed_attempts": 1}, {"lost_attempts": 1}],
)
def test_a_job_cannot_be_born_with_a_past(changes: dict[str, int]) -> None:
    with refused("jobs_job_edge"):
        born(**changes)


@pytest.mark.parametrize(
    ("constraint", "changes"),
    [
        ("jobs_job_lease", {"lease_token": str(uuid4())}),
        ("jobs_job_lease", {"lease_until": "2020-01-01"}),
        ("jobs_job_finished", {"finished_at": "2030-01-01"}),
        ("jobs_job_result", {"result": "1"}),
        ("jobs_job_counts", {"max_attempts": 0}),
        ("jobs_job_priority", {"priority": -1}),
        ("jobs_job_priority", {"priority": 10}),
        ("jobs_refused", {"progress_seq": -1}),
    ],
)
def test_a_job_is_not_born_against_the_rules_of_a_row(
    constraint: str, changes: dict[str, Any]
) -> None:
    with refused(constraint):
        born(**changes)


# --------------------------------------------------------------------------------- edits by hand


def test_a_legal_update_by_hand_is_signed_by_the_database(job_factory: JobFactory) -> None:
    [job] = job_factory()
    Job.objects.filter(id=job.id).update(
        state=JobState.CANCELLED, version=F("version") + 1, finished_at=Now()
    )
    found = entry(job.id, 2)
    assert (found.from_state, found.to_state) == ("PENDING", "CANCELLED")
    assert (found.event, found.actor_kind, found.actor_id) == (
        "hand_edit",
        "database",
        session_user(),
    )
    assert found.reason == "changed by hand in SQL"


def test_a_reason_given_by_hand_is_kept(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.FAILED)
    Job.objects.filter(id=job.id).update(
        state=JobState.PENDING, version=F("version") + 1, finished_at=None, reason="disk is back"
    )
    found = entry(job.id, 4)
    assert (found.actor_kind, found.reason) == ("database", "disk is back")
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


# ------------------------------------------------------------------- leases, charges, COMPLETED

BY_RESCUER = [
    (JobEvent.RESCUE, JobState.PENDING),
    (JobEvent.FAIL, JobState.FAILED),
    (JobEvent.CANCEL, JobState.CANCELLED),
]


@pytest.mark.parametrize(("event", "target"), BY_RESCUER)
def test_no_rescuer_takes_a_lease_that_holds(
    job_factory: JobFactory, event: JobEvent, target: JobState
) -> None:
    [job] = job_factory(JobState.RUNNING)
    signed = {"signed_version": 3, "event": event.value, "actor_kind": "rescuer"}
    with refused("jobs_job_held"):
        force(job.id, target, **signed)
    lapse([job])
    force(job.id, target, **signed)
    found = entry(job.id)
    assert found.lease_until is not None
    assert found.lease_until < found.at


@pytest.mark.parametrize("signed", [UNSIGNED, 3])
def test_others_end_an_attempt_whose_lease_holds(job_factory: JobFactory, signed: int) -> None:
    """Its holder, and whoever does it by hand: the holder then finds its token gone."""
    [job] = job_factory(JobState.RUNNING)
    force(job.id, JobState.PENDING, signed_version=signed, event="release", actor_kind="worker")
    found = entry(job.id)
    assert found.lease_until == job.lease_until
    assert found.actor_kind == ("worker" if signed else "database")


def test_only_entries_out_of_running_name_a_lease(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.RUNNING)
    lifecycle.cancel([job.id], actor=USER)
    lapse([job])
    lifecycle.rescue(limit=1, actor_id="r")
    lifecycle.reopen([job.id], actor=USER)
    entries = AuditEntry.objects.filter(job_id=job.id).order_by("version")
    named = [one.event for one in entries if one.lease_until is not None]
    assert named == ["cancel"]
    assert [one.event for one in entries][-3:] == ["request_cancel", "cancel", "reopen"]


CHARGES = {
    "retry": (JobState.PENDING, "worker", (1, 0)),
    "fail": (JobState.FAILED, "worker", (1, 0)),
    "release": (JobState.PENDING, "worker", (0, 0)),
    "succeed": (JobState.COMPLETED, "worker", (0, 0)),
    "rescue": (JobState.PENDING, "rescuer", (0, 1)),
    "by hand": (JobState.PENDING, "", (0, 0)),
}


@pytest.mark.parametrize("event", CHARGES)
def test_charges_follow_from_the_event(job_factory: JobFactory, event: str) -> None:
    target, actor, due = CHARGES[event]
    [job] = job_factory(JobState.RUNNING)
    lapse([job])
    signed = {"signed_version": 3, "event": event, "actor_kind": actor} if actor else {}
    for charged in product(range(3), range(3)):
        counts = {"failed_attempts": charged[0], "lost_attempts": charged[1]}
        if charged != due:
            with refused("jobs_job_charges"):
                force(job.id, target, **signed, **counts)
    force(job.id, target, **signed, failed_attempts=due[0], lost_attempts=due[1])


def test_only_a_reopening_forgives(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.FAILED)
    with refused("jobs_job_charges"):
        force(job.id, JobState.PENDING, failed_attempts=0)
    with refused("jobs_job_charges"):
        force(
            job.id,
            JobState.PENDING,
            signed_version=4,
            event="reopen",
            actor_kind="admin",
            failed_attempts=1,
        )
    lifecycle.reopen([job.id], actor=USER)
    assert Job.objects.get(id=job.id).failed_attempts == 0


def test_a_running_job_needs_a_lease_and_no_other_has_one(job_factory: JobFactory) -> None:
    [waiting] = job_factory()
    with refused("jobs_job_lease"):
        force(waiting.id, JobState.RUNNING, lease_token=None)
    with refused("jobs_job_lease"):
        force(waiting.id, JobState.CANCELLED, lease_token=uuid4())
    with refused("jobs_job_lease"):
        Job.objects.filter(id=waiting.id).update(lease_until=Now())
    [running] = job_factory(JobState.RUNNING)
    with refused("jobs_job_lease"):
        Job.objects.filter(id=running.id).update(lease_until=None)


def test_a_token_without_a_run_is_refused_by_the_table_itself(job_factory: JobFactory) -> None:
    """Also where the triggers are off."""
    [waiting], [running] = job_factory(), job_factory(JobState.RUNNING)
    for job, token in ((waiting, uuid4()), (running, None)):
        with refused("jobs_job_lease"), triggers_off():
            Job.objects.filter(id=job.id).update(lease_token=token)


def test_an_ended_job_has_a_time_and_no_other_has_one(job_factory: JobFactory) -> None:
    [job] = job_factory()
    with refused("jobs_job_finished"):
        Job.objects.filter(id=job.id).update(state=JobState.CANCELLED, version=F("version") + 1)
    with refused("jobs_job_finished"):
        Job.objects.filter(id=job.id).update(
            state=JobState.RUNNING, version=F("version") + 1, attempt=1, lease_token=uuid4(),
            lease_until=Now(), finished_at=Now(),
        )  # fmt: skip


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
