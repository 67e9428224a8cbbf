"""For the tests of projects that use jobs: a flush that works, an inline worker, a test handler.

    # pytest: in the top-level conftest.py (or ``-p jobs.testing`` on the command line)
    pytest_plugins = ["jobs.testing"]

    # unittest: once, in a module that every test imports
    from jobs import testing
    testing.allow_flush()

    def test_report_is_made(db):
        [accepted] = lifecycle.submit([Submission("report", {"month": 5})])
        [settled] = testing.drain()
        assert settled.event is JobEvent.SUCCEED

Never import this module outside of tests: it registers the handler ``testing.outcome``.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from jobs.context import Context
from jobs.errors import PermanentFailure, RetryLater
from jobs.registry import handler
from jobs.values import Backoff, Doorbell, Settled

if TYPE_CHECKING:
    from django.db.backends.postgresql.operations import DatabaseOperations

    from jobs.executor import Executor

#: The tables whose triggers refuse TRUNCATE.
GUARDED_TABLES = ("jobs_job", "jobs_auditentry")


# ---------------------------------------------------------------------------------------- flush


def pytest_configure(config: object) -> None:
    """Makes this module a pytest plugin: it allows the flush."""
    allow_flush()


def allow_flush() -> None:
    """Let Django's ``flush`` empty the guarded tables, in test databases only.

    ``TransactionTestCase`` (pytest's ``transactional_db``) empties all tables with TRUNCATE after
    each test, which the guard refuses. From now on the flush of a test database switches the user
    triggers off around its TRUNCATE, in the same transaction: no other session ever sees them off.
    Any other database refuses as before. Calling this twice has no further effect.
    """
    from django.db import models  # noqa: F401  # the backend's modules import each other through it
    from django.db.backends.postgresql.operations import DatabaseOperations

    original = DatabaseOperations.sql_flush
    if getattr(original, "allows_flush", False):
        return

    def sql_flush(
        self: DatabaseOperations, style: Any, tables: Sequence[str], **options: Any
    ) -> list[str]:
        statements: list[str] = original(self, style, tables, **options)
        guarded = [self.quote_name(name) for name in GUARDED_TABLES if name in tables]
        if not guarded or not _is_test_database(self.connection):
            return statements
        off = [f"ALTER TABLE {name} DISABLE TRIGGER USER;" for name in guarded]
        on = [f"ALTER TABLE {name} ENABLE TRIGGER USER;" for name in guarded]
        return [*off, *statements, *on]

    sql_flush.allows_flush = True  # type: ignore[attr-defined]  # marks the patch for a second call
    DatabaseOperations.sql_flush = sql_flush  # type: ignore[method-assign,assignment]  # see above


def _is_test_database(connection: Any) -> bool:
    """Whether Django's test runner made this database: only those bear such a name."""
    from django.db.backends.base.creation import TEST_DATABASE_PREFIX

    name = str(connection.settings_dict["NAME"])
    named = connection.settings_dict.get("TEST", {}).get("NAME")
    return name.startswith(TEST_DATABASE_PREFIX) or (named is not None and name == named)


# ------------------------------------------------------------------------------------- inline run


def run_inline(job_ids: Collection[UUID] | None = None, *, worker: str = "inline") -> list[Settled]:
    """Run each waiting job once, here and now, most urgent first; returns what was recorded.

    All transitions are the real ones: claim, handler, finish. Works inside a test's transaction
    (``TestCase``), where a second connection could see nothing: no heartbeat runs there, so neither
    timeouts nor cancel requests reach the handler. Jobs that are not due yet are left alone.
    """
    from jobs.models import Job

    waiting = Job.objects.due().order_by("-priority", "due_at", "id")
    if job_ids is not None:
        waiting = waiting.filter(id__in=list(job_ids))
    bells = [Doorbell(job_id, version) for job_id, version in waiting.values_list("id", "version")]
    executor = _inline_executor(worker)
    return [settled for bell in bells for settled in executor.answer([bell])]


def drain(*, skip_delays: bool = True, most: int = 1000) -> list[Settled]:
    """Run waiting jobs, and those that they submit, and retries, until none waits.

    With ``skip_delays`` the backoff of a retry and the delay of a later job count as over. Raises
    RuntimeError after ``most`` attempts, because some job then comes back for ever.
    """
    from jobs.models import Job
    from jobs.states import JobState

    settled: list[Settled] = []
    while True:
        if skip_delays:
            make_due(Job.objects.filter(state=JobState.PENDING).values_list("id", flat=True))
        ran = run_inline()
        settled += ran
        if not ran:
            return settled
        if len(settled) > most:
            raise RuntimeError(f"jobs still wait after {most} attempts")


def make_due(job_ids: Collection[UUID]) -> int:
    """Let the time of these waiting jobs come now; returns how many there were."""
    from django.db import connection
    from django.db.models.functions import Now

    from jobs.models import Job, OutboxEntry
    from jobs.states import JobState

    later = Job.objects.filter(id__in=job_ids, state=JobState.PENDING, due_at__gt=Now())
    ids = list(later.values_list("id", flat=True))
    with connection.cursor() as cursor:
        cursor.execute("SELECT jobs_unshare_v1(%s::uuid[])", [[str(job_id) for job_id in ids]])
    OutboxEntry.objects.filter(job_id__in=ids, published_at=None).update(due_at=Now())
    # Asked once more: with workers about, a job may have ended since, and then never changes.
    waiting = Job.objects.filter(id__in=ids, state=JobState.PENDING)
    count: int = waiting.update(due_at=Now())
    return count


def _inline_executor(worker: str) -> Executor:
    from django.db import connection

    from jobs.executor import Executor

    return _quiet_executor_class()(worker) if connection.in_atomic_block else Executor(worker)


@cache
def _quiet_executor_class() -> type[Executor]:
    """An executor for use inside a transaction; a class made late, as it needs Django's models."""
    from jobs import heart, lifecycle, registry
    from jobs.executor import Executor
    from jobs.running import Run

    class QuietHeart(heart.Heart):
        def hold(self, runs: list[Run]) -> None:
            """Keep nothing: the beating thread could not see these rows."""

        def let_go(self, runs: Iterable[Run]) -> None:
            """Nothing is kept."""

        def settled(self, runs: Iterable[Run]) -> None:
            """Nothing is kept."""

    class QuietExecutor(Executor):
        def answer(
            self, doorbells: Sequence[Doorbell], *, redelivered: bool = False, early: bool = False
        ) -> list[Settled]:
            attempts = lifecycle.claim(doorbells, worker=self.worker, handlers=registry.names())
            runs = [Run(attempt, math.inf) for attempt in attempts]
            return [self.record([(run, self._ended(run))], patient=True)[0] for run in runs]

        def _tidy(self) -> None:
            """The open transaction is the test's."""

        def _beating(self) -> heart.Heart:
            return QuietHeart(self.worker, heart.default_verdict, self._host)

    return QuietExecutor


# ------------------------------------------------------------------------------------ test handler


class Gate:
    """Where a handler and a test of the same process wait for each other, instead of sleeping."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        """Set by the handler once it runs."""
        self.opened = threading.Event()
        """Set by the test to let the handler go on."""


@cache
def gate(name: str) -> Gate:
    """The gate of this name; handlers with action ``wait`` or ``ignore`` stop at it."""
    return Gate()


Action = Literal[
    "ok",
    "progress",
    "fail",
    "permanent",
    "later",
    "exit",
    "kill",
    "sleep",
    "wait",
    "ignore",
    "hang",
]


@handler("testing.outcome", backoff=Backoff(base_seconds=0, jitter=0))
def outcome(
    action: Action = "ok",
    *,
    value: Any = None,
    until_attempt: int = 0,
    seconds: float = 0.0,
    steps: int = 10,
    gate_name: str = "",
    mark: str = "",
    context: Context,
) -> Any:
    """Do what a test asks for, and return ``value``.

    ``action``: ``ok`` returns; ``progress`` takes ``steps`` steps in ``seconds``; ``fail``,
    ``permanent`` and ``later`` raise; ``exit`` raises SystemExit; ``kill`` sends SIGKILL to its own
    process; ``sleep`` takes ``seconds`` and checks every 10 ms; ``wait`` waits at the gate and
    checks; ``ignore`` waits at the gate and never checks; ``hang`` spins for ``seconds`` without
    a system call. With ``until_attempt`` n, attempts from n on do as ``ok``. ``mark`` names a file
    to which ``job attempt token pid`` is appended when the attempt begins.
    """
    if mark:
        with Path(mark).open("a", encoding="utf-8") as file:
            file.write(f"{context.job_id} {context.attempt} {context.token} {os.getpid()}\n")
    if not until_attempt or context.attempt < until_attempt:
        _act(action, seconds, steps, gate_name, context)
    return value


def _act(action: Action, seconds: float, steps: int, gate_name: str, context: Context) -> None:
    if action == "fail":
        raise ValueError("told to fail")
    if action == "permanent":
        raise PermanentFailure("told to fail for good")
    if action == "later":
        raise RetryLater("told to come later", seconds)
    if action == "exit":
        raise SystemExit(3)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action in ("wait", "ignore"):
        _stand_at(gate(gate_name), context if action == "wait" else None)
    elif action == "hang":
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            pass
    elif action in ("progress", "sleep"):
        _take_steps(steps if action == "progress" else 0, seconds, context)


def _stand_at(where: Gate, context: Context | None) -> None:
    where.entered.set()
    while not where.opened.wait(0.01):
        if context is not None:
            context.check()


def _take_steps(steps: int, seconds: float, context: Context) -> None:
    begun = time.monotonic()
    while (ran := time.monotonic() - begun) < seconds:
        context.check()
        if steps:
            context.progress(ran / seconds, f"step {int(steps * ran / seconds)} of {steps}")
        time.sleep(min(0.01, seconds))
    if steps:
        context.progress(1.0, f"step {steps} of {steps}")
