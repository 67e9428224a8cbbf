"""The plans of the window statements: a window's rows by index, whatever the statistics say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, transaction

from jobs import sql
from jobs.verification import snapshots, verify, windows
from jobs.verification.values import Options
from tests import histories

pytestmark = pytest.mark.django_db(transaction=True)

MANY = 20_000
WINDOW = 500
STATEMENTS = ["bounds", "size", *windows.STATEMENTS, "tokens", "keys"]
TABLES = "jobs_job, jobs_auditentry, jobs_outboxentry, jobs_jobartifact, jobs_idempotencykey"


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def explained(statement: str, given: dict[str, Any]) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        text = f"EXPLAIN (ANALYZE, FORMAT JSON) {sql.load(f'verify/{statement}')}"
        cursor.execute(text, given)
        [[answer]] = cursor.fetchall()
    found = json.loads(answer) if isinstance(answer, str) else answer
    return list(nodes(found[0]["Plan"]))


def looked_at(plan: list[dict[str, Any]]) -> float:
    """Rows that scans of tables brought up, kept or not."""
    removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    rows: float = sum(
        node["Actual Loops"] * (node["Actual Rows"] + sum(node.get(one, 0) for one in removed))
        for node in plan
        if "Relation Name" in node
    )
    return rows


@pytest.mark.parametrize("statistics", ["none", "old", "fresh"])
def test_a_window_reads_a_window(statistics: str) -> None:
    histories.run(f"ANALYZE {TABLES}")
    if statistics == "old":
        histories.load(10)
        histories.run(f"ANALYZE {TABLES}")
    histories.load(MANY, begin=100)
    if statistics == "fresh":
        histories.run(f"ANALYZE {TABLES}")
    begin, *settings = snapshots.BEGIN.strip().split(";")
    assert "REPEATABLE READ" in begin
    given = windows.parameters(Options(at_rest=True, window=WINDOW), [], None) | {
        "low": "018bcfe5-8000-7000-8000-000000000000", "jobs": WINDOW,
        "last": "ffffffff-ffff-7fff-8fff-ffffffffffff",
        "others": windows.PER_JOB * WINDOW,
    }  # fmt: skip
    with transaction.atomic():
        for setting in settings:
            histories.run(setting)
        [[high]] = rows(sql.load("verify/bounds"), given)
        given["high"] = high
        [[jobs, entries]] = rows(sql.load("verify/size"), given)
        assert (jobs, entries) == (WINDOW, 3 * WINDOW)
        for statement in STATEMENTS:
            plan = explained(statement, given)
            kinds = {node["Node Type"] for node in plan}
            assert not kinds & {"Seq Scan", "Nested Loop"}, statement
            # The entries are read once, or twice beside rows and doorbells.
            assert looked_at(plan) <= (3 + 3 + 1 + 1) * WINDOW, statement


def rows(statement: str, given: dict[str, Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, given)
        return list(cursor.fetchall())


def test_what_was_loaded_is_without_a_fault() -> None:
    """Or the figures in the documentation would be those of something else."""
    histories.forget_statistics()
    histories.load(1000)
    report = verify(at_rest=True, window=300)
    assert report.ok, report.broken
    assert (report.jobs, report.entries, report.windows) == (1000, 3000, 4)
