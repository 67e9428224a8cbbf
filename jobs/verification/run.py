"""``verify``: every check in its order, added up into one report."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from jobs import conf
from jobs.verification import guards, windows, witness
from jobs.verification.ledger import Ledger
from jobs.verification.rules import INVARIANTS
from jobs.verification.snapshots import Snapshots, connect
from jobs.verification.spill import Keys
from jobs.verification.tally import Tally
from jobs.verification.values import Options, Progress, Report


def verify(
    *,
    ledger: Path | None = None,
    at_rest: bool = False,
    window: int = 5000,
    only: Collection[str] = (),
    bound_seconds: float = 60.0,
    max_unpublished_seconds: float | None = None,
    max_lost_attempts: int | None = None,
    extra: Mapping[str, str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    open_connection: Callable[[], Any] = connect,
) -> Report:
    """Check what must be true of all jobs, whatever happened to them. Reads only.

    Safe on a live system: a window of at most ``window`` jobs is looked at in a transaction of its
    own, on one snapshot. ``at_rest`` adds what is true only once everything had its time (I2, and
    no due doorbell unpublished). ``ledger`` is a directory of what an outside witness was told; see
    ``jobs/verification/ledger.py``. ``only`` limits the check to some invariants, such as "I3".

    ``bound_seconds`` is how long after its end a lease may stay unrescued (I12), and
    ``max_unpublished_seconds`` how long a due doorbell may wait for the relay (I9; None: for ever).
    ``max_lost_attempts`` is the highest that the setting ever was (I11; None: what it is now).
    ``extra`` maps an invariant to SQL of the caller's: every row that it answers is a violation. A
    statement with ``%(low)s`` and ``%(high)s`` is asked for each window of ids, in its snapshot;
    any other once. ``open_connection`` makes a connection in autocommit mode, to any database.

    Raises CannotVerify if the question could not be put, and ValueError for an unknown invariant.
    """
    options = Options(
        ledger=ledger,
        at_rest=at_rest,
        window=window,
        only=frozenset(only),
        bound_seconds=bound_seconds,
        max_unpublished_seconds=max_unpublished_seconds,
        max_lost_attempts=max_lost_attempts or conf.get().max_lost_attempts,
        take_seconds=conf.get().relay_take_seconds,
        extra=extra or {},
        on_progress=on_progress,
    )
    if unknown := sorted(options.only - {*INVARIANTS, *options.extra}):
        raise ValueError(f"unknown invariants: {', '.join(unknown)}")
    if window < 1:
        raise ValueError("a window holds at least one job")
    with closing(Snapshots(open_connection)) as snapshots:
        return _Run(snapshots, options).report()


@dataclass(slots=True)
class _Run:
    """One verification on its way."""

    snapshots: Snapshots
    options: Options
    tally: Tally = field(default_factory=Tally)
    notes: list[str] = field(default_factory=list)
    jobs: int = 0
    entries: int = 0
    windows: int = 0
    expected: int = 0

    def report(self) -> Report:
        began = time.monotonic()
        for name, why in self._unseen().items():
            if name in self.options.only:
                self.notes.append(f"{name} {why}, and was not checked")
        ledger = Ledger(self.options.ledger) if self.options.ledger else None
        chained_at = self._guard()
        silences = ledger.silences() if ledger else []
        self._walk(windows.parameters(self.options, silences, chained_at))
        self._once()
        if ledger:
            self._tell("ledger")
            witness.check(self.snapshots, ledger, self.options, self.tally)
            if ledger.torn:
                self.notes.append(f"torn last lines in the ledger, left out: {len(ledger.torn)}")
        return Report(
            self.tally.findings(self._checked()),
            self.jobs,
            self.entries,
            self.windows,
            round(time.monotonic() - began, 3),
            round(self.snapshots.slowest_seconds, 3),
            tuple(self.notes),
        )

    def _checked(self) -> list[str]:
        """The invariants that this run could say something about, in the order of their numbers."""
        given = [*INVARIANTS, *(name for name in self.options.extra if name not in INVARIANTS)]
        return [name for name in given if self.options.wants(name) and name not in self._unseen()]

    def _unseen(self) -> dict[str, str]:
        """What this run cannot judge, and what that would take."""
        needs = {}
        if not self.options.at_rest:
            needs["I2"] = "is judged at rest only"
        if not self.options.ledger:
            needs["I10"] = "is judged by a ledger only"
        return needs

    def _guard(self) -> Any:
        self._tell("guard")
        chained_at, unknown = self.snapshots.read(guards.chained_at)
        if unknown:
            self.notes.append(
                f"the database is newer than this code ({', '.join(unknown)}): "
                "the triggers' functions were not compared"
            )
        self.tally.add_all(
            self.snapshots.read(lambda snapshot: guards.check(snapshot, self.options, unknown))
        )
        [[self.expected]] = self.snapshots.read(lambda snapshot: snapshot.ask("estimate"))
        return chained_at

    def _walk(self, parameters: Mapping[str, Any]) -> None:
        with Keys() as tokens, Keys() as keys:
            for window in windows.walk(self.snapshots, self.options, parameters):
                self.tally.add_all(window.found)
                tokens.add(window.tokens)
                keys.add(window.keys)
                self.windows += 1
                self.jobs += window.jobs
                self.entries += window.entries
                self._tell("windows")
            self._tell("tokens and keys")
            for ids in tokens.repeated():
                self.tally.add("I6.token", len(ids) - 1, [str(ids[-1])])
            for ids in keys.repeated():
                self._same_key(ids)

    def _same_key(self, ids: Collection[UUID]) -> None:
        given = {"ids": [str(job_id) for job_id in ids]}
        for count, examples in self.snapshots.read(lambda s: s.ask("keys_again", given)):
            self.tally.add("I16.twice", count, examples)

    def _once(self) -> None:
        for invariant, text in self.options.extra.items():
            if self.options.wants(invariant) and "%(low)s" not in text:
                self.tally.add_all(
                    self.snapshots.read(
                        lambda s, i=invariant, t=text: windows.of_the_caller(s, i, t, {})  # type: ignore[misc] # a lambda's defaults
                    )
                )

    def _tell(self, stage: str) -> None:
        if self.options.on_progress:
            self.options.on_progress(Progress(stage, self.jobs, self.expected))
