"""Walks all jobs in windows of ids, each checked on one snapshot and then forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from jobs.verification.rules import legal_steps
from jobs.verification.snapshots import Snapshot, Snapshots
from jobs.verification.tally import EXAMPLES, Found
from jobs.verification.values import Options

#: Audit entries, outbox rows or artifacts that a window may hold for each job that it may hold.
PER_JOB = 10
#: Two clocks, or one rounded: nothing that happened so shortly after its beginning is in a silence.
SILENCE_MARGIN_SECONDS = 1.0

#: The statements that look at a window, and the invariants that each knows something of.
STATEMENTS: dict[str, tuple[str, ...]] = {
    "history": ("I3", "I4", "I5", "I6", "I7", "I11", "I12", "I13"),
    "rows": ("I1", "I2", "I3", "I6", "I8", "I11", "I12"),
    "outbox": ("I9",),
    "artifacts": ("I8",),
    "answers": ("I16",),
}


@dataclass(frozen=True, slots=True)
class Silence:
    """A time in which the broker could confirm nothing, in seconds since the epoch."""

    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Window:
    """What one window held: how much, what is broken, and its claims' tokens and jobs' keys."""

    high: UUID
    jobs: int
    entries: int
    found: tuple[Found, ...]
    tokens: bytes
    keys: bytes


def walk(snapshots: Snapshots, options: Options, parameters: Mapping[str, Any]) -> Iterator[Window]:
    """Every window, from the lowest id there can be to the highest that there is."""
    [[last]] = snapshots.read(lambda snapshot: snapshot.ask("last"))
    low = UUID(int=0)
    while last is not None:
        given = {**parameters, "low": str(low), "last": last}
        window = snapshots.read(lambda snapshot, given=given: look(snapshot, options, given))  # type: ignore[misc] # a lambda's default
        yield window
        if window.high == UUID(last):
            return
        low = UUID(int=window.high.int + 1)


def look(snapshot: Snapshot, options: Options, given: Mapping[str, Any]) -> Window:
    """Check the window that begins at ``low``."""
    sizes = {"jobs": options.window, "others": PER_JOB * options.window}
    [[high]] = snapshot.ask("bounds", {**given, **sizes})
    bounded = {**given, "high": high}
    [[jobs, entries]] = snapshot.ask("size", bounded)
    found: list[Found] = []
    for statement, invariants in STATEMENTS.items():
        if options.wants(*invariants):
            found += snapshot.broken(statement, bounded)
    for invariant, text in options.extra.items():
        if options.wants(invariant) and "%(low)s" in text:
            found += of_the_caller(snapshot, invariant, text, bounded)
    return Window(
        UUID(high),
        jobs,
        entries,
        tuple(found),
        tokens=_records(snapshot, "tokens", bounded) if options.wants("I6") else b"",
        keys=_records(snapshot, "keys", bounded) if options.wants("I16") else b"",
    )


def of_the_caller(
    snapshot: Snapshot, invariant: str, text: str, given: Mapping[str, Any]
) -> list[Found]:
    """What a statement of the caller's finds: every row that it answers breaks ``invariant``."""
    counted = "SELECT count(*) OVER (), row_to_json(found)::text FROM ({}) AS found LIMIT {}"
    rows = snapshot.ask_text(counted.format(text, EXAMPLES), given)
    return [(f"{invariant}.extra", rows[0][0], [row[1] for row in rows])] if rows else []


def parameters(options: Options, silences: list[Silence], chained_at: Any) -> dict[str, Any]:
    """What the statements are told, beside the bounds of their window."""
    return {
        "edges": legal_steps(),
        "at_rest": options.at_rest,
        "bound_seconds": options.bound_seconds,
        "max_unpublished_seconds": options.max_unpublished_seconds,
        "max_lost_attempts": options.max_lost_attempts,
        "chained_at": chained_at,
        "silences_began": [silence.began for silence in silences],
        "silences_ended": [silence.ended for silence in silences],
        "take_seconds": options.take_seconds,
        "silence_margin_seconds": SILENCE_MARGIN_SECONDS,
    }


def _records(snapshot: Snapshot, statement: str, given: Mapping[str, Any]) -> bytes:
    [[records]] = snapshot.ask(statement, given)
    return bytes(records or b"")
