"""Pure decisions on frozen values. No ORM, settings, clock, randomness of its own or logging."""

from __future__ import annotations

from jobs.errors import (
    HandlerSignal,
    JobCancelled,
    JobReleased,
    JobsError,
    PermanentFailure,
    RetryLater,
)
from jobs.states import JobEvent
from jobs.values import Attempt, Backoff, Outcome

REASON_LIMIT = 2000


def backoff_seconds(backoff: Backoff, failures: int, draw: float) -> float:
    """Seconds to wait after the ``failures``-th failure (1-based); ``draw`` is uniform in 0..1."""
    exponent = min(max(failures - 1, 0), 64)
    delay = min(backoff.cap_seconds, backoff.base_seconds * backoff.factor**exponent)
    return delay * (1 - backoff.jitter * draw)


def after_error(attempt: Attempt, error: BaseException, backoff: Backoff, draw: float) -> Outcome:
    """What to do with an attempt that ended with ``error``."""
    if isinstance(error, JobCancelled):
        return Outcome(attempt, JobEvent.CANCEL, reason="stopped on request")
    if isinstance(error, JobReleased):
        return Outcome(attempt, JobEvent.RELEASE, reason=clipped(str(error)) or "handed back")
    reason = described(error)
    failures = attempt.failed_attempts + 1
    if isinstance(error, PermanentFailure):
        return Outcome(attempt, JobEvent.FAIL, reason=reason)
    if failures >= attempt.max_attempts:
        text = f"attempt {failures} of {attempt.max_attempts} failed: {reason}"
        return Outcome(attempt, JobEvent.FAIL, reason=clipped(text))
    delay = backoff_seconds(backoff, failures, draw)
    if isinstance(error, RetryLater):
        delay = max(0.0, error.delay_seconds)
    return Outcome(attempt, JobEvent.RETRY, reason=reason, delay_seconds=delay)


def after_lapse(
    *, cancel_requested: bool, lost_attempts: int, max_lost_attempts: int, worker: str
) -> tuple[JobEvent, str]:
    """The verdict on a RUNNING job whose lease lapsed; ``lost_attempts`` counts earlier ones."""
    if cancel_requested:
        return JobEvent.CANCEL, f"stopped on request; {worker} died before it could confirm"
    lost = lost_attempts + 1
    if lost >= max_lost_attempts:
        return JobEvent.FAIL, (
            f"lost {lost} times: the worker holding it died or stalled each time, last {worker}"
        )
    return JobEvent.RESCUE, f"lease lapsed: {worker} died or stalled"


def rearm_delay_seconds(base_seconds: float, rearms: int, cap_seconds: float) -> float:
    """How long a published doorbell may stay unclaimed before it is rung for the next time."""
    return min(cap_seconds, base_seconds * 2.0 ** min(rearms, 32))


def described(error: BaseException) -> str:
    """An error in words, for a reason column: its class when it is not one of ours, its text."""
    name = type(error).__name__
    try:
        text = str(error).strip()
    except BaseException:
        # Code of the handler's, and whatever it raises must not escape into the engine.
        text = "its text cannot be shown"
    if isinstance(error, JobsError | HandlerSignal):
        return clipped(text or name)
    return clipped(f"{name}: {text}" if text else name)


def clipped(text: str, limit: int = REASON_LIMIT) -> str:
    """``text`` fit for a text column: no NUL, no lone surrogate, at most ``limit`` characters."""
    text = text.replace("\x00", "").encode("utf-8", "replace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"
