"""Migrations from nothing, backwards and forwards again, on a database of their own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from pytest_django import DjangoDbBlocker

from jobs.models import AuditEntry, Job
from tests.chain import whole

ALIAS = "scratch"

TRIGGERS = {
    ("jobs_job", "jobs_guard_transition"),
    ("jobs_job", "jobs_guard_fixed"),
    ("jobs_job", "jobs_guard_birth"),
    ("jobs_job", "jobs_record_birth"),
    ("jobs_job", "jobs_record_transition"),
    ("jobs_job", "jobs_keep_active"),
    ("jobs_job", "jobs_keep_all"),
    ("jobs_auditentry", "jobs_audit_append_only"),
    ("jobs_auditentry", "jobs_audit_own_hand"),
}

BIRTH = """
    INSERT INTO jobs_job (id, handler, queue, priority, tenant, payload, state, version, attempt,
        failed_attempts, lost_attempts, max_attempts, worker, progress, progress_message,
        progress_seq, event, actor_kind, actor_id, reason, signed_version)
    VALUES (%s, 'h', 'default', 0, '', '{}', 'PENDING', 1, 0, 0, 0, 3, '', 0, '', 0, 'submit',
        'system', '', '', 1)
"""

CLAIM = """
    UPDATE jobs_job SET state = 'RUNNING', version = version + 1, signed_version = version + 1,
        attempt = attempt + 1, event = 'claim', actor_kind = 'worker', actor_id = 'w', reason = '',
        lease_token = gen_random_uuid(), lease_until = now() WHERE id = %s
"""
SUCCEED = """
    UPDATE jobs_job SET state = 'COMPLETED', version = version + 1, signed_version = version + 1,
        event = 'succeed', actor_kind = 'worker', actor_id = 'w', reason = 'fünf "Zeilen"\t\x01',
        lease_token = NULL, lease_until = NULL, finished_at = now(), result = '1' WHERE id = %s
"""
RELEASE = """
    UPDATE jobs_job SET state = 'PENDING', version = version + 1, signed_version = version + 1,
        event = 'release', actor_kind = 'worker', actor_id = 'w', reason = 'stopping',
        lease_token = NULL, lease_until = NULL WHERE id = %s
"""


@pytest.fixture
def scratch(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[BaseDatabaseWrapper]:
    """An empty database."""
    name = f"{connection.settings_dict['NAME']}_{uuid4().hex[:8]}"
    with django_db_blocker.unblock():
        execute(connection, f'CREATE DATABASE "{name}"')
        other = connection.copy(alias=ALIAS)
        other.settings_dict["NAME"] = name
        connections[ALIAS] = other
        yield other
        other.close()
        del connections[ALIAS]
        execute(connection, f'DROP DATABASE "{name}"')
        connection.close()


def execute(on: Any, statement: str, *parameters: Any) -> list[Any]:
    with on.cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return list(cursor.fetchall()) if cursor.description else []


def migrate(on: BaseDatabaseWrapper, name: str | None) -> None:
    """Bring the app to this migration (None: before the first), its dependencies as needed."""
    executor = MigrationExecutor(on)
    executor.migrate([("jobs", name)])


def latest() -> str:
    loader = MigrationLoader(None)
    [(_, name)] = loader.graph.leaf_nodes("jobs")
    return str(name)


def triggers(on: BaseDatabaseWrapper) -> set[tuple[str, str]]:
    rows = execute(
        on,
        "SELECT tgrelid::regclass::text, tgname FROM pg_trigger"
        " WHERE NOT tgisinternal AND tgenabled = 'O'",
    )
    return set(rows)


def leftovers(on: BaseDatabaseWrapper) -> set[str]:
    """Tables and functions of ours."""
    rows = execute(
        on,
        "SELECT relname FROM pg_class WHERE relname LIKE 'jobs\\_%'"
        " UNION SELECT proname FROM pg_proc WHERE proname LIKE 'jobs\\_%'",
    )
    return {name for (name,) in rows}


@pytest.mark.django_db
def test_models_and_migrations_agree() -> None:
    said = io.StringIO()
    try:
        call_command("makemigrations", check=True, dry_run=True, stdout=said)
    except SystemExit:
        pytest.fail(said.getvalue())


def test_there_is_one_last_migration_and_each_can_be_undone() -> None:
    loader = MigrationLoader(None)
    assert len(loader.graph.leaf_nodes("jobs")) == 1
    for (app, name), migration in loader.disk_migrations.items():
        if app == "jobs":
            assert all(operation.reversible for operation in migration.operations), name


def test_from_nothing_to_guarded_tables(scratch: BaseDatabaseWrapper) -> None:
    migrate(scratch, latest())
    assert triggers(scratch) >= TRIGGERS
    execute(scratch, BIRTH, str(uuid4()))
    assert execute(scratch, "SELECT event, actor_kind FROM jobs_auditentry") == [
        ("submit", "system")
    ]
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(ALIAS):
        execute(scratch, "DELETE FROM jobs_auditentry")


def test_backwards_to_nothing_leaves_nothing(scratch: BaseDatabaseWrapper) -> None:
    migrate(scratch, latest())
    migrate(scratch, None)
    assert leftovers(scratch) == set()
    migrate(scratch, latest())
    assert triggers(scratch) >= TRIGGERS


def test_the_guard_goes_and_comes_back_around_the_data(scratch: BaseDatabaseWrapper) -> None:
    job_id = str(uuid4())
    migrate(scratch, latest())
    execute(scratch, BIRTH, job_id)
    migrate(scratch, "0001_initial")
    assert triggers(scratch) == set()
    assert not {name for name in leftovers(scratch) if "guard" in name or "record" in name}
    execute(scratch, BIRTH, str(uuid4()))
    assert execute(scratch, "SELECT count(*) FROM jobs_auditentry") == [(1,)]
    migrate(scratch, latest())
    assert triggers(scratch) >= TRIGGERS
    assert execute(scratch, "SELECT count(*) FROM jobs_job") == [(2,)]
    with pytest.raises(DatabaseError, match="version must go"), transaction.atomic(ALIAS):
        execute(scratch, "UPDATE jobs_job SET state = 'RUNNING' WHERE id = %s", job_id)


def populated(on: BaseDatabaseWrapper) -> list[str]:
    """Jobs that wait, run, are done, and went a long way; the last one's row is gone."""
    ids = [str(uuid4()) for _ in range(5)]
    waiting, running, done, far, gone = ids
    for job_id in ids:
        execute(on, BIRTH, job_id)
    for job_id in (running, done, gone):
        execute(on, CLAIM, job_id)
    for job_id in (done, gone):
        execute(on, SUCCEED, job_id)
    for _ in range(12):  # past 9, where an order by text would go wrong
        execute(on, CLAIM, far)
        execute(on, RELEASE, far)
    execute(on, "DELETE FROM jobs_job WHERE id = %s", gone)
    return [waiting, running, done, far]


def test_entries_from_before_the_chain_are_chained(scratch: BaseDatabaseWrapper) -> None:
    migrate(scratch, "0002_guard")
    ids = populated(scratch)
    before = execute(scratch, "SELECT * FROM jobs_auditentry ORDER BY job_id, version")
    migrate(scratch, latest())
    assert all(whole(UUID(job_id), ALIAS) for job_id in ids)
    assert not AuditEntry.objects.using(ALIAS).filter(hash=b"").exists()
    after = execute(
        scratch,
        "SELECT job_id, version, from_state, to_state, event, actor_kind, actor_id, reason,"
        " attempt, token, at, txid FROM jobs_auditentry ORDER BY job_id, version",
    )
    assert after == before
    assert triggers(scratch) >= TRIGGERS


def test_work_goes_on_after_migrating_forwards_and_backwards(scratch: BaseDatabaseWrapper) -> None:
    migrate(scratch, "0002_guard")
    [waiting, running, done, far] = populated(scratch)
    migrate(scratch, latest())
    execute(scratch, CLAIM, waiting)
    execute(scratch, SUCCEED, running)
    execute(scratch, CLAIM, far)
    assert all(whole(UUID(job_id), ALIAS) for job_id in (waiting, running, done, far))
    with pytest.raises(DatabaseError, match="final for ever"), transaction.atomic(ALIAS):
        execute(scratch, "UPDATE jobs_job SET queue = 'x' WHERE id = %s", done)

    migrate(scratch, "0002_guard")
    assert triggers(scratch) == TRIGGERS
    assert not {name for name in leftovers(scratch) if "chain" in name or "hash" in name}
    execute(scratch, SUCCEED, waiting)
    execute(scratch, RELEASE, far)

    migrate(scratch, latest())
    assert all(whole(UUID(job_id), ALIAS) for job_id in (waiting, running, done, far))


def test_a_job_without_history_gets_an_empty_chain(scratch: BaseDatabaseWrapper) -> None:
    migrate(scratch, "0001_initial")
    execute(scratch, BIRTH, str(uuid4()))
    migrate(scratch, latest())
    job = Job.objects.using(ALIAS).get()
    assert (bytes(job.audit_hash), job.changed_at) == (b"", job.submitted_at)
    execute(scratch, CLAIM, str(job.id))
    [found] = AuditEntry.objects.using(ALIAS)
    assert (found.version, found.event) == (2, "claim")


def test_keys_from_before_their_table_are_copied(scratch: BaseDatabaseWrapper) -> None:
    migrate(scratch, "0003_audit_chain")
    job_id = str(uuid4())
    keyed = BIRTH.replace("signed_version)", "signed_version, idempotency_key, fingerprint)")
    execute(scratch, keyed.replace("1)", "1, 'k', 'f')"), job_id)
    execute(scratch, BIRTH, str(uuid4()))
    migrate(scratch, latest())
    copied = "SELECT id::text, owner_id, key, fingerprint, answered_by FROM jobs_idempotencykey"
    assert execute(scratch, copied) == [(job_id, None, "k", "f", None)]


def test_a_backfill_that_fails_leaves_the_triggers_on(scratch: BaseDatabaseWrapper) -> None:
    migrate(scratch, "0002_guard")
    [waiting, *_] = populated(scratch)
    # Such a row was possible then; the constraint that comes last in the migration refuses it.
    execute(scratch, "UPDATE jobs_job SET result = '1' WHERE id = %s", waiting)
    with pytest.raises(IntegrityError, match="jobs_job_result"):
        migrate(scratch, latest())
    assert triggers(scratch) == TRIGGERS
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(ALIAS):
        execute(scratch, "DELETE FROM jobs_auditentry")


def test_backwards_jobs_that_share_an_outbox_row_get_rows_of_their_own(
    scratch: BaseDatabaseWrapper,
) -> None:
    migrate(scratch, latest())
    seven = BIRTH.replace("VALUES (%s", "SELECT gen_random_uuid()").rstrip().removesuffix(")")
    execute(scratch, f"{seven} FROM generate_series(1, 7)")
    assert execute(scratch, "SELECT count(*) FROM jobs_outboxentry") == [(1,)]
    migrate(scratch, "0006_verbs_v2")
    each = (
        "SELECT count(*), count(j.id) FROM jobs_outboxentry o LEFT JOIN jobs_job j ON j.id = job_id"
    )
    assert execute(scratch, each) == [(7, 7)]
    migrate(scratch, latest())
    assert execute(scratch, each) == [(7, 7)]


def test_hot_tables_leave_room_for_updates_in_place(scratch: BaseDatabaseWrapper) -> None:
    migrate(scratch, latest())
    rows = execute(
        scratch,
        "SELECT relname FROM pg_class WHERE 'fillfactor=70' = ANY(reloptions) ORDER BY 1",
    )
    assert rows == [("jobs_job",), ("jobs_outboxentry",)]
