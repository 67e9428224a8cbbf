"""The SQL of a job's life alone, by pgbench: single, and fifty jobs in each statement.

Three transactions, as every durable and audited queue of this kind has them: job and outbox row;
claim and audit entry; completion and audit entry. No triggers, no hashes, prepared statements.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg2

from bench.place import NotOffered, Place
from interlock.local import postgres

_GROUP = 50
_CLIENTS = {"single": 4, "grouped": 2}
_SCHEMA = """
CREATE TABLE life_job (
    id bigint PRIMARY KEY, handler text NOT NULL, queue text NOT NULL, priority smallint NOT NULL,
    payload jsonb NOT NULL, state text NOT NULL, version int NOT NULL, attempt int NOT NULL,
    lease_token uuid, lease_until timestamptz, worker text NOT NULL DEFAULT '',
    result jsonb, submitted_at timestamptz NOT NULL DEFAULT now(), started_at timestamptz,
    finished_at timestamptz,
    CHECK (state = 'RUNNING' AND lease_token IS NOT NULL
        OR state <> 'RUNNING' AND lease_token IS NULL)
) WITH (fillfactor = 80);
CREATE TABLE life_audit (
    job_id bigint NOT NULL, version int NOT NULL, source text NOT NULL, target text NOT NULL,
    actor text NOT NULL, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (job_id, version)
);
CREATE TABLE life_outbox (
    id bigserial PRIMARY KEY, job_id bigint NOT NULL, queue text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), published_at timestamptz
);
"""
#: ``:first`` and ``:last`` bound the ids that a client's round moves.
_LIFE = """
\\set n :n + 1
\\set first :client_id * 100000000 + :n * {group}
\\set last :first + {group} - 1
WITH made AS (
    INSERT INTO life_job (id, handler, queue, priority, payload, state, version, attempt)
    SELECT g, 'noop', 'default', 0, jsonb_build_object('number', g, 'pad', repeat('x', 72)),
        'PENDING', 1, 0
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS g RETURNING id, queue
) INSERT INTO life_outbox (job_id, queue) SELECT id, queue FROM made;
WITH locked AS (
    SELECT id FROM life_job WHERE id BETWEEN :first AND :last ORDER BY id FOR NO KEY UPDATE
), claimed AS (
    UPDATE life_job AS j SET state = 'RUNNING', version = version + 1, attempt = attempt + 1,
        lease_token = gen_random_uuid(), lease_until = now() + interval '30 s', worker = 'w',
        started_at = now()
    FROM locked WHERE j.id = locked.id AND j.state = 'PENDING' RETURNING j.id, j.version
) INSERT INTO life_audit (job_id, version, source, target, actor)
SELECT id, version, 'PENDING', 'RUNNING', 'w' FROM claimed;
WITH locked AS (
    SELECT id FROM life_job WHERE id BETWEEN :first AND :last ORDER BY id FOR NO KEY UPDATE
), done AS (
    UPDATE life_job AS j SET state = 'COMPLETED', version = version + 1, lease_token = NULL,
        lease_until = NULL, finished_at = now()
    FROM locked WHERE j.id = locked.id AND j.state = 'RUNNING' RETURNING j.id, j.version
) INSERT INTO life_audit (job_id, version, source, target, actor)
SELECT id, version, 'RUNNING', 'COMPLETED', 'w' FROM done;
"""


def measure(place: Place) -> dict[str, float]:
    """Complete lives per second. Raises NotOffered without pgbench."""
    program = _pgbench()
    figures = {}
    for kind, group in (("single", 1), ("grouped", _GROUP)):
        _tables(place.database_url)
        rounds = _run(program, place, group, _CLIENTS[kind])
        _check(place.database_url)
        figures[f"{kind}_lives_per_second"] = rounds * group
    return figures


def _pgbench() -> Path:
    binaries = postgres.installed_binaries()
    places = [binaries / "pgbench"] if binaries else []
    places += [Path(found)] if (found := shutil.which("pgbench")) else []
    for program in places:
        if program.exists():
            return program
    raise NotOffered("pgbench is not installed; it comes with PostgreSQL's server packages")


def _run(program: Path, place: Place, group: int, clients: int) -> float:
    """Rounds per second."""
    script = place.path / "life.sql"
    script.write_text(_LIFE.format(group=group))
    parts = urlsplit(place.database_url)
    where = ["-h", str(parts.hostname), "-p", str(parts.port), "-U", str(parts.username)]
    length = ["-T", str(max(1, round(place.plan.seconds / 2))), "-c", str(clients), "-j", "1"]
    done = subprocess.run(
        [str(program), *where, "-n", "-M", "prepared", "-D", "n=0", *length, "-f", str(script),
         parts.path.lstrip("/")],
        env={**os.environ, "PGPASSWORD": unquote(parts.password or "")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"pgbench: {done.stdout[-500:]} {done.stderr[-500:]}")
    return float(found[1])


def _tables(url: str) -> None:
    with _connected(url) as cursor:
        cursor.execute("DROP TABLE IF EXISTS life_job, life_audit, life_outbox")
        cursor.execute(_SCHEMA)


def _check(url: str) -> None:
    """All jobs final, with an outbox row and two audit entries each; else it was no life."""
    with _connected(url) as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM life_job WHERE state = 'COMPLETED'),"
            " (SELECT count(*) FROM life_outbox), (SELECT count(*) FROM life_audit)"
        )
        row = cursor.fetchone()
    assert row is not None
    # What ran as time was up may have stopped between its transactions.
    done, rung, told = (int(value) for value in row)
    if not (done and done <= rung <= done + 1000 and 2 * done <= told <= 2 * done + 1000):
        raise RuntimeError(f"{done} completed, {rung} outbox rows, {told} audit entries")


def _connected(url: str) -> psycopg2.extensions.cursor:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection.cursor()
