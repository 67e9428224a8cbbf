"""What guards the tables is looked at too: triggers, functions, indexes, statistics.

Every test changes the schema for a moment, from outside, and puts it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection

from jobs.errors import CannotVerify
from jobs.verification import Report, guards, verify
from tests import histories
from tests.histories import damage, run

pytestmark = pytest.mark.django_db(transaction=True)

UNIQUE = sorted(guards.UNIQUE)


@pytest.fixture(autouse=True)
def _begin() -> None:
    histories.forget_statistics()


def rows(statement: str, *parameters: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


@contextmanager
def changed(statement: str, back: str) -> Iterator[None]:
    """The schema is changed by one statement, and by the other in the end."""
    run(statement)
    try:
        yield
    finally:
        run(back)


def definition_of(function: str) -> str:
    [[text]] = rows("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = %s", function)
    return str(text)


def only(report: Report, invariant: str) -> list[str]:
    """The examples of the one finding, which is about this invariant."""
    assert [finding.id for finding in report.broken] == [invariant]
    [finding] = report.broken
    return list(finding.examples)


# -------------------------------------------------------------------------------- I14: the guard


def test_every_trigger_and_function_of_the_guard_is_known() -> None:
    """What the database has is exactly what the shipped files were read to say. The verbs, which
    have a version in their names, are what is guarded."""
    triggers = rows(
        "SELECT tgname, tgrelid::regclass::text, tgfoid::regproc::text FROM pg_trigger"
        " WHERE NOT tgisinternal AND tgrelid IN ('jobs_job'::regclass, 'jobs_auditentry'::regclass)"
    )
    functions = rows(
        r"SELECT proname FROM pg_proc WHERE proname LIKE 'jobs\_%%' AND proname !~ '_v\d+$'"
    )
    guard = guards.shipped()[-1]
    assert guard.triggers == {name: (table, calls) for name, table, calls in triggers}
    assert set(guard.bodies) == {name for (name,) in functions}


@pytest.mark.parametrize("how", ["DISABLE", "ENABLE REPLICA"])
def test_a_trigger_that_is_switched_off_is_found(how: str) -> None:
    for name, (table, _) in guards.shipped()[-1].triggers.items():
        alter = f"ALTER TABLE {table} {{}} TRIGGER {name}"
        with changed(alter.format(how), alter.format("ENABLE")):
            [example] = only(verify(), "I14")
        assert example.startswith(name)


def test_a_trigger_that_always_fires_is_as_good() -> None:
    alter = "ALTER TABLE jobs_job {} TRIGGER jobs_guard_transition"
    with changed(alter.format("ENABLE ALWAYS"), alter.format("ENABLE")):
        assert verify().ok


def test_a_trigger_that_is_gone_is_found() -> None:
    [[definition]] = rows(
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'jobs_audit_append_only'"
    )
    with changed("DROP TRIGGER jobs_audit_append_only ON jobs_auditentry", definition):
        [example] = only(verify(), "I14")
    assert example.startswith("jobs_audit_append_only")


def test_a_function_with_another_body_is_found() -> None:
    for name in guards.shipped()[-1].bodies:
        definition = definition_of(name)
        # Another body that does the same: nothing but the comparison can tell.
        tampered = re.sub(r"\bSELECT (sha256|CASE)", r"SELECT 1; SELECT \1", definition, count=1)
        tampered = tampered.replace("BEGIN", "BEGIN NULL;", 1)
        assert tampered != definition
        with changed(tampered, definition):
            [example] = only(verify(), "I14")
        assert example.startswith(f"{name}()")


def test_a_function_of_another_schema_that_a_trigger_calls_is_found() -> None:
    run("CREATE SCHEMA elsewhere")
    run(
        "CREATE FUNCTION elsewhere.jobs_guard_birth() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NEW; END'"
    )
    replace = (
        "CREATE OR REPLACE TRIGGER jobs_guard_birth BEFORE INSERT ON jobs_job"
        " FOR EACH ROW EXECUTE FUNCTION {}.jobs_guard_birth()"
    )
    try:
        with changed(replace.format("elsewhere"), replace.format("public")):
            [example] = only(verify(), "I14")
    finally:
        run("DROP SCHEMA elsewhere CASCADE")
    assert example.startswith("jobs_guard_birth()")


def test_white_space_is_no_difference() -> None:
    definition = definition_of("jobs_refuse")
    with changed(definition.replace("\n", "\r\n    "), definition):
        assert verify().ok


def test_code_that_is_one_version_ahead_of_the_database_is_no_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = guards.shipped()
    later = guards.Guard({**now[-1].triggers, "jobs_new": ("jobs_job", "jobs_new")}, {"x": "y"})
    monkeypatch.setattr(guards, "shipped", lambda: [*now, later])
    assert verify().ok


def test_a_database_that_is_ahead_of_the_code_is_noted() -> None:
    definition = definition_of("jobs_refuse")
    run("INSERT INTO django_migrations (app, name, applied) VALUES ('jobs', '0099_later', now())")
    try:
        with changed(definition.replace("BEGIN", "BEGIN NULL;", 1), definition):
            report = verify()
    finally:
        run("DELETE FROM django_migrations WHERE name = '0099_later'")
    assert report.ok
    [note] = report.notes
    assert "0099_later" in note


def test_a_role_that_runs_without_triggers_is_found() -> None:
    run("CREATE ROLE sneaky")
    try:
        run("ALTER ROLE sneaky SET session_replication_role = 'replica'")
        [example] = only(verify(), "I14")
    finally:
        run("DROP ROLE sneaky")
    assert example.startswith("sneaky session_replication_role=replica")


@pytest.mark.parametrize(
    "statement", ["UPDATE jobs_auditentry SET reason = reason", "DELETE FROM jobs_auditentry"]
)
def test_a_rewrite_is_counted_by_the_server(statement: str) -> None:
    histories.completed()
    run("SET session_replication_role = replica")
    try:
        run(f"BEGIN; {statement}; ROLLBACK")
    finally:
        run("SET session_replication_role = origin")
    run("SELECT pg_stat_force_next_flush()")
    run("SELECT 1")
    [example] = only(verify(), "I14")
    assert "3 updated" in example or "3 deleted" in example


# ----------------------------------------------------------------------------- the unique indexes


@pytest.mark.parametrize("name", UNIQUE)
def test_an_index_that_is_not_valid_is_found(name: str) -> None:
    histories.completed(idempotency_key="k")
    update = f"UPDATE pg_index SET indisvalid = {{}} WHERE indexrelid = '{name}'::regclass"
    with changed(update.format("false"), update.format("true")):
        [example] = only(verify(), guards.UNIQUE[name][0])
    assert example == f"index {name} is missing or not enforced"


def test_an_index_on_other_columns_is_found() -> None:
    name = "jobs_job_idempotency"
    [[definition]] = rows("SELECT pg_get_indexdef(%s::regclass)", name)
    run(f"DROP INDEX {name}")
    try:
        with changed(
            f"CREATE UNIQUE INDEX {name} ON jobs_job (idempotency_key)", f"DROP INDEX {name}"
        ):
            assert only(verify(), "I16") == [f"index {name} is missing or not enforced"]
    finally:
        run(definition)


def test_one_key_for_two_jobs_is_found_without_its_index() -> None:
    [[definition]] = rows("SELECT pg_get_indexdef('jobs_job_idempotency'::regclass)")
    jobs = [histories.completed(idempotency_key=key) for key in "abc"]
    run("DROP INDEX jobs_job_idempotency")
    try:
        damage(f"UPDATE jobs_job SET idempotency_key = 'a' WHERE id = '{jobs[1].id}'")
        examples = only(verify(window=1), "I16")
        run("DELETE FROM jobs_job")
    finally:
        run(definition)
    named = [line for line in examples if "shares its owner" in line]
    assert [line.split()[0] for line in named] == [str(job.id) for job in jobs[:2]]


def test_two_outbox_rows_for_one_version_are_found() -> None:
    job = histories.completed()
    run("ALTER TABLE jobs_outboxentry DROP CONSTRAINT jobs_outbox_once")
    try:
        run(
            "INSERT INTO jobs_outboxentry (job_id, job_version, handler, queue, priority, due_at,"
            " created_at, tries, rearms) SELECT job_id, job_version, handler, queue, priority,"
            " due_at, created_at, tries, rearms FROM jobs_outboxentry"
        )
        examples = only(verify(), "I9")
        run("DELETE FROM jobs_outboxentry")
    finally:
        run(
            "ALTER TABLE jobs_outboxentry"
            " ADD CONSTRAINT jobs_outbox_once UNIQUE (job_id, job_version)"
        )
    assert any(line.startswith(f"{job.id} v1 has several") for line in examples)


def test_a_result_of_a_job_that_is_not_completed_is_found() -> None:
    job = histories.failed()
    damage(f"UPDATE jobs_job SET result = '1' WHERE id = '{job.id}'")
    [example] = only(verify(), "I8")
    assert example.startswith(f"{job.id} v3 ")


# ----------------------------------------------------------------------------- cannot be verified


def test_a_database_from_before_the_chain_cannot_be_verified() -> None:
    rename = "UPDATE django_migrations SET app = '{}' WHERE app = '{}' AND name LIKE '0003%'"
    with (
        changed(rename.format("gone", "jobs"), rename.format("jobs", "gone")),
        pytest.raises(CannotVerify, match="migrate"),
    ):
        verify()


def test_a_database_that_was_never_migrated_cannot_be_verified() -> None:
    rename = "ALTER TABLE {} RENAME TO {}"
    with (
        changed(
            rename.format("django_migrations", "gone"), rename.format("gone", "django_migrations")
        ),
        pytest.raises(CannotVerify, match="migrate"),
    ):
        verify()
