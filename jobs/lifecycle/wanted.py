"""What a submission asks for, checked and made whole: the job as it will be born."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple
from uuid import UUID

from jobs import conf, jsontext, policy, registry
from jobs.errors import FieldProblem, InvalidPayload, SubmissionError
from jobs.models import new_job_id
from jobs.values import Submission


class Shape(NamedTuple):
    """What jobs that are submitted together mostly have in common."""

    owner_id: int | None
    handler: str
    queue: str
    priority: int
    tenant: str
    max_attempts: int
    due_at: str | None
    delay_seconds: float | None


@dataclass(slots=True)
class Wanted:
    """One job to insert. Its id is drawn once, so that its insert can be repeated."""

    id: UUID
    shape: Shape
    payload: str
    """JSON text, on one line."""
    unique_key: str | None
    idempotency_key: str | None
    fingerprint: str | None

    @property
    def owner_id(self) -> int | None:
        return self.shape.owner_id

    @property
    def handler(self) -> str:
        return self.shape.handler

    def as_json(self) -> str:
        """A row of ``jobs_submit_v1``."""
        rest = {
            "id": str(self.id),
            **self.shape._asdict(),
            "unique_key": self.unique_key,
            "idempotency_key": self.idempotency_key,
            "fingerprint": self.fingerprint,
        }
        return f'{json.dumps(rest)[:-1]}, "payload": {self.payload}}}'


def is_keyed(wish: Submission | Wanted) -> bool:
    """Whether this names a key, so that a job that stands may answer it."""
    return wish.unique_key is not None or wish.idempotency_key is not None


class Checker:
    """Checks the submissions of one request, in their order.

    Remembers what it found right, because jobs that are submitted together are much alike, and what
    it refused, so that a refusal names all that is wrong in the whole request.
    """

    def __init__(self) -> None:
        self._index = 0
        self._right: set[Shape] = set()
        self._refused: list[SubmissionError] = []

    def check(self, submissions: Iterable[Submission]) -> list[Wanted]:
        """The next of them, as far as they are right; ``require_right`` tells of the others."""
        wanted = []
        for submission in submissions:
            try:
                wanted.append(self._checked(submission))
            except SubmissionError as error:
                self._refused.append(error)
            self._index += 1
        return wanted

    def require_right(self) -> None:
        """Raise SubmissionError, or the one kind of it, if any was refused so far."""
        if self._refused:
            kinds = {type(error) for error in self._refused}
            kind = kinds.pop() if len(kinds) == 1 else SubmissionError
            raise kind([problem for error in self._refused for problem in error.problems])

    @property
    def has_refused(self) -> bool:
        return bool(self._refused)

    def _checked(self, submission: Submission) -> Wanted:
        index = self._index
        settings = conf.get()
        spec = registry.get(submission.handler, index)
        payload = spec.normalized(submission.payload, submission.owner_id, index)
        try:
            text = jsontext.dumps(payload)
        except ValueError as error:
            problem = FieldProblem("payload", str(error), "not_json", index)
            raise InvalidPayload([problem]) from error
        if len(text) > settings.payload_limit_bytes:
            said = f"{len(text)} bytes of JSON; at most {settings.payload_limit_bytes} are allowed"
            raise InvalidPayload([FieldProblem("payload", said, "too_large", index)])
        shape = Shape(
            submission.owner_id,
            spec.name,
            submission.queue or spec.queue or settings.default_queue,
            spec.priority if submission.priority is None else submission.priority,
            submission.tenant,
            (spec.max_attempts or settings.max_attempts)
            if submission.max_attempts is None
            else submission.max_attempts,
            submission.due_at.isoformat() if submission.due_at else None,
            submission.delay_seconds,
        )
        problems = [] if shape in self._right else _wrong_in_shape(shape, index)
        if not problems:
            self._right.add(shape)
        fingerprint = None
        if is_keyed(submission):
            problems += _unkeepable("unique_key", submission.unique_key, index)
            problems += _unkeepable("idempotency_key", submission.idempotency_key, index)
            fingerprint = _fingerprint(submission, spec.name, payload)
        if problems:
            raise InvalidPayload(problems)
        return Wanted(
            new_job_id(),
            shape,
            text,
            submission.unique_key,
            submission.idempotency_key,
            fingerprint,
        )


def _fingerprint(submission: Submission, handler: str, payload: dict[str, Any]) -> str | None:
    if submission.idempotency_key is None:
        return None
    # Of what was asked for, not of what it resolved to: a default may change meanwhile.
    asked = asdict(replace(submission, handler=handler, payload=payload))
    text = json.dumps(asked, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _wrong_in_shape(shape: Shape, index: int) -> list[FieldProblem]:
    problems = []
    known = conf.get().queues
    if shape.queue not in known:
        text = f"no queue is called {shape.queue!r}; known: {', '.join(known)}"
        problems.append(FieldProblem("queue", text, "unknown", index))
    if not 0 <= shape.priority <= 9:
        problems.append(FieldProblem("priority", "must be 0 to 9", "out_of_range", index))
    if not 1 <= shape.max_attempts <= 1000:
        problems.append(FieldProblem("max_attempts", "must be 1 to 1000", "out_of_range", index))
    if shape.due_at is not None and shape.delay_seconds is not None:
        text = "give due_at or delay_seconds, not both"
        problems.append(FieldProblem("due_at", text, "conflict", index))
    if not 0 <= (shape.delay_seconds or 0) <= 366 * 86_400:
        text = "must be 0 to 366 days in seconds"
        problems.append(FieldProblem("delay_seconds", text, "out_of_range", index))
    return problems + _unkeepable("tenant", shape.tenant, index)


def _unkeepable(name: str, text: str | None, index: int) -> list[FieldProblem]:
    if not text or text == policy.clipped(text, 200):
        return []
    said = "must be at most 200 characters of valid Unicode without NUL"
    return [FieldProblem(name, said, "too_long", index)]
