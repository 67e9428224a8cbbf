"""Two jobs as plain values, and what every verb must do to them: the transition table, read alone.

Nothing here knows the engine. A verb on the model answers as the verb of ``jobs.lifecycle`` should,
so that a run of both can be compared step by step, and two verbs at once with both serial orders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jobs.states import EDGES, JobEvent, JobState

#: What a verb answers when it changes nothing because one of its jobs forbids it.
REFUSED = "refused"
FENCED = "fenced"

Answer = Any


@dataclass(frozen=True, slots=True)
class Row:
    """One job."""

    state: JobState = JobState.PENDING
    version: int = 1
    attempt: int = 0
    failed_attempts: int = 0
    lost_attempts: int = 0
    asked: bool = False
    hand: int | None = None
    lapsed: bool = False
    events: tuple[JobEvent, ...] = (JobEvent.SUBMIT,)


@dataclass(frozen=True, slots=True)
class Hand:
    """One attempt in a worker's hands, live or stale."""

    job: int
    failed_attempts: int
    recorded: JobEvent | None = None


@dataclass(frozen=True, slots=True)
class World:
    """All jobs and all attempts ever handed out."""

    rows: tuple[Row, ...]
    hands: Mapping[int, Hand] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """The budgets, as the engine's settings say them."""

    max_attempts: int
    max_lost_attempts: int


@dataclass
class Model:
    """Applies verbs to a world; every method returns the world after it and the answer."""

    limits: Limits
    legal: frozenset[tuple[JobEvent, JobState]] = field(
        default_factory=lambda: frozenset(
            (edge.event, source) for edge in EDGES for source in edge.sources
        )
    )

    def claim(self, world: World, job: int, version: int, hand: int) -> tuple[World, Answer]:
        """``hand`` is the number that this claim's attempt gets if it succeeds."""
        row = world.rows[job]
        if row.version != version or (JobEvent.CLAIM, row.state) not in self.legal:
            return world, None
        claimed = replace(
            self._moved(row, JobEvent.CLAIM, JobState.RUNNING), attempt=row.attempt + 1, hand=hand
        )
        hands = {**world.hands, hand: Hand(job, row.failed_attempts)}
        return replace(_with(world, job, claimed), hands=hands), hand

    def finish(self, world: World, hand: int, wish: JobEvent) -> tuple[World, Answer]:
        """``wish`` FAIL is an error of the handler: a retry while the budget lasts."""
        held = world.hands[hand]
        row = world.rows[held.job]
        if row.hand != hand:
            return world, held.recorded or FENCED
        event = self._verdict(row, held, wish)
        moved = self._moved(row, event, _target(event))
        charged = event in (JobEvent.RETRY, JobEvent.FAIL)
        moved = replace(moved, failed_attempts=row.failed_attempts + charged)
        hands = {**world.hands, hand: replace(held, recorded=event)}
        return replace(_with(world, held.job, moved), hands=hands), event

    def _verdict(self, row: Row, held: Hand, wish: JobEvent) -> JobEvent:
        event = wish
        if wish is JobEvent.FAIL and held.failed_attempts + 1 < self.limits.max_attempts:
            event = JobEvent.RETRY
        if row.asked and event in (JobEvent.RETRY, JobEvent.RELEASE):
            return JobEvent.CANCEL
        return event

    def heartbeat(self, world: World, hand: int) -> tuple[World, Answer]:
        """Answers whether it is still held, and whether it shall stop."""
        row = world.rows[world.hands[hand].job]
        if row.hand != hand:
            return world, (False, False)
        return _with(world, world.hands[hand].job, replace(row, lapsed=False)), (True, row.asked)

    def cancel(self, world: World, jobs: Iterable[int]) -> tuple[World, Answer]:
        after = world
        answers: list[JobEvent | None] = []
        for job in jobs:
            row = after.rows[job]
            event: JobEvent | None = None
            if row.state is JobState.RUNNING:
                if not row.asked:
                    event = JobEvent.REQUEST_CANCEL
                    moved = self._moved(row, event, JobState.RUNNING)
                    after = _with(after, job, replace(moved, asked=True))
            elif row.state is not JobState.CANCELLED:
                event = JobEvent.CANCEL
                if (event, row.state) not in self.legal:
                    return world, REFUSED
                after = _with(after, job, self._moved(row, event, JobState.CANCELLED))
            answers.append(event)
        return after, tuple(answers)

    def reopen(self, world: World, jobs: Iterable[int]) -> tuple[World, Answer]:
        after = world
        answers: list[JobEvent | None] = []
        for job in jobs:
            row = after.rows[job]
            if row.state in (JobState.PENDING, JobState.RUNNING):
                answers.append(None)
                continue
            if (JobEvent.REOPEN, row.state) not in self.legal:
                return world, REFUSED
            moved = self._moved(row, JobEvent.REOPEN, JobState.PENDING)
            after = _with(after, job, replace(moved, failed_attempts=0, lost_attempts=0))
            answers.append(JobEvent.REOPEN)
        return after, tuple(answers)

    def rescue(self, world: World, jobs: Iterable[int]) -> tuple[World, Answer]:
        """Of the lapsed ones only ``jobs``: a locked row is left for the next time."""
        after = world
        answers: dict[int, JobEvent] = {}
        for job in jobs:
            row = after.rows[job]
            if not row.lapsed or row.state is not JobState.RUNNING:
                return world, REFUSED
            event = self._lapse_verdict(row)
            moved = self._moved(row, event, _target(event))
            lost = event is not JobEvent.CANCEL
            after = _with(after, job, replace(moved, lost_attempts=row.lost_attempts + lost))
            answers[job] = event
        return after, answers

    def _lapse_verdict(self, row: Row) -> JobEvent:
        if row.asked:
            return JobEvent.CANCEL
        if row.lost_attempts + 1 >= self.limits.max_lost_attempts:
            return JobEvent.FAIL
        return JobEvent.RESCUE

    def _moved(self, row: Row, event: JobEvent, target: JobState) -> Row:
        running = target is JobState.RUNNING
        return replace(
            row,
            state=target,
            version=row.version + 1,
            events=(*row.events, event),
            hand=row.hand if running else None,
            lapsed=row.lapsed and running,
            asked=row.asked and target is not JobState.PENDING,
        )


def lapsed(world: World, jobs: Iterable[int]) -> World:
    """The leases of those of these jobs that run are over."""
    for job in jobs:
        row = world.rows[job]
        if row.state is JobState.RUNNING:
            world = _with(world, job, replace(row, lapsed=True))
    return world


def _target(event: JobEvent) -> JobState:
    return next(edge.target for edge in EDGES if edge.event is event)


def _with(world: World, job: int, row: Row) -> World:
    rows = tuple(row if index == job else old for index, old in enumerate(world.rows))
    return replace(world, rows=rows)
