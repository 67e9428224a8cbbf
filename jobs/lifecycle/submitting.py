"""The verb submit: all jobs of a request or none, and known keys answered by the known job."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from jobs import conf, events, jsontext, policy, registry, sql, transactions
from jobs.errors import FieldProblem, InvalidPayload, SubmissionError
from jobs.group_commit import GroupCommit
from jobs.lifecycle.standing import Standing
from jobs.lifecycle.writing import call_each
from jobs.models import new_job_id
from jobs.states import JobState
from jobs.values import SYSTEM, Accepted, Actor, Born, Submission


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
    return _submit([_Wish(_rows(submissions), actor, reason)])[0]


def submit_together(submission: Submission, *, actor: Actor = SYSTEM, reason: str = "") -> Accepted:
    """``submit`` of one job, for threads that serve many callers at the same time.

    Jobs that other threads submit at this moment may share its transaction, where nothing can go
    wrong with one that concerns another. Raises what ``submit`` raises.
    """
    wish = _Wish(_rows([submission]), actor, reason)
    if wish.is_keyed or connection.in_atomic_block:
        [[accepted]] = _submit([wish])
    else:
        [accepted] = _together.ask(wish)
    return accepted


class _Wish(NamedTuple):
    """The rows that one caller wants."""

    rows: list[dict[str, Any]]
    actor: Actor
    reason: str

    @property
    def is_keyed(self) -> bool:
        """Whether other jobs may answer instead. Without keys the insert is all that there is."""
        return any(row[name] is not None for row in self.rows for name in _KEYS)


_KEYS = ("unique_key", "idempotency_key")


def _submit(wishes: Sequence[_Wish]) -> list[list[Accepted]]:
    """All of them in one transaction; those with keys come alone."""

    def work() -> list[list[Accepted]]:
        created = _insert([wish._replace(rows=_reserve(wish.rows)) for wish in wishes])
        if created:
            events.tell_after_commit(events.Submitted(tuple(map(_born, created))))
        ids = {row["id"] for row in created}
        return [_answers(wish.rows, ids) for wish in wishes]

    return transactions.run(work, single=not any(wish.is_keyed for wish in wishes))


_together = GroupCommit(_submit, concerns_all=transactions.is_away)


def _rows(submissions: Sequence[Submission]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    refused: list[SubmissionError] = []
    for index, submission in enumerate(submissions):
        try:
            rows.append(_row(index, submission))
        except SubmissionError as error:
            refused.append(error)
    if refused:
        kinds = {type(error) for error in refused}
        kind = kinds.pop() if len(kinds) == 1 else SubmissionError
        raise kind([problem for error in refused for problem in error.problems])
    return rows


def _row(index: int, submission: Submission) -> dict[str, Any]:
    settings = conf.get()
    spec = registry.get(submission.handler, index)
    payload = spec.normalized(submission.payload, submission.owner_id, index)
    try:
        size = len(jsontext.dumps(payload))
    except ValueError as error:
        raise InvalidPayload([FieldProblem("payload", str(error), "not_json", index)]) from error
    if size > settings.payload_limit_bytes:
        text = f"{size} bytes of JSON; at most {settings.payload_limit_bytes} are allowed"
        raise InvalidPayload([FieldProblem("payload", text, "too_large", index)])
    queue = submission.queue or spec.queue or settings.default_queue
    if queue not in settings.queues:
        text = f"no queue is called {queue!r}; known: {', '.join(settings.queues)}"
        raise InvalidPayload([FieldProblem("queue", text, "unknown", index)])
    row = {
        "owner_id": submission.owner_id,
        "handler": spec.name,
        "queue": queue,
        "priority": spec.priority if submission.priority is None else submission.priority,
        "tenant": submission.tenant,
        "unique_key": submission.unique_key,
        "idempotency_key": submission.idempotency_key,
        "payload": payload,
        "max_attempts": spec.max_attempts or settings.max_attempts
        if submission.max_attempts is None
        else submission.max_attempts,
        "due_at": submission.due_at.isoformat() if submission.due_at else None,
        "delay_seconds": submission.delay_seconds,
    }
    _check_row(row, index)
    if submission.idempotency_key is not None:
        # Of what was asked for, not of what it resolved to: a default may change meanwhile.
        asked = asdict(replace(submission, handler=spec.name, payload=payload))
        text = json.dumps(asked, sort_keys=True, default=str)
        row["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    return {"id": str(new_job_id()), **row}


def _check_row(row: dict[str, Any], index: int) -> None:
    problems = []
    if not 0 <= row["priority"] <= 9:
        problems.append(FieldProblem("priority", "must be 0 to 9", "out_of_range", index))
    if not 1 <= row["max_attempts"] <= 1000:
        problems.append(FieldProblem("max_attempts", "must be 1 to 1000", "out_of_range", index))
    if row["due_at"] is not None and row["delay_seconds"] is not None:
        text = "give due_at or delay_seconds, not both"
        problems.append(FieldProblem("due_at", text, "conflict", index))
    if not 0 <= (row["delay_seconds"] or 0) <= 366 * 86_400:
        text = "must be 0 to 366 days in seconds"
        problems.append(FieldProblem("delay_seconds", text, "out_of_range", index))
    for name in ("tenant", "unique_key", "idempotency_key"):
        if row[name] and row[name] != policy.clipped(row[name], 200):
            text = "must be at most 200 characters of valid Unicode without NUL"
            problems.append(FieldProblem(name, text, "too_long", index))
    if problems:
        raise InvalidPayload(problems)


def _reserve(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the rows' idempotency keys; the rows that may be inserted now, in their order."""
    keyed = [row for row in rows if row["idempotency_key"] is not None]
    if not keyed:
        return rows
    wanted = [
        {name: row[name] for name in ("id", "owner_id", "idempotency_key", "fingerprint")}
        for row in sorted(keyed, key=lambda row: (row["owner_id"] or 0, row["idempotency_key"]))
    ]
    with connection.cursor() as cursor:
        cursor.execute(sql.load("reserve_keys"), {"rows": json.dumps(wanted)})
        reserved = {str(job_id) for (job_id,) in cursor.fetchall()}
    return [row for row in rows if row["idempotency_key"] is None or row["id"] in reserved]


def _insert(wishes: Sequence[_Wish]) -> list[dict[str, Any]]:
    """The rows that are jobs now, in their order. Those of one signature are inserted together."""
    signed: dict[tuple[Actor, str], list[dict[str, Any]]] = {}
    for wish in wishes:
        if wish.rows:
            signed.setdefault((wish.actor, wish.reason), []).extend(wish.rows)
    if not signed:
        return []
    parameters = [
        {
            "rows": json.dumps(rows),
            "actor_kind": actor.kind,
            "actor_id": actor.id,
            "reason": policy.clipped(reason),
        }
        for (actor, reason), rows in signed.items()
    ]
    answers = call_each("jobs_submit_v1", parameters)
    without = {str(job_id) for left_out in answers for job_id in left_out}
    return [row for rows in signed.values() for row in rows if row["id"] not in without]


def _born(row: dict[str, Any]) -> Born:
    return Born(UUID(row["id"]), row["owner_id"], row["handler"], row["queue"])


def _answers(rows: list[dict[str, Any]], created: Collection[str]) -> list[Accepted]:
    """``created`` has the ids of the rows that became jobs; standing jobs answer the others."""
    left_out = [row for row in rows if row["id"] not in created]
    standing = Standing(left_out) if left_out else None
    answers = []
    for index, row in enumerate(rows):
        if row["id"] in created:
            answers.append(Accepted(UUID(row["id"]), JobState.PENDING, 1, created=True))
        elif standing is not None:
            answers.append(standing.instead_of(row, index))
    if standing is not None:
        standing.note()
    return answers
