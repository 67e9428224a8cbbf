"""One run from an empty database to the verdict."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.faults.suite import ledger as ledgers
from tests.faults.suite.fault import everything
from tests.faults.suite.figures import spread
from tests.faults.suite.judge import Span, judge, quiesce
from tests.faults.suite.plan import Step
from tests.faults.suite.report import Report
from tests.faults.suite.runner import (
    DEAD_WORKER_SECONDS,
    PlatformDead,
    Record,
    Runner,
    load,
)
from tests.faults.suite.watch import Watch
from tests.faults.suite.world import Servers, World
from tests.services import template

QUIESCE_SECONDS = 120.0

#: When the rescuer took back what a killed process had held, by the name of the holder.
_TAKEN_BACK = """
    SELECT extract(epoch FROM r.at)::float FROM jobs_auditentry AS c
    JOIN jobs_auditentry AS r ON r.job_id = c.job_id AND r.token = c.token
        AND r.actor_kind = 'rescuer'
    WHERE c.event = 'claim' AND c.at <= to_timestamp(%(killed_at)s)
        AND (c.actor_id LIKE '%%/' || %(pid)s OR c.actor_id LIKE '%%:' || %(pid)s || '/%%')
        AND r.at > to_timestamp(%(killed_at)s)
"""


class Sitting:
    """Brings a world about, lets the plan happen to it, and fills the report."""

    def __init__(
        self, servers: Servers, home: Path, report: Report, say: Callable[[str], None]
    ) -> None:
        self._servers = servers
        self._home = home
        self._report = report
        self._say = say

    def run(self, steps: Iterable[Step], *, until_time: float, rate: float) -> None:
        began = time.time()
        place = self._home / "world"
        place.mkdir()
        with (
            template(self._servers.services, place) as name,
            World(self._servers, name, place, seed=self._report.seed) as world,
        ):
            self._say(f"at work after {time.time() - began:.0f} s")
            self._suffer(world, steps, until_time, rate)
            self._judge(world)
        self._report.seconds = time.time() - began
        self._report.busy = os.getloadavg()[1] / (os.cpu_count() or 1)

    def _suffer(self, world: World, steps: Iterable[Step], until_time: float, rate: float) -> None:
        report = self._report
        with Watch(world, self._say) as watch:
            runner = Runner(world, watch, self._say)
            report.records, report.sightings = runner.records, watch.sightings
            with load(world, report.seed, rate=rate):
                self._carry_out(runner, steps, until_time)
            world.heal_everything()
            self._say("faults are over; waiting for rest")
            report.not_at_rest = quiesce(world, QUIESCE_SECONDS)
        report.looks = watch.looks

    def _carry_out(self, runner: Runner, steps: Iterable[Step], until_time: float) -> None:
        try:
            runner.run(steps, until_time)
        except PlatformDead as error:
            self._report.errors.append(str(error))

    def _judge(self, world: World) -> None:
        report = self._report
        dead_letters = dead_letters_of(world)
        spans = hindered(report.records)
        verdict = judge(world, world.ledger_directory, hindered=spans)
        report.findings = verdict.findings
        report.figures = {**verdict.figures, "dead_letters": dead_letters}
        report.restarts = dict(world.restarts)
        report.dead_worker_seconds = taken_back(world, spans)
        report.dead_worker_bound = world.jobs["lease_seconds"] + DEAD_WORKER_SECONDS
        report.status_while_frozen = status_while(report, world.ledger_directory, "Redis: frozen")


def dead_letters_of(world: World) -> int:
    """How many the broker has given up on; the judge empties that queue."""
    with world.channel() as channel:
        declared = channel.queue_declare(world.dead_letter_queue, passive=True)
        return int(declared[1]) if declared is not None else 0


def hindered(records: Sequence[Record]) -> list[Span]:
    """When nobody could rescue, because a fault was held of the database or of the schedulers."""
    needed = {fault.name for fault in everything() if fault.touches & {"postgres", "scheduler"}}
    return [
        (record.injected_at, record.healed_at)
        for record in records
        if not needed.isdisjoint(record.name.split(" + "))
    ]


def taken_back(world: World, spans: Sequence[Span]) -> list[float]:
    """For every job that a killed process held: seconds from the kill to the rescue.

    The clock stands still in these spans, which do not overlap: they have bounds of their own.
    """
    found = []
    for pid, killed_at in world.killed:
        for (rescued_at,) in world.sql(_TAKEN_BACK, {"pid": str(pid), "killed_at": killed_at}):
            still = sum(
                max(0.0, min(end, rescued_at) - max(begin, killed_at)) for begin, end in spans
            )
            found.append(rescued_at - killed_at - still)
    return found


def status_while(report: Report, ledger: Path, name: str) -> float | None:
    """The 99th percentile of good status answers while this fault was held, in seconds."""
    spans = [(r.injected_at, r.healed_at) for r in report.records if name in r.name and r.struck]
    found = spread(
        line["seconds"]
        for line in ledgers.lines(ledger, "answers")
        if line["what"] == "status"
        and 200 <= line["status"] < 400
        and any(began <= line["at"] <= ended for began, ended in spans)
    )
    return None if found is None else found["p99"]
