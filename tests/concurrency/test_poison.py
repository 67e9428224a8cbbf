"""Handlers that leave their process in a bad state. The next job must not notice.

All in the process of the test, in its main thread, on one executor, as in a prefork child. Those
that end the process are in ``tests/integration/test_pools.py`` and in the fault suite.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from jobs import conf, lifecycle, policy, querysets
from jobs.context import Context
from jobs.executor import Executor
from jobs.hosts import PreforkChild
from jobs.models import Job, JobLogLine, Upload
from jobs.shield import SIGNALS
from jobs.states import JobEvent, JobState
from tests.concurrency.attempts import Declare, run, run_one
from tests.verbs import claim, history, lapse, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    signals = {number: signal.getsignal(number) for number in SIGNALS}
    directory, environment = Path.cwd(), dict(os.environ)
    yield
    for number, disposition in signals.items():
        signal.signal(number, disposition)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    socket.setdefaulttimeout(None)


def leave() -> None:
    Upload.objects.create(name="left", size_bytes=1, sha256="", file="")


# --------------------------------------------------------------------------------- the connection


def closes() -> None:
    leave()
    connection.close()


def switches_autocommit_off() -> None:
    connection.set_autocommit(False)
    leave()


def never_leaves_atomic() -> None:
    transaction.atomic().__enter__()
    leave()


def never_leaves_three_atomics() -> None:
    for _ in range(3):
        transaction.atomic().__enter__()
    leave()


def leaves_it_aborted() -> None:
    transaction.atomic().__enter__()
    with suppress(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT 1 / 0")


def begins_by_hand() -> None:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
    leave()


def breaks_it_by_hand() -> None:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        with suppress(DatabaseError):
            cursor.execute("SELECT 1 / 0")


def closes_the_socket() -> None:
    connection.ensure_connection()
    connection.connection.close()


def kills_its_session() -> None:
    with suppress(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def raises_in_an_open_transaction() -> None:
    transaction.atomic().__enter__()
    leave()
    raise ValueError("and left it open")


CONNECTION = [
    closes,
    switches_autocommit_off,
    never_leaves_atomic,
    never_leaves_three_atomics,
    leaves_it_aborted,
    begins_by_hand,
    breaks_it_by_hand,
    closes_the_socket,
    kills_its_session,
    raises_in_an_open_transaction,
]


@pytest.mark.parametrize("poison", CONNECTION, ids=lambda function: function.__name__)
@pytest.mark.parametrize("host", [None, PreforkChild()], ids=["embedded", "worker"])
def test_the_connection_is_clean_for_the_record_and_for_the_next_job(
    declare: Declare, poison: Callable[[], None], host: PreforkChild | None
) -> None:
    executor = Executor("worker:1", host)
    first, second = [*submit(handler=declare(poison)), *submit(payload={"value": "clean"})]
    one, other = run(first, second, executor=executor)
    expected = JobEvent.RETRY if poison is raises_in_an_open_transaction else JobEvent.SUCCEED
    assert (one.event, one.fenced) == (expected, False)
    assert other.event is JobEvent.SUCCEED
    [third] = submit()
    assert [settled.event for settled in run(third, executor=executor)] == [JobEvent.SUCCEED]
    assert not connection.in_atomic_block
    assert connection.get_autocommit()
    # What it wrote in a transaction that it never ended is not there; a plain write is.
    assert Upload.objects.count() == (1 if poison is closes else 0)


# ------------------------------------------------------------------------------------ the process


def changes_its_surroundings() -> str:
    os.environ["PGHOST"] = os.environ["PGOPTIONS"] = "nowhere"
    os.chdir("/")
    socket.setdefaulttimeout(0.001)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGURG, signal.SIG_DFL)
    sys.setrecursionlimit(500)
    threading.stack_size(32768 * 8)
    return "changed"


def starts_threads() -> str:
    for _ in range(3):
        threading.Thread(target=ended.wait, args=(30,), daemon=False).start()
    return "started"


def forks() -> str:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return "twice"


ended = threading.Event()


@pytest.mark.parametrize(
    "poison", [changes_its_surroundings, starts_threads, forks], ids=lambda f: f.__name__
)
def test_the_process_works_on(declare: Declare, poison: Callable[[], str]) -> None:
    executor = Executor("worker:1", PreforkChild())
    limit = sys.getrecursionlimit()
    try:
        jobs = [
            *submit(handler=declare(poison)),
            *submit(payload={"action": "progress", "seconds": 0.05}),
        ]
        settled = run(*jobs, executor=executor)
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(0)
        ended.set()
    assert [one.event for one in settled] == [JobEvent.SUCCEED] * 2
    assert [history(job.id) for job in jobs] == [["submit", "claim", "succeed"]] * 2, "each once"


def test_a_handler_that_writes_its_own_row_is_refused(declare: Declare) -> None:
    def saves(*, context: Context) -> None:
        Job.objects.get(id=context.job_id).save()

    job = run_one(handler=declare(saves))
    assert (job.event, job.failed_attempts) == ("retry", 1)
    assert job.reason.startswith("Job.save() would write over what others know of the job")


# ------------------------------------------------------------------------------- errors and values


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Rude(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


def deep(error: Exception) -> Exception:
    """Ten thousand causes."""
    for _ in range(10_000):
        outer = ValueError("outer")
        outer.__cause__ = error
        error = outer
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unspeakable(), "Unspeakable: its text cannot be shown"),
        (Rude(), "Rude: its text cannot be shown"),
        (ValueError("x" * 10_000_000), "ValueError: " + "x" * 1987 + "…"),
        (deep(ValueError("inner")), "ValueError: outer"),
    ],
    ids=["str raises", "str exits", "10 MB", "10 000 causes"],
)
def test_an_error_that_cannot_be_told_is_a_failed_attempt(
    declare: Declare, error: Exception, reason: str
) -> None:
    def broken() -> None:
        raise error

    job = run_one(handler=declare(broken))
    assert (job.event, job.failed_attempts) == ("retry", 1)
    assert job.reason == reason
    longest = max(map(len, JobLogLine.objects.values_list("message", flat=True)), default=0)
    assert longest <= 10_000


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


class Liar(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("no items")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("x" * 50 * 1024**2, "the result has 52428802 bytes of JSON"),
        (nested(101), "the result cannot be stored"),
        (nested(100_000), "the result cannot be stored"),
        (10**5000, "the result cannot be stored"),
        ({"a\x00": 1}, "the result cannot be stored"),
        ({"\ud800": 1}, "the result cannot be stored"),
        (object(), "the result cannot be stored"),
        (lambda: 1, "the result cannot be stored"),
    ],
    ids=[
        "50 MB",
        "101 deep",
        "100 000 deep",
        "5000 digits",
        "NUL",
        "surrogate",
        "object",
        "lambda",
    ],
)
def test_a_result_that_cannot_be_kept_fails_for_good(
    declare: Declare, value: Any, reason: str
) -> None:
    def odd() -> Any:
        return value

    job = run_one(handler=declare(odd))
    assert job.state == JobState.FAILED
    assert job.reason.startswith(reason)
    assert run_one().state == JobState.COMPLETED


@pytest.mark.parametrize(
    "value",
    [10**4000, -0.0, 1e308, 5e-324, float("nan"), Liar(a=1), set(), b"abc", "\u2028"],
    ids=repr,
)
def test_an_odd_result_is_kept_or_refused_in_words(declare: Declare, value: Any) -> None:
    def odd() -> Any:
        return value

    job = run_one(handler=declare(odd))
    assert job.state in (JobState.COMPLETED, JobState.FAILED)
    [view] = lifecycle_view(job)
    assert view is not None


def lifecycle_view(job: Job) -> list[Any]:
    """What a reader is shown of it, which must not fail either."""
    return list(querysets.read_views([job.id], conf.get().inline_result_limit_bytes))


# --------------------------------------------------------------------------------- lost and failed


def test_lost_attempts_are_counted_apart_and_end_with_their_own_reason(
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(max_lost_attempts=3)
    [job] = submit(max_attempts=1)
    for count in itertools.count(1):
        job.refresh_from_db()
        assert claim([job], f"host:7/{count}")
        lapse([job])
        [settled] = lifecycle.rescue(limit=1, actor_id="r")
        if settled.event is JobEvent.FAIL:
            break
    job.refresh_from_db()
    assert (job.state, job.lost_attempts, job.failed_attempts) == ("FAILED", 3, 0)
    assert job.reason == (
        "lost 3 times: the worker holding it died or stalled each time, last worker host:7/3"
    )
    assert len(job.reason) < policy.REASON_LIMIT
