"""Drain with many finished jobs in the table, against the same in an empty one."""

from __future__ import annotations

from statistics import median

from django.db import connection

from bench.marks import Marks
from bench.ours.handlers import NAME
from bench.ours.platform_peer import Interlock
from bench.place import Place
from bench.scenario import Figures, Scenario, slots_for

_DRAINS = 5
#: Rows of one statement, so that a fill of millions shows up in no single huge transaction.
_BATCH = 100_000
# With the triggers off for this session alone: they would have every row begin as PENDING. The rows
# are as those of jobs that ran long ago, but for their hashes, which nothing here verifies.
_JOBS = """
INSERT INTO jobs_job (
    id, handler, queue, priority, tenant, payload, state, version, attempt, failed_attempts,
    lost_attempts, max_attempts, due_at, worker, progress, progress_message, progress_seq, event,
    actor_kind, actor_id, reason, signed_version, submitted_at, started_at, finished_at, changed_at,
    audit_hash
)
SELECT ('01800000-0000-7000-8000-' || lpad(to_hex(g), 12, '0'))::uuid, %(handler)s, 'default', 0,
    '', jsonb_build_object('number', g, 'pad', repeat('x', 72)), 'COMPLETED', 3, 1, 0, 0, 3,
    t.at, 'bench', 1, '', 0, 'succeed', 'worker', 'bench', '', 3, t.at, t.at, t.at, t.at,
    sha256(convert_to(g::text, 'UTF8'))
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS g,
    LATERAL (SELECT now() - interval '30 days' + g * interval '1 millisecond' AS at) AS t
"""
_AUDIT = """
INSERT INTO jobs_auditentry (
    job_id, version, from_state, to_state, event, actor_kind, actor_id, reason, attempt, at, txid,
    hash
)
SELECT ('01800000-0000-7000-8000-' || lpad(to_hex(g), 12, '0'))::uuid, s.version, s.source,
    s.target, s.event, s.kind, 'bench', '', s.attempt,
    now() - interval '30 days' + g * interval '1 millisecond', 1,
    sha256(convert_to(g::text, 'UTF8'))
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS g, (VALUES
    (1, NULL, 'PENDING', 'submit', 'system', 0),
    (2, 'PENDING', 'RUNNING', 'claim', 'worker', 1),
    (3, 'RUNNING', 'COMPLETED', 'succeed', 'worker', 1)
) AS s(version, source, target, event, kind, attempt)
"""


def measure(place: Place) -> dict[str, float]:
    """The same backlogs twice, the second time beside ``finished`` rows, in one database."""
    ours = Interlock(place)
    marks = Marks(place.path / "marks", slots_for(place) + 2 * _DRAINS * place.plan.bulk)
    try:
        ours.prepare()
        ours.start()
        scenario = Scenario(ours, place, marks)
        scenario.warm_up()
        # The first backlog is the slowest, with and without other rows.
        scenario.drain(place.plan.bulk)
        empty = _drained(scenario, place.plan.bulk)
        fill(place.plan.finished)
        scenario.warm_up()
        full = _drained(scenario, place.plan.bulk)
    finally:
        ours.stop()
    return {
        "finished_rows": float(place.plan.finished),
        **{f"empty_{name.removeprefix('bulk_')}": value for name, value in empty.items()},
        **{f"full_{name.removeprefix('bulk_')}": value for name, value in full.items()},
    }


def _drained(scenario: Scenario, count: int) -> Figures:
    """Medians of several backlogs: what is compared differs by less than one from the next."""
    drains = [scenario.drain(count) for _ in range(_DRAINS)]
    return {name: median(one[name] for one in drains) for name in drains[0]}


def fill(count: int) -> None:
    """Finished jobs with their audit entries, and the statistics that autovacuum would make."""
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        try:
            for first in range(1, count + 1, _BATCH):
                bounds = {"first": first, "last": min(first + _BATCH - 1, count)}
                cursor.execute(_JOBS, {**bounds, "handler": NAME})
                cursor.execute(_AUDIT, bounds)
        finally:
            cursor.execute("SET session_replication_role = origin")
        cursor.execute("VACUUM ANALYZE jobs_job, jobs_auditentry")
        cursor.execute("CHECKPOINT")
