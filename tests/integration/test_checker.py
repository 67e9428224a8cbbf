"""The checker finds what it claims to find: each rule is broken once, with the triggers off."""

from __future__ import annotations

import pytest

from jobs import lifecycle, testing
from jobs.values import Submission
from tests import checker
from tests.stack import Stack

pytestmark = pytest.mark.services

AUDIT = "jobs_auditentry"
COPY = (
    "INSERT INTO jobs_auditentry SELECT job_id, {version}, {source}, {target}, {event}, actor_kind,"
    " actor_id, reason, attempt, token, at, txid FROM jobs_auditentry WHERE version = {of}"
)


def _again(of: int, version: str, source: str, target: str, event: str) -> str:
    return COPY.format(of=of, version=version, source=source, target=target, event=event)


BREAKS: list[tuple[str, str]] = [
    ("an accepted job is gone", "DELETE FROM jobs_job"),
    ("versions are not 1..n", f"UPDATE {AUDIT} SET version = 4 WHERE version = 3"),
    (
        "an entry does not begin where the last one ended",
        f"UPDATE {AUDIT} SET from_state = 'FAILED' WHERE version = 2",
    ),
    ("the row is not what the last entry says", "UPDATE jobs_job SET version = 4"),
    ("an edge is not in the table", f"UPDATE {AUDIT} SET actor_kind = 'user' WHERE version = 3"),
    ("a job was completed twice", _again(3, "4", "'COMPLETED'", "'COMPLETED'", "'succeed'")),
    (
        "a final state was left without being reopened",
        _again(2, "4", "'COMPLETED'", "'RUNNING'", "'claim'"),
    ),
    ("a token was drawn twice", _again(2, "5", "'PENDING'", "'RUNNING'", "'claim'")),
    (
        "an entry out of RUNNING is not its holder's",
        f"UPDATE {AUDIT} SET token = gen_random_uuid() WHERE version = 3",
    ),
    (
        "attempt is not the number of entries into RUNNING",
        f"UPDATE {AUDIT} SET attempt = 2 WHERE version = 2",
    ),
    ("time went backwards", f"UPDATE {AUDIT} SET at = at + interval '1 h' WHERE version = 2"),
    ("an entry into PENDING has not exactly one outbox row", "DELETE FROM jobs_outboxentry"),
    (
        "an outbox row belongs to no entry into PENDING",
        "UPDATE jobs_outboxentry SET job_version = 2",
    ),
    ("the charges are not what the entries say", "UPDATE jobs_job SET lost_attempts = 1"),
    (
        "a job is not COMPLETED",
        "UPDATE jobs_job SET state = 'PENDING', finished_at = NULL, version = 4",
    ),
    ("a job was not completed exactly once", f"DELETE FROM {AUDIT} WHERE version = 3"),
    ("an outbox row is unpublished", "UPDATE jobs_outboxentry SET published_at = NULL"),
]


def test_every_check_is_broken_here() -> None:
    broken = {name for name, _ in BREAKS}
    # Counted by the server's statistics, which arrive when they like.
    assert {*checker.ALWAYS, *checker.AT_REST} - broken == {"the audit was rewritten"}


def test_each_break_is_found(quiet: Stack) -> None:
    """One database for all: each break is undone before the next."""
    [accepted] = lifecycle.submit([Submission("noop")])
    testing.run_inline()
    quiet.sql("UPDATE jobs_outboxentry SET published_at = now()")
    ids = [accepted.job_id]
    assert checker.problems(quiet.sql, ids) == []
    for table in ("jobs_job", AUDIT):
        quiet.sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    for name, statement in BREAKS:
        quiet.sql("BEGIN")
        quiet.sql(statement)
        found = checker.problems(quiet.sql, ids)
        quiet.sql("ROLLBACK")
        assert any(line.startswith(f"{name}:") for line in found), f"{name}: {found}"
