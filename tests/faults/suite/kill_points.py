"""Exact places in the code where a process kills itself, once, when a file tells it to.

``arm(directory, "after_claim")`` makes a file; the first process that passes the place removes the
file and dies by SIGKILL. Nothing in ``jobs`` knows of it: this app wraps functions when it is
ready. A function that is gone makes every process of the suite fail at its start, and that is
meant: a kill point that silently guards nothing would be worse.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from django.apps import AppConfig

VARIABLE = "INTERLOCK_KILL_POINTS"

#: What each place is, in the order of a job's way.
POINTS: dict[str, str] = {
    "after_submit": "the job is committed, the answer is not sent",
    "after_publish": "the broker has confirmed, the outbox does not know",
    "before_claim": "the doorbell is fetched, nothing is claimed",
    "after_claim": "the claim is committed, the handler has not begun",
    "before_finish": "the handler has returned, nothing of it is stored",
    "inside_finish": "the outcome is written, its transaction is not committed",
    "after_finish": "the outcome is committed, the message is not acknowledged",
    "inside_rescue": "lapsed jobs are given back, the transaction is not committed",
}


def arm(directory: Path, point: str) -> None:
    """The next process that passes this point dies there."""
    if point not in POINTS:
        raise ValueError(f"no kill point is called {point!r}")
    (directory / point).touch()


def disarm(directory: Path, point: str) -> bool:
    """Take it back; False if somebody has died there."""
    try:
        (directory / point).unlink()
    except FileNotFoundError:
        return False
    return True


def passing(point: str) -> None:
    """Die here if that is wished. Only one process can remove the file."""
    directory = os.environ.get(VARIABLE)
    if directory and disarm(Path(directory), point):
        os.kill(os.getpid(), signal.SIGKILL)


class KillPoints(AppConfig):
    """Puts the points in place."""

    name = "tests.faults.suite"
    label = "kill_points"

    def ready(self) -> None:
        from jobs import relay, transactions

        transactions.run = _with_points(transactions.run)
        relay.settle = _after_publishing(relay.settle)


def _with_points(inner: Callable[..., Any]) -> Callable[..., Any]:
    """Every verb is one work for ``transactions.run``, which its name tells apart."""

    @wraps(inner)
    def run(work: Callable[[], Any], *, single: bool = False) -> Any:
        verb = work.__qualname__.partition(".")[0].strip("_").lower()
        _pass(f"before_{verb}")

        def work_and_pass() -> Any:
            answer = work()
            if not single:
                _pass(f"inside_{verb}", answer)
            return answer

        answer = inner(work_and_pass, single=single)
        _pass(f"after_{verb}", answer)
        return answer

    return run


def _pass(point: str, answer: object = True) -> None:
    """A verb that did nothing is no place to die: the job belongs to somebody else."""
    if point in POINTS and answer:
        passing(point)


def _after_publishing(settle: Callable[..., None]) -> Callable[..., None]:
    @wraps(settle)
    def outer(published: Sequence[Any], *args: Any, **kwargs: Any) -> None:
        _pass("after_publish", published)
        settle(published, *args, **kwargs)

    return outer
