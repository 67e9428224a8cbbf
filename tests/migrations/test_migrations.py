"""Migrations from nothing, backwards and forwards again, on a database of their own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from pytest_django import DjangoDbBlocker

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


def test_hot_tables_leave_room_for_updates_in_place(scratch: BaseDatabaseWrapper) -> None:
    migrate(scratch, latest())
    rows = execute(
        scratch,
        "SELECT relname FROM pg_class WHERE 'fillfactor=70' = ANY(reloptions) ORDER BY 1",
    )
    assert rows == [("jobs_job",), ("jobs_outboxentry",)]
