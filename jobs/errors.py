"""Everything this app raises on purpose.

    JobsError
    |-- SubmissionError            the request to submit is wrong; nothing was written
    |   |-- UnknownHandler
    |   |-- InvalidPayload
    |   `-- IdempotencyConflict
    |-- TransitionError            the job exists, but the step is not possible now
    |   `-- IllegalTransition
    |-- DirectWrite                Python tried to write a job's row itself; nothing was written
    |-- ConfigurationError         settings or a handler declaration are wrong
    |-- CannotVerify               a verification could not look; it says nothing about the jobs
    `-- HandlerFailure             raised by a handler to say how it failed
        |-- PermanentFailure
        `-- RetryLater
    HandlerSignal                  raised inside a handler to end its attempt
    |-- JobCancelled
    |-- JobReleased
    `-- JobTimeout

Each class has a stable ``code`` that API answers, logs and audit reasons use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong with one field. ``path`` is dotted, e.g. ``payload.source.path``."""

    path: str
    message: str
    code: str
    index: int | None = None


class JobsError(Exception):
    """Base of every error of this app."""

    code: ClassVar[str] = "jobs_error"


class SubmissionError(JobsError):
    """A submission was refused as a whole. ``problems`` names each field and what is allowed."""

    code = "invalid_submission"

    def __init__(self, problems: list[FieldProblem]) -> None:
        self.problems = problems
        super().__init__("; ".join(_described(problem) for problem in problems))


class UnknownHandler(SubmissionError):
    """The named handler is not registered in this process."""

    code = "unknown_handler"


class InvalidPayload(SubmissionError):
    """The payload does not fit the handler's parameters."""

    code = "invalid_payload"


class IdempotencyConflict(SubmissionError):
    """The idempotency key was used before with another request."""

    code = "idempotency_conflict"


class TransitionError(JobsError):
    """A verb could not be applied to a job that exists."""

    code = "transition_error"


class IllegalTransition(TransitionError):
    """The job's present state has no such edge."""

    code = "illegal_transition"


class DirectWrite(JobsError):
    """A job's row was to be saved, deleted or made by the ORM; only ``lifecycle`` writes rows."""

    code = "direct_write"

    def __init__(self, call: str) -> None:
        super().__init__(
            f"{call} would write over what others know of the job. Use jobs.client.submit to make"
            " one, jobs.lifecycle.cancel and reopen to change one; a handler returns its result,"
            " and reports through its context. Final jobs are deleted with"
            " Job.objects.filter(...).delete()"
        )


class ConfigurationError(JobsError):
    """A setting or a handler declaration is wrong."""

    code = "configuration_error"


class CannotVerify(JobsError):
    """The question could not be put: database away, not migrated, or a ledger that is no ledger."""

    code = "cannot_verify"


class HandlerSignal(BaseException):
    """Ends an attempt from outside. Handlers may clean up and should let it pass.

    Not an Exception, so that a handler's ``except Exception`` does not swallow it by accident, for
    the reason that asyncio.CancelledError is none.
    """

    code: ClassVar[str] = "handler_signal"


class JobCancelled(HandlerSignal):
    """Somebody cancelled the job while it ran."""

    code = "cancelled"


class JobReleased(HandlerSignal):
    """The worker is stopping; the job goes back to the queue without a charge."""

    code = "released"


class JobTimeout(HandlerSignal):
    """The attempt ran longer than its handler's ``timeout_seconds``."""

    code = "timeout"


class HandlerFailure(JobsError):
    """Base of what handlers raise themselves."""

    code = "handler_failure"


class PermanentFailure(HandlerFailure):
    """Another attempt would fail the same way; the job becomes FAILED at once."""

    code = "permanent_failure"


class RetryLater(HandlerFailure):
    """The attempt failed; try again after ``delay_seconds`` instead of the usual backoff."""

    code = "retry_later"

    def __init__(self, reason: str, delay_seconds: float) -> None:
        self.delay_seconds = delay_seconds
        super().__init__(reason)


def _described(problem: FieldProblem) -> str:
    where = problem.path if problem.index is None else f"[{problem.index}].{problem.path}"
    return f"{where}: {problem.message}"
