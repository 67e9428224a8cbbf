"""What must be true of jobs whatever happened to them, asked of the database alone.

Each check is a statement that returns the rows that break it. ``%(ids)s`` are the jobs in question.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any
from uuid import UUID

from jobs.states import EDGES, FINAL

Sql = Callable[[str, dict[str, Any]], list[tuple[Any, ...]]]

_AUDIT = "(SELECT * FROM jobs_auditentry WHERE job_id = ANY(%(ids)s::uuid[])) AS a"
_EDGES = ", ".join(
    f"('{edge.event}', {source}, '{edge.target}', '{actor}')"
    for edge in EDGES
    for source in ([f"'{state}'" for state in edge.sources] or ["'born'"])
    for actor in edge.actors
)
_FINAL = ", ".join(f"'{state}'" for state in FINAL)

#: True at every moment, also in the middle of a fault.
ALWAYS: dict[str, str] = {
    "an accepted job is gone": """
        SELECT given.id FROM unnest(%(ids)s::uuid[]) AS given(id)
        LEFT JOIN jobs_job AS j USING (id) WHERE j.id IS NULL
    """,
    "versions are not 1..n": f"""
        SELECT job_id, version, place FROM (
            SELECT job_id, version,
                row_number() OVER (PARTITION BY job_id ORDER BY version) AS place FROM {_AUDIT}
        ) AS counted WHERE version <> place
    """,
    "an entry does not begin where the last one ended": f"""
        SELECT job_id, version, before, from_state FROM (
            SELECT job_id, version, from_state,
                lag(to_state) OVER (PARTITION BY job_id ORDER BY version) AS before FROM {_AUDIT}
        ) AS chained WHERE before IS DISTINCT FROM from_state
    """,
    "the row is not what the last entry says": f"""
        SELECT j.id, j.version, j.state, j.attempt, a.version, a.to_state, a.attempt
        FROM jobs_job AS j JOIN {_AUDIT} ON a.job_id = j.id
        WHERE NOT EXISTS (
                SELECT 1 FROM jobs_auditentry AS later
                WHERE later.job_id = a.job_id AND later.version > a.version
            )
            AND (j.version, j.state, j.attempt)
                IS DISTINCT FROM (a.version, a.to_state, a.attempt)
    """,
    "an edge is not in the table": f"""
        SELECT job_id, version, event, from_state, to_state, actor_kind FROM {_AUDIT}
        WHERE (event, coalesce(from_state, 'born'), to_state, actor_kind)
            NOT IN (VALUES {_EDGES})
    """,
    "a job was completed twice": f"""
        SELECT job_id, count(*) FROM {_AUDIT} WHERE to_state = 'COMPLETED'
        GROUP BY job_id HAVING count(*) > 1
    """,
    "a final state was left without being reopened": f"""
        SELECT job_id, version FROM {_AUDIT}
        WHERE from_state IN ({_FINAL}) AND event <> 'reopen'
    """,
    "a token was drawn twice": """
        SELECT token, count(*) FROM jobs_auditentry WHERE event = 'claim'
        GROUP BY token HAVING count(*) > 1 OR token IS NULL
    """,
    "an entry out of RUNNING is not its holder's": f"""
        SELECT job_id, version, event, token, held FROM (
            SELECT job_id, version, event, from_state, token, (
                SELECT c.token FROM jobs_auditentry AS c
                WHERE c.job_id = a.job_id AND c.version < a.version AND c.event = 'claim'
                ORDER BY c.version DESC LIMIT 1
            ) AS held FROM {_AUDIT}
        ) AS paired WHERE from_state = 'RUNNING' AND token IS DISTINCT FROM held
    """,
    "attempt is not the number of entries into RUNNING": f"""
        SELECT job_id, version, attempt, claims FROM (
            SELECT job_id, version, attempt, count(*) FILTER (WHERE event = 'claim')
                OVER (PARTITION BY job_id ORDER BY version) AS claims FROM {_AUDIT}
        ) AS counted WHERE attempt <> claims
    """,
    "time went backwards": f"""
        SELECT job_id, version FROM (
            SELECT job_id, version, at,
                lag(at) OVER (PARTITION BY job_id ORDER BY version) AS before FROM {_AUDIT}
        ) AS timed WHERE at < before
    """,
    "an entry into PENDING has not exactly one outbox row": f"""
        SELECT a.job_id, a.version, count(o.id) FROM {_AUDIT}
        LEFT JOIN jobs_outboxentry AS o ON o.job_id = a.job_id AND o.job_version = a.version
        WHERE a.to_state = 'PENDING' GROUP BY 1, 2 HAVING count(o.id) <> 1
    """,
    "an outbox row belongs to no entry into PENDING": """
        SELECT o.job_id, o.job_version FROM jobs_outboxentry AS o
        LEFT JOIN jobs_auditentry AS a ON a.job_id = o.job_id AND a.version = o.job_version
            AND a.to_state = 'PENDING' AND o.created_at <= a.at
        WHERE o.job_id = ANY(%(ids)s::uuid[]) AND a.job_id IS NULL
    """,
    "the charges are not what the entries say": f"""
        SELECT j.id, j.failed_attempts, j.lost_attempts FROM jobs_job AS j
        JOIN {_AUDIT} ON a.job_id = j.id GROUP BY j.id
        HAVING bool_and(a.event <> 'reopen') AND (j.failed_attempts, j.lost_attempts) <> (
            count(*) FILTER (
                WHERE a.event = 'retry' OR a.event = 'fail' AND a.actor_kind = 'worker'
            ),
            count(*) FILTER (
                WHERE a.event = 'rescue' OR a.event = 'fail' AND a.actor_kind = 'rescuer'
            )
        )
    """,
}

#: True once the faults are over and everything had its time.
AT_REST: dict[str, str] = {
    "a job is not COMPLETED": """
        SELECT id, state, version, reason FROM jobs_job
        WHERE id = ANY(%(ids)s::uuid[]) AND state <> 'COMPLETED'
    """,
    "a job was not completed exactly once": f"""
        SELECT job_id, count(*) FILTER (WHERE to_state = 'COMPLETED') FROM {_AUDIT}
        GROUP BY job_id HAVING count(*) FILTER (WHERE to_state = 'COMPLETED') <> 1
    """,
    "an outbox row is unpublished": """
        SELECT job_id, job_version, tries, rearms FROM jobs_outboxentry
        WHERE job_id = ANY(%(ids)s::uuid[]) AND published_at IS NULL
    """,
    "the audit was rewritten": """
        SELECT n_tup_upd, n_tup_del FROM pg_stat_user_tables
        WHERE relname = 'jobs_auditentry' AND n_tup_upd + n_tup_del > 0
    """,
}


def problems(sql: Sql, ids: Collection[UUID], *, at_rest: bool = True) -> list[str]:
    """Every broken check with the rows that break it; empty when all is well."""
    checks = {**ALWAYS, **(AT_REST if at_rest else {})}
    given = {"ids": [str(job_id) for job_id in ids]}
    found = {name: sql(statement, given) for name, statement in checks.items()}
    return [f"{name}: {rows[:5]}" for name, rows in found.items() if rows]
