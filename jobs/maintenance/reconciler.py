"""Rings again for jobs whose doorbell was published and never answered.

A doorbell that waits in a long queue and one that is lost look the same in the tables. Ringing for
both would double a slow backlog; waiting for both would leave a purged one lying. What tells them
apart is that a queue is first in, first out: a doorbell that was published well before one that has
been heard does not wait any more. Until something was heard there is only doubt, and doubt may ring
a handful of times: from the back, because one from there that is heard proves the most.

Everything is counted per queue and handler, so that jobs that nobody can answer take no turn from
others. All times are the database's clock. What is remembered is only a matter of pace: a scheduler
that starts anew, or a second one, rings a little more often and loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

from django.db import connection

from jobs import conf, policy, sql, transactions

#: Running jobs whose doorbells say how far a queue has been heard.
FRONT_ROWS = 200
_LAST_ID = UUID(int=2**128 - 1)


class Finding(Enum):
    """What is known of a doorbell that was not answered."""

    LOST = "lost"
    DOUBT = "doubt"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A PENDING job and its doorbell. ``rearms`` is None if its outbox row is missing."""

    queue: str
    job_id: UUID
    version: int
    attempt: int
    handler: str
    due_at: datetime
    rearms: int | None
    published_at: datetime | None
    heard_after: datetime | None


Choice = tuple[Waiting, bool]  #: and whether it is in doubt


@dataclass(frozen=True, slots=True)
class Ring:
    """A doorbell that this scheduler rang again."""

    version: int
    attempt: int
    armed_at: datetime
    rearms: int
    in_doubt: bool
    #: What an answer proves: the queue was heard beyond this moment.
    heard_after: datetime | None


@dataclass(slots=True)
class Group:
    """What is known of one handler's jobs in one queue."""

    rings: dict[UUID, Ring] = field(default_factory=dict)
    heard_until: datetime | None = None
    #: What was heard a tick ago. Whoever was handed a doorbell has had time to claim since.
    proven_until: datetime | None = None
    #: Rounds of rings in a row of which none was answered within its time.
    silent_rounds: int = 0
    silent_since: datetime | None = None

    def answered(self, job_id: UUID) -> None:
        self.silent_rounds, self.silent_since = 0, None
        self.heard(self.rings.pop(job_id).heard_after)

    def heard(self, moment: datetime | None) -> None:
        """The queue was heard up to here. It never goes back."""
        if moment is not None and (self.heard_until is None or moment > self.heard_until):
            self.heard_until = moment

    def unanswered(self, *, in_doubt: bool) -> int:
        return sum(ring.in_doubt is in_doubt for ring in self.rings.values())

    def lapse(self, now: datetime) -> None:
        """Give up what was not answered in time, and be slower the next time."""
        over = [job_id for job_id, ring in self.rings.items() if self._ends_at(ring) <= now]
        rings = [self.rings.pop(job_id) for job_id in over]
        if any(self.silent_since is None or ring.armed_at > self.silent_since for ring in rings):
            self.silent_rounds, self.silent_since = self.silent_rounds + 1, now

    def _ends_at(self, ring: Ring) -> datetime:
        return ring.armed_at + _delay(ring.rearms + self.silent_rounds)


def finding(waiting: Waiting, proven_until: datetime | None, now: datetime) -> Finding | None:
    """Lost, in doubt, or None: nothing is wrong yet, or the relay has not published it.

    Lost is what was settled before a relay began to publish something that has been heard.
    """
    if waiting.rearms is None:
        return Finding.LOST if waiting.due_at < now - _delay(0) else None
    if waiting.published_at is None:
        return None
    if waiting.rearms == 0 and proven_until and waiting.published_at < proven_until:
        return Finding.LOST
    if waiting.published_at > now - _delay(waiting.rearms):
        return None
    # A second ring in vain means that the first was no matter of patience.
    return Finding.LOST if waiting.rearms else Finding.DOUBT


def _delay(rearms: int) -> timedelta:
    settings = conf.get()
    seconds = policy.rearm_delay_seconds(settings.rearm_seconds, rearms, settings.rearm_cap_seconds)
    return timedelta(seconds=seconds)


class Reconciler:
    """One scheduler's reconciler: its place in each queue and what it rang for. Any number may
    run; each has its own bounds."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], Group] = {}
        self._places: dict[str, tuple[datetime, UUID]] = {}

    def run_once(self) -> int:
        """Look at one window of each queue and ring again where it is due; returns how often."""
        [(now, queues)] = _rows("rearm_queues", {})
        self._hear(now, queues)
        self._places = {queue: at for queue, at in self._places.items() if queue in queues}
        chosen = [one for queue in queues for one in self._choose(self._window(queue, now), now)]
        return self._arm(chosen, now)

    def _group(self, queue: str, handler: str) -> Group:
        return self._groups.setdefault((queue, handler), Group())

    # -- what became of earlier rings

    def _hear(self, now: datetime, queues: Collection[str]) -> None:
        for group in self._groups.values():
            group.proven_until = group.heard_until
        rung = [(group, job_id) for group in self._groups.values() for job_id in group.rings]
        found = _jobs([job_id for _, job_id in rung])
        for group, job_id in rung:
            version, attempt = found.get(job_id, (0, 0))
            if attempt > group.rings[job_id].attempt:
                group.answered(job_id)
            elif version != group.rings[job_id].version:
                del group.rings[job_id]
        front = _rows("rearm_front", {"limit": FRONT_ROWS, **_take()}) if queues else []
        for queue, handler, moment in front:
            self._group(queue, handler).heard(moment)
        for group in self._groups.values():
            group.lapse(now)

    # -- which to ring next

    def _window(self, queue: str, now: datetime) -> list[Waiting]:
        limit = conf.get().rearm_batch_size
        due_at, job_id = self._places.get(queue, (now, _LAST_ID))
        where = {"queue": queue, "due_at": due_at, "id": job_id, "limit": limit}
        window = [Waiting(queue, *row) for row in _rows("rearm_window", {**where, **_take()})]
        if len(window) < limit:
            self._places.pop(queue, None)
        else:
            self._places[queue] = (window[-1].due_at, window[-1].job_id)
        return window

    def _choose(self, window: Iterable[Waiting], now: datetime) -> Iterator[Choice]:
        found: dict[tuple[str, Finding], list[Waiting]] = {}
        for one in window:
            group = self._group(one.queue, one.handler)
            what = finding(one, group.proven_until, now)
            if what is not None and one.job_id not in group.rings:
                found.setdefault((one.handler, what), []).append(one)
        for (_, what), some in found.items():
            in_doubt = what is Finding.DOUBT
            group = self._group(some[0].queue, some[0].handler)
            room = max(0, _most(in_doubt=in_doubt) - group.unanswered(in_doubt=in_doubt))
            # The window runs from young to old. Doubts are chosen from the back of the queue; of
            # what is lost the oldest has waited longest.
            for one in some[:room] if in_doubt else some[::-1][:room]:
                yield one, in_doubt

    def _arm(self, chosen: list[Choice], now: datetime) -> int:
        if not chosen:
            return 0
        rows = [
            {"id": str(one.job_id), "version": one.version, "rearms": one.rearms or 0}
            for one, _ in chosen
        ]
        parameters: dict[str, Any] = {
            "rows": json.dumps(rows),
            "ids": [row["id"] for row in rows],
        }

        def work() -> list[Any]:
            with connection.cursor() as cursor:
                cursor.execute("SELECT jobs_unshare_v1(%(ids)s::uuid[])", parameters)
            return _rows("rearm", parameters)

        armed = {job_id for (job_id,) in transactions.run(work)}
        for one, in_doubt in chosen:
            if one.job_id in armed:
                ring = Ring(
                    version=one.version,
                    attempt=one.attempt,
                    armed_at=now,
                    rearms=(one.rearms or 0) + 1,
                    in_doubt=in_doubt,
                    heard_after=one.heard_after,
                )
                self._group(one.queue, one.handler).rings[one.job_id] = ring
        return len(armed)


def _most(*, in_doubt: bool) -> int:
    settings = conf.get()
    return settings.rearm_probes if in_doubt else settings.rearm_outstanding


def _jobs(ids: list[UUID]) -> dict[UUID, tuple[int, int]]:
    """Version and attempt of these jobs."""
    if not ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, version, attempt FROM jobs_job WHERE id = ANY(%s::uuid[])",
            [[str(job_id) for job_id in ids]],
        )
        return {job_id: (version, attempt) for job_id, version, attempt in cursor.fetchall()}


def _take() -> dict[str, float]:
    return {"take_seconds": conf.get().relay_take_seconds}


def _rows(statement: str, parameters: dict[str, Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql.load(statement), parameters)
        found: list[Any] = cursor.fetchall()
        return found
