"""The relay: takes due outbox rows, rings the broker with no transaction open, settles.

A row is marked published only after the broker confirmed the message *and* did not return it as
unroutable. Whatever goes wrong in between, the row stays and is rung again; ringing twice is
harmless because a claim decides. A broker outage costs tries, which nothing counts against a job.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from celery import Celery
from django.db import connection

from jobs import conf, connections, doorbells, transactions
from jobs.pace import Paces
from jobs.publisher import BrokerTrouble, Message, Publisher, Refused, Taken
from jobs.values import Doorbell, Foretold

log = logging.getLogger("jobs.relay")

#: How long a queue that refuses is left alone.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 3.0
#: Messages that rows of one handler are spread over at least, so that all workers get some; but for
#: less work than this a message of its own costs its worker more than waiting costs the job.
LEAST_MESSAGES = 4
LEAST_SECONDS = 0.005
#: Jobs that are rung for at once after a pause. A full round is followed by one of twice as many,
#: up to ``relay_batch_size``: workers begin soon with a backlog, and soon get large messages of it.
FIRST_BATCH = 250
#: A round that rang for so many jobs takes longer by this factor. At such a rate they keep all
#: processors busy, and the more of them share the less each of them waits.
CROWD = 8
CROWDED_FACTOR = 2.5
#: How long a doorbell that was sent early travels before its row is taken, as a part of a round.
#: Whom it wakes, one after another, all the way to the reader, needs the processors more.
HEAD_START = 0.5
#: Stands for the id of a row that is not taken yet; the database gives none.
_NOT_TAKEN = 0


class Pauses:
    """Leaves alone, for a while, queues that refuse, so that neither they nor others suffer.

    The pause doubles while a queue takes nothing at all. Times are the monotonic clock.
    """

    def __init__(self) -> None:
        self._ends: dict[str, tuple[float, float]] = {}

    def add(self, queue: str, *, took_some: bool) -> None:
        _, before = self._ends.get(queue, (0.0, 0.0))
        seconds = FIRST_PAUSE_SECONDS
        if before and not took_some:
            seconds = min(LONGEST_PAUSE_SECONDS, before * 2)
        self._ends[queue] = (time.monotonic() + seconds, seconds)

    def end(self, queue: str) -> None:
        self._ends.pop(queue, None)

    def present(self) -> list[str]:
        """The queues to leave alone now."""
        return [queue for queue, (ends, _) in self._ends.items() if ends > time.monotonic()]

    def next_end(self) -> float:
        """When the first of these may be tried again."""
        ends = [self._ends[queue][0] for queue in self.present()]
        return min(ends, default=time.monotonic())


@dataclass(slots=True)
class _Early:
    """A doorbell that was sent before its row was taken, when, and if its job was there then."""

    row: Taken
    at: float
    was_there: bool

    def counts(self) -> bool:
        """Whether it led a worker to its job, if the database has that by now."""
        return self.was_there or time.monotonic() - self.at <= doorbells.EARLY_SECONDS


class Relay:
    """One relay; any number may run, each takes other rows."""

    def __init__(self, app: Celery) -> None:
        self._publisher = Publisher(app)
        self._paces = Paces()
        self._pauses = Pauses()
        self._doubtful = False
        self._rests_until = float("-inf")
        self._next_batch = FIRST_BATCH
        #: The jobs of the last rows. The wake-ups of some come when they are rung already.
        self._taken_last: set[UUID] = set()
        self._owed: tuple[list[Taken], list[Taken]] = ([], [])
        self._early: _Early | None = None

    def ring_early(self, foretold: Foretold) -> bool:
        """Ring for a job before its doorbell is taken, one at a time; says whether to take it now.

        That comes next then, with ``run_once``; else once the job is said to be there. Does not
        ring if anything speaks against it: trouble, no connection, a queue that refuses or that
        nobody knows. Were there no such job, a worker would find none. Raises BrokerTrouble.
        """
        if self._early is None and self._may_ring(foretold):
            self._begin(foretold)
        return foretold.is_there

    def _may_ring(self, foretold: Foretold) -> bool:
        if self._doubtful or self._owed[1] or foretold.job_id in self._taken_last:
            return False
        return foretold.queue in conf.get().queues and foretold.queue not in self._pauses.present()

    def _begin(self, foretold: Foretold) -> None:
        job_id, handler, queue, is_there = foretold
        row = Taken(_NOT_TAKEN, Doorbell(job_id, 1), queue, handler)
        [message] = grouped([row], self._paces.seconds({handler}))
        early = _Early(row, time.monotonic(), is_there)
        try:
            is_sent = self._publisher.begin(replace(message, early=not is_there))
        except BrokerTrouble:
            self._doubtful = True
            raise
        if is_sent:
            self._early = early
            # Deaf, too: what wakes it now would take a processor from those on the way.
            time.sleep(head_start_seconds())

    @property
    def limit(self) -> int:
        """For about how many jobs the next round rings at most."""
        return 1 if self._doubtful else min(self._next_batch, conf.get().relay_batch_size)

    def run_once(self) -> int:
        """Publish one batch; returns how many doorbells were published. Raises BrokerTrouble.

        Takes nothing before the broker is there, and after trouble one message first: a broker
        that blocks during an alarm keeps what it was sent, and would deliver every try in the end.
        """
        early, self._early = self._early, None
        rows = self._taken_after(early)
        if not rows and early is None:
            return 0
        published: list[Taken] = []
        trouble = True
        try:
            self._publish(rows, early, published)
            trouble = False
        except Refused as refusal:
            trouble = False
            log.warning("%s", refusal)
            self._pause(refusal, published)
        finally:
            self._doubtful = trouble
            self._owed = (published, rows)
            self._settle()
        if len(published) == len(rows):
            for queue in {row.queue for row in rows}:
                self._pauses.end(queue)
        return len(published)

    def close(self) -> None:
        """Close the broker connection."""
        self._publisher.close()

    def _taken_after(self, early: _Early | None) -> list[Taken]:
        try:
            # Whether the connection lives is found out by the take, which then repeats itself.
            connections.refresh()
            self._settle()
            self._publisher.open()
            rows = self._take()
        except BaseException:
            if early is not None:
                # Nobody will wait for its confirm.
                self._publisher.close()
            raise
        if rows:
            self._taken_last = {row.bell.job_id for row in rows}
        return rows

    def _publish(self, rows: Sequence[Taken], early: _Early | None, published: list[Taken]) -> None:
        """Publish these rows, but one whose early doorbell counts, and wait for all of them."""
        bell = early.row.bell if early is not None and early.counts() else None
        rung = [row for row in rows if row.bell == bell]
        left = [row for row in rows if row.bell != bell]
        messages = grouped(left, self._paces.seconds({row.handler for row in left}))
        try:
            self._publisher.publish(messages[:1] if self._doubtful else messages, published)
        finally:
            if early is not None and early.row in published:
                published.remove(early.row)
                published += rung

    def _take(self) -> list[Taken]:
        """Take rows. Those of a queue that is left alone are read past, all of them if there are no
        others, so that is done once per pause and not at every poll."""
        paused = self._pauses.present()
        if paused and time.monotonic() < self._rests_until:
            return []
        limit = self.limit
        rows = transactions.run(lambda: take(limit, paused), single=True)
        if not self._doubtful:
            self._next_batch = 2 * limit if len(rows) >= limit else FIRST_BATCH
        if paused and not rows:
            self._rests_until = self._pauses.next_end()
        return rows

    def _pause(self, refusal: Refused, published: Iterable[Taken]) -> None:
        took = {row.queue for row in published}
        for queue in refusal.queues:
            self._pauses.add(queue, took_some=queue in took)

    def _settle(self) -> None:
        """Settle what was published; what the database does not take now is owed until it does."""
        if self._owed[1]:
            settle(*self._owed)
            self._owed = ([], [])


def take(limit: int, without: Sequence[str] = ()) -> list[Taken]:
    """Take due rows for ``relay_take_seconds``, most urgent first, of all queues but those
    ``without``, until they ring for ``limit`` jobs; the last may ring for a hundred."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT * FROM jobs_take_v2(%s, %s, %s)",
            [limit, conf.get().relay_take_seconds, list(without)],
        )
        rows = cursor.fetchall()
    rows.sort(key=lambda row: (-row[5], row[6]))
    return [
        Taken(row_id, Doorbell(job_id, version), queue, handler)
        for row_id, first, version, queue, handler, _, _, others in rows
        for job_id in (first, *(others or ()))
    ]


def grouped(rows: Sequence[Taken], seconds: Mapping[str, float]) -> list[Message]:
    """The messages that carry these doorbells, in their order; those of a row stand together.
    ``seconds`` is each handler's mean run.

    Those of one handler share messages of at most ``group_seconds`` of work each, all about the
    same in size, and always several of them, for several workers, except for what is done in a
    moment. A job of an unknown pace travels alone, and so does one that has run before: what it did
    to its worker then, it shall not do to neighbours.
    """
    limit, work = conf.get().message_limit, conf.get().group_seconds
    together: dict[tuple[str, str], list[Taken]] = {}
    messages: list[Message] = []
    for row in rows:
        if row.bell.version == 1 and row.handler in seconds:
            together.setdefault((row.queue, row.handler), []).append(row)
        else:
            messages.append(Message(row.queue, (row,)))
    for (queue, handler), group in together.items():
        each = seconds[handler]
        most = max(_in(LEAST_SECONDS, each, limit), len(group) // LEAST_MESSAGES)
        most = max(1, min(_in(work, each, limit), most))
        # Alike in size: one that carries the few that are left over costs as much as a full one.
        size = math.ceil(len(group) / math.ceil(len(group) / most))
        for start in range(0, len(group), size):
            members = tuple(group[start : start + size])
            messages.append(Message(queue, members, seconds=each * len(members)))
    place = {row.id: index for index, row in enumerate(rows)}
    return sorted(messages, key=lambda message: place[message.rows[0].id])


def _in(seconds: float, each: float, limit: int) -> int:
    """How many runs of ``each`` seconds fit, but ``limit`` at most."""
    return limit if each * limit <= seconds else int(seconds / each)


def head_start_seconds() -> float:
    """How long an early doorbell travels before anything else is done."""
    return min(conf.get().relay_round_seconds * HEAD_START, doorbells.EARLY_SECONDS / 2)


def round_seconds(published: int, limit: int) -> float:
    """How long a round takes at least that published so many; what comes meanwhile shares the next.

    No time at all if it found nothing, so that the first job after a pause does not wait, or all of
    its ``limit`` or half of a whole batch, so that a backlog does not, nor workers for the next.
    """
    settings = conf.get()
    if not 0 < published < min(limit, settings.relay_batch_size / 2):
        return 0.0
    return settings.relay_round_seconds * (CROWDED_FACTOR if published >= CROWD else 1)


def settle(published: Sequence[Taken], taken: Sequence[Taken]) -> None:
    """Mark what the broker confirmed, and give back the rest at once.

    A published row keeps ``taken_until``: it tells the reconciler when publishing began.
    Repeated whole on a lost connection. If all that fails, the rows are rung again once
    ``relay_take_seconds`` are over.
    """
    left = set(taken).difference(published) if len(published) < len(taken) else ()
    given_back = {row.id for row in left}
    whole = {row.id for row in taken} - given_back
    rung = [str(row.bell.job_id) for row in published if row.id in given_back]

    def work() -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT jobs_settle_v2(%s, %s, %s::uuid[])",
                [sorted(whole), sorted(given_back), rung],
            )

    transactions.run(work, single=True)
