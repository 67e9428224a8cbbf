"""Attempts run for real, in the test's own thread: the main thread, as in a prefork child.

Whoever disturbs a handler is a rival with a session of its own that waits for a signal first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from jobs import testing
from jobs.executor import Executor
from jobs.models import Job
from jobs.values import Doorbell, Settled
from tests.rivals import Rival
from tests.verbs import submit


class Declare(Protocol):
    def __call__(self, function: Callable[..., Any], **options: Any) -> str: ...


def run(*jobs: Job, executor: Executor | None = None, redelivered: bool = False) -> list[Settled]:
    """Answer one message that announces these jobs."""
    bells = [Doorbell(job.id, job.version) for job in jobs]
    return (executor or Executor("worker:1")).answer(bells, redelivered=redelivered)


def run_one(**fields: Any) -> Job:
    """Submit, run once, and read what became of it."""
    [job] = submit(**fields)
    run(job)
    job.refresh_from_db()
    return job


def when_entered(gate: testing.Gate, work: Callable[[], Any]) -> Rival[None]:
    """Do this in another session once the handler stands at the gate."""

    def wait() -> None:
        assert gate.entered.wait(60)
        work()

    return Rival(wait)
