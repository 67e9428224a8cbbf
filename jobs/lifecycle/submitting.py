"""The verb submit: all jobs of a request or none, and known keys answered by the known job."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from itertools import chain
from typing import Any
from uuid import UUID

from django.db import connection

from jobs import events, policy, sql, transactions
from jobs.combining import Combiner
from jobs.lifecycle.beside import Beside
from jobs.lifecycle.standing import Standing
from jobs.lifecycle.wanted import Checker, Shape, Wanted, is_keyed
from jobs.lifecycle.writing import Call, call_each, ids_of
from jobs.states import JobState
from jobs.values import SYSTEM, Accepted, Actor, Born, Submission

#: Most jobs without keys that are checked in Python while PostgreSQL inserts those before them. One
#: statement costs about as much as ten of them.
PART = 400
#: Jobs of the first part of a long submit, while whose check PostgreSQL has nothing to do.
FIRST_PART = 50
#: How many jobs are checked in the time in which PostgreSQL inserts one.
GROWTH = 1.6
#: Jobs that are checked and inserted in one step: for fewer than these, parts cost what they save.
SHORT = 250
#: From how many jobs of one shape on they are worth a call of their own.
_MANY_ALIKE = 20


def submit(
    submissions: Sequence[Submission], *, actor: Actor = SYSTEM, reason: str = ""
) -> list[Accepted]:
    """Accept all jobs or none, in one transaction, also inside the caller's own ``atomic()``.

    Answers in the order given. A job whose owner has used the idempotency key before, or has an
    active job of this handler with the unique key, is answered by that job (``created`` is False),
    and so is the same idempotency key from then on, for as long as that job's row exists. Needs
    neither the broker nor Redis. Raises SubmissionError (UnknownHandler, InvalidPayload or
    IdempotencyConflict where it is only that), which names the index and field of everything that
    is wrong.
    """
    if not submissions:
        return []
    return _submit([_Wish(submissions, actor, reason)])[0]


def submit_together(submission: Submission, *, actor: Actor = SYSTEM, reason: str = "") -> Accepted:
    """``submit`` of one job, for threads that serve many callers at the same time.

    Jobs that other threads submit at this moment may share its transaction, where nothing can go
    wrong with one that concerns another. Raises what ``submit`` raises.
    """
    wish = _Wish([submission], actor, reason)
    if wish.is_keyed or connection.in_atomic_block:
        [[accepted]] = _submit([wish])
    else:
        [accepted] = _together.ask(wish)
    return accepted


class _Wish:
    """The jobs that one caller wants: the first part of them checked, the others when it is time.

    Jobs with keys are all in one part, because keys are taken in one order in every transaction.
    Raises SubmissionError when it is made, if the first part is not right.
    """

    def __init__(self, submissions: Sequence[Submission], actor: Actor, reason: str) -> None:
        self.actor = actor
        self.reason = policy.clipped(reason)
        self.is_keyed = any(map(is_keyed, submissions))
        self._unchecked = [submissions] if self.is_keyed else _parted(submissions)
        self._checker = Checker()
        self._parts: list[list[Wanted]] = []
        self.is_long = len(self._unchecked) > 1
        #: An earlier try of it may have been committed, and its answer lost.
        self.was_tried = False
        self._check()

    def parts(self) -> Iterator[list[Wanted]]:
        """From the first one, each time. Raises SubmissionError for everything that is wrong."""
        yield from self._parts
        while self._unchecked:
            self._check()
            yield self._parts[-1]

    @cached_property
    def rows(self) -> list[Wanted]:
        return list(chain.from_iterable(self.parts()))

    @cached_property
    def hoped(self) -> tuple[list[Born], list[Accepted]]:
        """What to tell and to answer if all of them become jobs, as they mostly do."""
        born = [_born(row) for row in self.rows]
        return born, [Accepted(row.id, JobState.PENDING, 1, created=True) for row in self.rows]

    def _check(self) -> None:
        self._parts.append(self._checker.check(self._unchecked.pop(0)))
        if self._checker.has_refused:
            for submissions in self._unchecked:
                self._checker.check(submissions)
            self._checker.require_right()


def _born(row: Wanted) -> Born:
    shape = row.shape
    is_due = shape.due_at is None and not shape.delay_seconds
    return Born(row.id, shape.owner_id, shape.handler, shape.queue, is_due)


def _parted(submissions: Sequence[Submission]) -> list[Sequence[Submission]]:
    if len(submissions) <= SHORT:
        return [submissions]
    parts, start, size = [], 0, FIRST_PART
    while start < len(submissions):
        parts.append(submissions[start : start + size])
        start += size
        size = min(PART, int(size * GROWTH))
    return parts


def _submit(wishes: Sequence[_Wish]) -> list[list[Accepted]]:
    """All of them in one transaction; those with keys, and long ones, come alone."""
    by_itself = any(wish.is_keyed or wish.is_long for wish in wishes)
    if not by_itself and not connection.in_atomic_block:
        _expect([one for wish in wishes for one in wish.hoped[0]])

    def work() -> list[list[Accepted]]:
        left_out = _insert_in_parts(wishes[0]) if wishes[0].is_long else _insert(wishes)
        born = [one for wish in wishes for one in wish.hoped[0] if one.job_id not in left_out]
        if born:
            events.tell_after_commit(events.Submitted(tuple(born)))
        if not left_out:
            return [wish.hoped[1] for wish in wishes]
        return [_answers(wish.rows, left_out) for wish in wishes]

    return transactions.run(work, single=not by_itself)


def _expect(hoped: Sequence[Born]) -> None:
    """Only of a lone job, which is there with the next statement unless that fails."""
    if len(hoped) == 1:
        events.expect(hoped[0])


_together = Combiner(_submit, concerns_all=transactions.is_away)


def _reserve(rows: list[Wanted]) -> list[Wanted]:
    """Take the rows' idempotency keys; the rows that may be inserted now, in their order."""
    keyed = [row for row in rows if row.idempotency_key is not None]
    if not keyed:
        return rows
    wanted = [
        {
            "id": str(row.id),
            "owner_id": row.owner_id,
            "idempotency_key": row.idempotency_key,
            "fingerprint": row.fingerprint,
        }
        for row in sorted(keyed, key=lambda row: (row.owner_id or 0, row.idempotency_key or ""))
    ]
    with connection.cursor() as cursor:
        cursor.execute(sql.load("reserve_keys"), {"rows": json.dumps(wanted)})
        reserved = {job_id for (job_id,) in cursor.fetchall()}
    return [row for row in rows if row.idempotency_key is None or row.id in reserved]


def _insert(wishes: Sequence[_Wish]) -> set[UUID]:
    """The ids of the rows that are no jobs now. Those of one signature are inserted together."""
    signed: dict[tuple[Actor, str], list[Wanted]] = {}
    left_out: set[UUID] = set()
    again = any(wish.was_tried for wish in wishes)
    for wish in wishes:
        reserved = _reserve(wish.rows)
        if len(reserved) < len(wish.rows):
            left_out |= {row.id for row in wish.rows} - {row.id for row in reserved}
        signed.setdefault((wish.actor, wish.reason), []).extend(reserved)
        wish.was_tried = True
    calls = [
        call for signature, rows in signed.items() for call in _calls(rows, *signature, again=again)
    ]
    return left_out | _left_out(call_each(calls)) if calls else left_out


def _insert_in_parts(wish: _Wish) -> set[UUID]:
    """The same for a long wish, each part of which is checked while the one before is inserted."""
    answers: list[Any] = []
    again, wish.was_tried = wish.was_tried, True
    with connection.cursor() as cursor, Beside() as beside:
        inserting: Future[list[Any]] | None = None
        for part in wish.parts():
            if inserting is not None:
                answers += inserting.result()
            calls = _calls(part, wish.actor, wish.reason, again=again)
            inserting = beside.start(partial(call_each, calls, cursor))
        if inserting is not None:
            # Made now, while PostgreSQL inserts the last part.
            _ = wish.hoped
            answers += inserting.result()
    return _left_out(answers)


def _left_out(answers: Iterable[Collection[UUID]]) -> set[UUID]:
    """All ids that the functions answered: none by those whose void arrives as ``""``."""
    return set(chain.from_iterable(answers))


def _calls(rows: Sequence[Wanted], actor: Actor, reason: str, *, again: bool) -> list[Call]:
    """What inserts these rows: those of a shape that many have together, the others as they are.

    ``again``: they may be jobs already.
    """
    signature = {"actor_kind": actor.kind, "actor_id": actor.id, "reason": reason}
    alike: dict[Shape, list[Wanted]] = {}
    others: list[Wanted] = []
    for row in rows:
        if again or is_keyed(row):
            others.append(row)
        else:
            alike.setdefault(row.shape, []).append(row)
    calls: list[Call] = []
    for shape, some in alike.items():
        shared = {**shape._asdict(), **signature}
        if len(rows) == 1:
            [row] = some
            calls.append(("jobs_submit_v3", {"id": row.id.hex, "payload": row.payload, **shared}))
        elif len(some) < min(_MANY_ALIKE, len(rows)):
            others += some
        else:
            payloads = "\n".join([row.payload for row in some])
            ids = ids_of(row.id for row in some)
            calls.append(("jobs_submit_v2", {"ids": ids, "payloads": payloads, **shared}))
    if others:
        text = "[" + ",".join([row.as_json() for row in others]) + "]"
        calls.append(("jobs_submit_v1", {"rows": text, **signature}))
    return calls


def _answers(rows: list[Wanted], left_out: Collection[UUID]) -> list[Accepted]:
    """``left_out`` has the ids of the rows that became no jobs; standing jobs answer for them."""
    standing = Standing([row for row in rows if row.id in left_out])
    answers = [
        standing.instead_of(row, index)
        if row.id in left_out
        else Accepted(row.id, JobState.PENDING, 1, created=True)
        for index, row in enumerate(rows)
    ]
    standing.note()
    return answers
