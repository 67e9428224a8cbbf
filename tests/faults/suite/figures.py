"""What a run amounts to, in numbers, from the tables, the ledger and the logs.

``figures`` returns plain JSON data. Every number says what was counted, none is an estimate; a
figure that nothing was measured for is None.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.faults.suite import ledger as ledgers


class Counted(Protocol):
    """What the figures are read from."""

    @property
    def log_directory(self) -> Path: ...

    def sql(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[Any]: ...


#: One row for each doorbell, however many jobs share an outbox row.
_DOORBELLS = """
    (SELECT unnest(job_id || others) AS job_id, job_version, due_at, published_at, tries, rearms
    FROM jobs_outboxentry) AS o
"""

#: Single numbers that the tables tell.
_NUMBERS: dict[str, str] = {
    "jobs": "SELECT count(*) FROM jobs_job",
    "completed": "SELECT count(*) FROM jobs_job WHERE state = 'COMPLETED'",
    "failed": "SELECT count(*) FROM jobs_job WHERE state = 'FAILED'",
    "cancelled": "SELECT count(*) FROM jobs_job WHERE state = 'CANCELLED'",
    "claims": "SELECT count(*) FROM jobs_auditentry WHERE event = 'claim'",
    "retries_after_failure": "SELECT count(*) FROM jobs_auditentry WHERE event = 'retry'",
    "reopened": "SELECT count(*) FROM jobs_auditentry WHERE event = 'reopen'",
    "released": "SELECT count(*) FROM jobs_auditentry WHERE event = 'release'",
    "rescued": "SELECT count(*) FROM jobs_auditentry WHERE event = 'rescue'",
    "lost_attempts": """
        SELECT count(*) FROM jobs_auditentry
        WHERE actor_kind = 'rescuer' AND event IN ('rescue', 'fail')
    """,
    "relay_tries": f"SELECT coalesce(sum(tries), 0) FROM {_DOORBELLS}",
    "doorbells_rung_again": f"SELECT coalesce(sum(rearms), 0) FROM {_DOORBELLS}",
    # A row is armed again only after it was published, so each rearm was one confirmed ring.
    "doorbells_confirmed": f"""
        SELECT count(*) FILTER (WHERE published_at IS NOT NULL) + coalesce(sum(rearms), 0)
        FROM {_DOORBELLS}
    """,
    "longest_wait_seconds": f"""
        SELECT max(extract(epoch FROM c.at - o.due_at))::float FROM {_DOORBELLS}
        JOIN jobs_auditentry AS c ON c.job_id = o.job_id AND c.version = o.job_version + 1
            AND c.event = 'claim'
    """,
}

#: (verdict after the lease's end, next claim after the lease's end) of every lost attempt.
_RECOVERIES = """
    SELECT extract(epoch FROM a.at - a.lease_until)::float,
        extract(epoch FROM c.at - a.lease_until)::float
    FROM jobs_auditentry AS a
    LEFT JOIN jobs_auditentry AS c ON c.job_id = a.job_id AND c.version = a.version + 1
        AND c.event = 'claim'
    WHERE a.actor_kind = 'rescuer' AND a.lease_until IS NOT NULL
"""


def figures(world: Counted, ledger: Path) -> dict[str, Any]:
    """The numbers of a run, by name; times in seconds."""
    found: dict[str, Any] = {name: _number(world, text) for name, text in _NUMBERS.items()}
    found |= _of_answers(ledger)
    found |= _of_logs(world.log_directory)
    accepted = {line["job_id"] for line in ledgers.lines(ledger, "accepted")}
    found["accepted"] = len(accepted)
    found["statuses_seen"] = sum(1 for _ in ledgers.lines(ledger, "seen"))
    found["answers_lost_and_asked_again"] = sum(
        line["outcome"].startswith("answered") for line in ledgers.lines(ledger, "unknown")
    )
    # Rings that led to no claim: absorbed as duplicates, or lost with a queue. Redeliveries by the
    # broker itself leave no trace and are not in it.
    found["doorbells_without_claim"] = found["doorbells_confirmed"] - found["claims"]
    recoveries = world.sql(_RECOVERIES)
    found["rescued_after_lease_seconds"] = spread(row[0] for row in recoveries)
    found["claimed_after_lease_seconds"] = spread(r[1] for r in recoveries if r[1] is not None)
    return found


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """Count, median, 99th percentile (nearest rank) and largest of some times."""
    ordered = sorted(values)
    if not ordered:
        return None
    return {
        "count": len(ordered),
        "p50": round(ordered[(len(ordered) - 1) // 2], 4),
        "p99": round(ordered[-(-99 * len(ordered) // 100) - 1], 4),
        "max": round(ordered[-1], 4),
    }


def _number(world: Counted, statement: str) -> Any:
    [(value,)] = world.sql(statement)
    return value if value is None or isinstance(value, int) else round(float(value), 3)


def _of_answers(ledger: Path) -> dict[str, Any]:
    taken: dict[str, list[float]] = {}
    errors: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for line in ledgers.lines(ledger, "answers"):
        if 200 <= line["status"] < 400:
            taken.setdefault(line["what"], []).append(line["seconds"])
        elif line["status"] >= 500:
            errors[f"{line['status']} {line['error']}"] += 1
        elif line["status"] == 0:
            lost[line["error"].partition(":")[0]] += 1
    return {
        "accept_seconds": spread(taken.get("submit", [])),
        "status_seconds": spread(taken.get("status", [])),
        "requests": sum(1 for _ in ledgers.lines(ledger, "answers")),
        "errors_5xx": dict(errors),
        "answers_lost": dict(lost),
    }


def _of_logs(directory: Path) -> dict[str, Any]:
    fenced = 0
    for log in directory.glob("worker*.log"):
        with log.open(encoding="utf-8", errors="replace") as file:
            fenced += sum(1 for line in file if re.search(r" fenced job=", line))
    return {"fenced_writes": fenced}
