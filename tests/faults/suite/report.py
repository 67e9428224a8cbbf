"""What a run came to: one table, as text, as Markdown for the documentation, and as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.suite.fault import Back
from tests.faults.suite.judge import Finding
from tests.faults.suite.runner import BOUNDS, DEAD_WORKER_SECONDS, Record
from tests.faults.suite.watch import Sighting

Row = Sequence[str]

#: Load per processor above which the machine had no time to spare, and a late return says more
#: about the machine than about the platform. The suite by itself comes to about 1.
BUSY = 3.0

#: The figures of the table, by the name that ``figures`` gives them.
COUNTED: dict[str, str] = {
    "accepted": "jobs accepted",
    "completed": "completed",
    "failed": "failed, as their handlers' data foresee",
    "cancelled": "cancelled on request",
    "lost_attempts": "attempts lost with their worker",
    "doorbells_without_claim": "duplicates absorbed (rings that led to no claim)",
    "fenced_writes": "fenced writes (late results refused)",
    "doorbells_rung_again": "doorbells rung again",
    "dead_letters": "dead letters",
    "statuses_seen": "statuses read",
    "answers_lost_and_asked_again": "lost answers asked again by key",
}
_BACK_NAMES: dict[Back, str] = {
    "worker": "worker killed or frozen: next completion",
    "database": "database back: next completion",
    "broker": "broker back: next completion",
    "redis": "Redis back: statuses fresh",
    "platform": "other process: next completion",
}


@dataclass
class Report:
    """One run. ``passed`` is what the exit code says."""

    mode: str
    seed: int
    generation: str
    replay: str
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    #: The machine's load per processor, the mean of the last five minutes.
    busy: float = 0.0
    records: list[Record] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    #: Seconds from a kill until the rescuer had taken the job back, for each job concerned.
    dead_worker_seconds: list[float] = field(default_factory=list)
    dead_worker_bound: float = 0.0
    #: 99th percentile of a status request while Redis stood still, in seconds.
    status_while_frozen: float | None = None
    not_at_rest: list[str] = field(default_factory=list)
    looks: int = 0
    errors: list[str] = field(default_factory=list)
    strict: bool = True

    @property
    def broken(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.violations]

    @property
    def late(self) -> list[Record]:
        return [record for record in self.records if record.late]

    @property
    def not_run(self) -> list[Record]:
        return [record for record in self.records if not record.struck]

    @property
    def too_slow(self) -> list[float]:
        return [value for value in self.dead_worker_seconds if value > self.dead_worker_bound]

    @property
    def times_count(self) -> bool:
        """Whether a late return, unlike none at all, fails the run. It is shown in any case."""
        return self.busy <= BUSY

    @property
    def passed(self) -> bool:
        never = [record for record in self.late if record.seconds is None]
        bad = [*self.broken, *self.sightings, *never, *self.not_at_rest, *self.errors]
        late = self.times_count and (self.late or self.too_slow)
        return not bad and not late and not (self.strict and self.not_run)

    # -- rows -----------------------------------------------------------------------------------

    def summary(self) -> list[Row]:
        rows: list[Row] = [
            ("servers", ", ".join(f"{name} {text}" for name, text in self.versions.items())),
            ("seed", str(self.seed)),
            ("length", f"{self.seconds:.0f} s"),
            ("load per processor", f"{self.busy:.1f}"),
            ("faults injected", str(len(self.records) - len(self.not_run))),
            ("faults not run", str(len(self.not_run))),
        ]
        rows += [(text, _shown(self.figures.get(name))) for name, text in COUNTED.items()]
        restarts = ", ".join(f"{role} {count}" for role, count in sorted(self.restarts.items()))
        rows += [
            ("processes started again", restarts or "none"),
            ("looks at the tables during the faults", str(self.looks)),
            ("5xx answers by cause", _shown(self.figures.get("errors_5xx"))),
            ("status p99, Redis frozen", _seconds(self.status_while_frozen)),
        ]
        return rows

    def recoveries(self) -> list[Row]:
        """Per class: how many, the longest, the bound, the verdict."""
        grouped: dict[Back, list[Record]] = defaultdict(list)
        for record in self.records:
            if record.struck:
                grouped[record.back].append(record)
        rows = [_recovery(back, grouped[back]) for back in BOUNDS if grouped[back]]
        if self.dead_worker_seconds:
            longest = max(self.dead_worker_seconds)
            verdict = "TOO LATE" if self.too_slow else "held"
            count, bound = str(len(self.dead_worker_seconds)), f"{self.dead_worker_bound:g} s"
            name = f"dead worker's jobs taken back (lease + {DEAD_WORKER_SECONDS:g} s)"
            rows.append((name, count, f"{longest:.2f} s", bound, verdict))
        return rows

    def invariants(self) -> list[Row]:
        return [
            (one.id, one.title, str(one.violations) if one.violations else "0")
            for one in self.findings
        ]

    def troubles(self) -> list[str]:
        """Everything that makes the run fail, in words."""
        lines = [f"{one.id} {one.title}: {one.violations}, {one.examples}" for one in self.broken]
        lines += [
            f"{one.invariant} first seen broken between [{one.since}] and [{one.now}]"
            for one in self.sightings
        ]
        lines += [f"late: {one.name}: {_seconds(one.seconds)}" for one in self.late]
        lines += [f"NOT RUN: {one.name}: {one.problem}" for one in self.not_run]
        lines += [f"not at rest: {text}" for text in self.not_at_rest]
        lines += [f"dead worker's job taken back after {value:.2f} s" for value in self.too_slow]
        if (self.late or self.too_slow) and not self.times_count:
            lines.append(f"times are not judged: load per processor {self.busy:.1f} > {BUSY:g}")
        return [*lines, *self.errors]

    # -- forms ----------------------------------------------------------------------------------

    def text(self) -> str:
        parts = [
            _aligned([("fault", "held", "back after", ""), *map(_fault_row, self.records)]),
            _aligned(self.summary()),
            _aligned([("back to work", "times", "longest", "bound", ""), *self.recoveries()]),
            _aligned([("", "invariant", "violations"), *self.invariants()]),
            "\n".join([*self.troubles(), self._last_line()]),
        ]
        return "\n\n".join(part for part in parts if part)

    def _last_line(self) -> str:
        if self.passed:
            return f"PASSED (seed {self.seed})"
        return f"FAILED (seed {self.seed}); again with: {self.replay}"

    def markdown(self) -> str:
        return "\n\n".join(
            [
                _table(["", ""], self.summary()),
                _table(["Back to work", "Times", "Longest", "Bound", "Verdict"], self.recoveries()),
                _table(["", "Invariant", "Violations"], self.invariants()),
            ]
        )

    def json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "records": [
                {**asdict(one), "seconds": one.seconds, "late": one.late} for one in self.records
            ],
            "recoveries": [list(row) for row in self.recoveries()],
            "troubles": self.troubles(),
            "passed": self.passed,
        }


def _recovery(back: Back, records: Sequence[Record]) -> Row:
    longest = max((r.seconds for r in records if r.seconds is not None), default=None)
    verdict = "TOO LATE" if any(r.late for r in records) else "held"
    return (
        _BACK_NAMES[back],
        str(len(records)),
        _seconds(longest),
        f"{BOUNDS[back]:g} s",
        verdict,
    )


def _fault_row(record: Record) -> Row:
    mark = record.problem or ("LATE" if record.late else "")
    held = record.healed_at - record.injected_at
    return (record.name, f"{held:.1f} s", _seconds(record.seconds), mark)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {count}" for name, count in sorted(value.items())) or "none"
    return "-" if value is None else str(value)


def _aligned(rows: Iterable[Row]) -> str:
    kept = [list(map(str, row)) for row in rows]
    columns = max((len(row) for row in kept), default=0)
    widths = [max(len(row[i]) for row in kept if i < len(row)) for i in range(columns)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in kept
    )


def _table(header: Row, rows: Iterable[Row]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
