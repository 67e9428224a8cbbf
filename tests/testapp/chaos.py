"""Handlers that the fault suite puts under load. How each must end is in ``tests.testapp.ends``."""

from __future__ import annotations

import asyncio
import time

from jobs.context import Context
from jobs.registry import handler
from jobs.values import Backoff
from tests.testapp.models import Effect

STEP_SECONDS = 0.02
SOON = Backoff(base_seconds=0.2, factor=1.5, jitter=0.5)


@handler("chaos.effect", backoff=SOON)
def effect(seconds: float = 0.05, *, context: Context) -> dict[str, int]:
    """Work a little and leave an effect in the completing transaction.

    Ends COMPLETED with exactly one effect, which carries the completing token; or, if somebody
    asked for it in time, CANCELLED without one.
    """
    _work(seconds, context)
    leave_effect(context)
    return {"attempt": context.attempt}


@handler("chaos.quick", backoff=SOON)
def quick() -> str:
    """Do nothing. Ends COMPLETED, or CANCELLED on request."""
    return "done"


@handler("chaos.long", backoff=SOON)
def long(seconds: float = 3.0, *, context: Context) -> dict[str, int]:
    """Work for several heartbeats, asking all the time whether to stop. Ends as ``quick``."""
    _work(seconds, context)
    return {"attempt": context.attempt}


@handler("chaos.deaf", backoff=SOON)
def deaf(seconds: float = 3.0, *, context: Context) -> dict[str, int]:
    """Work without ever asking whether to stop, then leave an effect.

    Ends COMPLETED with one effect; a request to cancel is heard only by the exception that is
    raised inside it, after which it is CANCELLED without one.
    """
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(STEP_SECONDS)
    leave_effect(context)
    return {"attempt": context.attempt}


@handler("chaos.flaky", backoff=SOON)
def flaky(failures: int = 1, *, context: Context) -> str:
    """Fail this many times, at most 2, and leave an effect from each failed attempt's hand.

    Ends COMPLETED with the effect of the last attempt only: what a failed attempt had registered
    must never be written.
    """
    leave_effect(context)
    if context.attempt <= failures:
        raise ValueError(f"failure {context.attempt}")
    return "at last"


@handler("chaos.hopeless", max_attempts=2, backoff=SOON)
def hopeless(*, context: Context) -> None:
    """Always fail. Ends FAILED when its attempts are used up, with the last error as reason."""
    leave_effect(context)
    raise ValueError("hopeless")


@handler("chaos.async", backoff=SOON)
async def waits(seconds: float = 0.2, *, context: Context) -> dict[str, int]:
    """Wait in an event loop, then leave an effect. Ends as ``effect``."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        context.progress(1 - left / seconds)
        await asyncio.sleep(min(left, STEP_SECONDS))
    leave_effect(context)
    return {"attempt": context.attempt}


def _work(seconds: float, context: Context) -> None:
    """Show progress in small steps. Raises what ``context.progress`` raises."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        context.progress(1 - left / seconds, "working")
        time.sleep(min(left, STEP_SECONDS))


def leave_effect(context: Context) -> None:
    """Register the row that says which attempt completed the job."""
    job_id, token, attempt = context.job_id, context.token, context.attempt

    def write() -> None:
        Effect.objects.create(job_id=job_id, token=token, attempt=attempt)

    context.on_completion(write)
