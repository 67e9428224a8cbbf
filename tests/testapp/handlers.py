"""Handlers whose every step leaves a file, so that a test in another process can wait for it."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from pathlib import Path

from jobs.context import Context
from jobs.errors import PermanentFailure
from jobs.registry import handler
from jobs.values import Backoff
from tests.testapp import chaos, poison

__all__ = ["chaos", "poison"]  # imported to be declared

LOOK_SECONDS = 0.01
SOON = Backoff(base_seconds=0.2, jitter=0)


@handler("stack.hold", backoff=SOON)
def hold(marks: str, *, context: Context) -> dict[str, int]:
    """Run until the test opens the gate, ready to stop at any moment.

    Never so short that the relay would let several share a message: each has a child of its own.
    """
    _mark(marks, context, "started")
    time.sleep(LOOK_SECONDS)
    while not (Path(marks) / "open").exists():
        context.check()
        time.sleep(LOOK_SECONDS)
    _mark(marks, context, "finished")
    return {"attempt": context.attempt}


@handler("stack.deaf", backoff=SOON)
def deaf(marks: str, *, context: Context) -> dict[str, int]:
    """Run until the test opens the gate, and never ask whether to stop; as long as the other."""
    _mark(marks, context, "started")
    time.sleep(LOOK_SECONDS)
    while not (Path(marks) / "open").exists():
        time.sleep(LOOK_SECONDS)
    _mark(marks, context, "finished")
    return {"attempt": context.attempt}


@handler("stack.deaf_effect", backoff=SOON)
def deaf_effect(marks: str, *, context: Context) -> dict[str, int]:
    """As ``stack.deaf``, and leave an effect in the transaction that completes the job."""
    chaos.leave_effect(context)
    return deaf(marks, context=context)


@handler("stack.nap", backoff=SOON)
def nap(marks: str, seconds: float = 0.05, *, context: Context) -> dict[str, int]:
    """Take a little time, as real work does."""
    _mark(marks, context, "started")
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        context.progress(1 - left / seconds)
        time.sleep(min(left, LOOK_SECONDS))
    _mark(marks, context, "finished")
    return {"attempt": context.attempt}


@handler("stack.async", backoff=SOON)
async def waits(marks: str, *, context: Context) -> dict[str, int]:
    """Wait for the gate in an event loop."""
    _mark(marks, context, "started")
    while not (Path(marks) / "open").exists():  # noqa: ASYNC110 - the gate is in another process
        await asyncio.sleep(LOOK_SECONDS)
    _mark(marks, context, "finished")
    return {"attempt": context.attempt}


@handler("stack.flaky", backoff=SOON)
def flaky(failures: int, *, context: Context) -> str:
    """Fail this many times."""
    if context.attempt <= failures:
        raise ValueError(f"failure {context.attempt}")
    return "at last"


@handler("stack.refuse")
def refuse(reason: str) -> None:
    """Fail for good."""
    raise PermanentFailure(reason)


@handler("stack.slow", timeout_seconds=0.5, max_attempts=1)
def slow(*, context: Context) -> None:
    """Never end by itself."""
    while True:
        context.check()
        time.sleep(LOOK_SECONDS)


@handler("stack.shared")
def shared() -> int:
    """How many objects a collection leaves alone, so that their memory stays the parent's."""
    return gc.get_freeze_count()


def _mark(marks: str, context: Context, what: str) -> None:
    (Path(marks) / f"{context.job_id}.{context.attempt}.{os.getpid()}.{what}").touch()
