"""I14: the triggers that keep the audit stand and are those that were shipped; unique indexes hold.

The functions are compared with the files that made them, in ``jobs/sql``. While an
upgrade is under way the database may be one version behind the code, so it must match some version
that is shipped, as a whole. When it is ahead, its functions are not known here and not compared.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from jobs import migrations, sql
from jobs.errors import CannotVerify
from jobs.verification.snapshots import Snapshot
from jobs.verification.tally import Found
from jobs.verification.values import Options

#: The migration that chained the audit, and the latest whose tables are read.
CHAINED = "0003_audit_chain"
LATEST = "0005_verbs"
UNDEFINED_TABLE = "42P01"
#: The version of the guard that came with it.
FIRST_VERSION = 2

UNIQUE: dict[str, tuple[str, list[str]]] = {
    "jobs_job_pkey": ("I1", ["id"]),
    "jobs_auditentry_pkey": ("I3", ["job_id", "version"]),
    "jobs_artifact_once": ("I8", ["job_id", "name"]),
    "jobs_outbox_once": ("I9", ["job_id", "job_version"]),
    "jobs_job_idempotency": ("I16", ["owner_id", "idempotency_key"]),
    "jobs_idempotency_once": ("I16", ["owner_id", "key"]),
}

_STEP = re.compile(
    r"CREATE\s+(?:OR\s+REPLACE\s+)?FUNCTION\s+(?P<function>\w+)\(.*?\$\$(?P<body>.*?)\$\$"
    r"|CREATE\s+(?:OR\s+REPLACE\s+)?TRIGGER\s+(?P<trigger>\w+)\s.*?\sON\s+(?P<table>\w+)\b"
    r".*?EXECUTE\s+FUNCTION\s+(?P<calls>\w+)\("
    r"|DROP\s+(?P<kind>FUNCTION|TRIGGER)\s+(?:IF\s+EXISTS\s+)?(?P<dropped>\w+)",
    re.DOTALL,
)


@dataclass(slots=True)
class Guard:
    """What one version of the guard consists of."""

    #: Trigger -> its table and the function that it calls.
    triggers: dict[str, tuple[str, str]] = field(default_factory=dict)
    #: Function -> its body, white space evened out.
    bodies: dict[str, str] = field(default_factory=dict)


@cache
def shipped() -> list[Guard]:
    """Every version of the guard that the audit's chain has had, oldest first."""
    named = (re.fullmatch(r"guard_v(\d+)\.sql", entry.name) for entry in files(sql).iterdir())
    numbers = sorted(int(match[1]) for match in named if match)
    versions: list[Guard] = []
    guard = Guard()
    for number in numbers:
        guard = _after(guard, sql.load(f"guard_v{number}"))
        if number >= FIRST_VERSION:
            versions.append(_after(guard, sql.load("forget_keys")))
    return versions


def _after(guard: Guard, text: str) -> Guard:
    triggers, bodies = dict(guard.triggers), dict(guard.bodies)
    for step in _STEP.finditer(text):
        if step["function"]:
            bodies[step["function"]] = _even(step["body"])
        elif step["trigger"]:
            triggers[step["trigger"]] = (step["table"], step["calls"])
        else:
            (triggers if step["kind"] == "TRIGGER" else bodies).pop(step["dropped"], None)
    return Guard(triggers, bodies)


def _even(text: str) -> str:
    return " ".join(text.split())


def chained_at(snapshot: Snapshot) -> tuple[Any, Collection[str]]:
    """When this database's audit was chained, and the migrations that the code does not know.

    Raises CannotVerify if it was not: there is nothing to verify yet.
    """
    try:
        applied = dict(snapshot.ask("ready"))
    except Exception as error:
        if getattr(error, "pgcode", None) != UNDEFINED_TABLE:
            raise
        raise CannotVerify("this database has no migrations; run migrate first") from error
    if not {CHAINED, LATEST} <= set(applied):
        raise CannotVerify(f"migration jobs.{LATEST} is not applied; run migrate first")
    known = {module.name for module in pkgutil.iter_modules(migrations.__path__)}
    return applied[CHAINED], sorted(set(applied) - known)


def check(snapshot: Snapshot, options: Options, unknown: Collection[str]) -> list[Found]:
    """What is wrong with triggers, functions, indexes and statistics."""
    found = _indexes(snapshot)
    if options.wants("I14"):
        rows = snapshot.ask("triggers")
        versions = [_compared(guard, rows, with_bodies=not unknown) for guard in shipped()]
        best: list[Found] = min(versions, key=len)
        found += best
        found += _rewritten(snapshot)
        found += [("I14.role", 1, [" ".join(row)]) for row in snapshot.ask("switched_off")]
    return [one for one in found if options.wants(one[0].partition(".")[0])]


def _compared(guard: Guard, rows: list[Any], *, with_bodies: bool) -> list[Found]:
    standing = {name: tuple(rest) for name, *rest in rows if name}
    bodies = {function: _even(source) for *_, function, source in rows}
    missing = [
        name
        for name, (table, calls) in guard.triggers.items()
        if not _stands(standing.get(name), table, calls)
    ]
    changed = [
        name for name, body in guard.bodies.items() if with_bodies and bodies.get(name) != body
    ]
    return [
        *(("I14.trigger", 1, [name]) for name in sorted(missing)),
        *(("I14.function", 1, [f"{name}()"]) for name in sorted(changed)),
    ]


def _stands(trigger: tuple[Any, ...] | None, table: str, calls: str) -> bool:
    return trigger is not None and trigger[:3] in {(table, on, calls) for on in "OA"}


def _rewritten(snapshot: Snapshot) -> list[Found]:
    [[updated, deleted]] = snapshot.ask("rewrites")
    if not updated + deleted:
        return []
    return [("I14.rewritten", updated + deleted, [f"{updated} updated, {deleted} deleted:"])]


def _indexes(snapshot: Snapshot) -> list[Found]:
    rows = snapshot.ask("indexes", {"names": list(UNIQUE)})
    standing: Mapping[str, list[str]] = {name: columns for name, good, columns in rows if good}
    return [
        (f"{invariant}.index", 1, [f"index {name}"])
        for name, (invariant, columns) in UNIQUE.items()
        if standing.get(name) != columns
    ]
