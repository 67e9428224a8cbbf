"""Every way in which a handler ends by itself, and what is kept of it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, transaction

from jobs import files, registry, testing
from jobs.context import Context
from jobs.errors import PermanentFailure, RetryLater
from jobs.executor import Executor
from jobs.models import Job, JobArtifact, JobLogLine
from jobs.registry import handler
from jobs.states import JobState
from tests.concurrency.attempts import Declare, run, run_one
from tests.conftest import UserFactory
from tests.rivals import until
from tests.verbs import entry, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


def test_all_that_a_handler_leaves_is_kept_with_the_job(declare: Declare) -> None:
    def report(rows: int, *, context: Context) -> dict[str, Any]:
        context.log("reading")
        context.progress(0.5, "half way")
        context.log("odd rows", "warning")
        context.artifact("plot.svg", b"<svg/>", "image/svg+xml")
        return {"rows": rows, "attempt": context.attempt, "owner": context.owner_id}

    job = run_one(handler=declare(report), payload={"rows": 7})
    assert (job.state, job.result) == (
        JobState.COMPLETED,
        {"rows": 7, "attempt": 1, "owner": None},
    )
    lines = JobLogLine.objects.order_by("id").values_list("level", "message", "attempt")
    assert list(lines) == [("info", "reading", 1), ("warning", "odd rows", 1)]
    kept = JobArtifact.objects.get()
    assert (kept.job_id, kept.name, kept.token) == (job.id, "plot.svg", entry(job.id).token)
    assert b"".join(files.chunks(kept.file)) == b"<svg/>"


class Halt(BaseException):
    """What no library should raise, and some do."""


@pytest.mark.parametrize(
    ("error", "event", "reason"),
    [
        (ValueError("no such column"), "retry", "ValueError: no such column"),
        (ValueError(), "retry", "ValueError"),
        (ValueError("bad\x00text\ud800"), "retry", "ValueError: badtext?"),
        (PermanentFailure("not a CSV file"), "fail", "not a CSV file"),
        (RetryLater("rate limit", 90), "retry", "rate limit"),
        (SystemExit(3), "retry", "RuntimeError: the handler raised SystemExit"),
        (KeyboardInterrupt(), "retry", "RuntimeError: the handler raised KeyboardInterrupt"),
        (GeneratorExit(), "retry", "RuntimeError: the handler raised GeneratorExit"),
        (asyncio.CancelledError(), "retry", "RuntimeError: the handler raised CancelledError"),
        (Halt(), "retry", "RuntimeError: the handler raised Halt"),
        (MemoryError(), "retry", "MemoryError"),
        (RecursionError("deep"), "retry", "RecursionError: deep"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_whatever_a_handler_raises_ends_its_attempt_in_words(
    declare: Declare, error: BaseException, event: str, reason: str
) -> None:
    def broken() -> None:
        raise error

    job = run_one(handler=declare(broken))
    assert (job.event, job.reason) == (event, reason)
    assert job.failed_attempts == 1
    assert job.lease_token is None


def test_attempts_end_with_a_reason_that_counts_them(declare: Declare) -> None:
    def broken() -> None:
        raise ValueError("no")

    [job] = submit(handler=declare(broken), max_attempts=2)
    testing.drain()
    job.refresh_from_db()
    assert (job.state, job.attempt) == (JobState.FAILED, 2)
    assert job.reason == "attempt 2 of 2 failed: ValueError: no"


def test_a_later_retry_waits_as_long_as_the_handler_said(declare: Declare) -> None:
    def busy() -> None:
        raise RetryLater("busy", 500)

    job = run_one(handler=declare(busy))
    with connection.cursor() as cursor:
        cursor.execute("SELECT due_at > now() + interval '400 s' FROM jobs_job")
        assert cursor.fetchall() == [(True,)]
    assert job.state == JobState.PENDING


@pytest.mark.parametrize(
    "value",
    [object(), "a\x00", "\ud800", {"x": {1: object()}}, b"\xff\xfe"],
    ids=["object", "nul", "surrogate", "nested", "bytes"],
)
def test_a_result_that_is_no_json_fails_for_good(declare: Declare, value: Any) -> None:
    def odd() -> Any:
        return value

    job = run_one(handler=declare(odd))
    assert job.state == JobState.FAILED
    assert job.reason.startswith("the result cannot be stored")


def test_a_result_that_nests_without_end_fails_for_good(declare: Declare) -> None:
    def knot() -> Any:
        value: list[Any] = []
        value.append(value)
        return value

    job = run_one(handler=declare(knot))
    assert job.state == JobState.FAILED


def test_a_result_has_a_limit_of_the_handler_or_of_the_settings(
    jobs_settings: Callable[..., None], declare: Declare
) -> None:
    def large(size: int) -> str:
        return "x" * size

    jobs_settings(result_limit_bytes=100)
    name = declare(large)
    assert run_one(handler=name, payload={"size": 98}).state == JobState.COMPLETED
    job = run_one(handler=name, payload={"size": 99})
    assert job.state == JobState.FAILED
    assert "101 bytes of JSON; at most 100 are allowed: keep it as an artifact" in job.reason


def test_not_a_number_becomes_null(declare: Declare) -> None:
    def odd() -> list[float]:
        return [float("nan"), float("inf"), 1.5]

    assert run_one(handler=declare(odd)).result == [None, None, 1.5]


def test_a_payload_that_the_code_no_longer_takes_is_a_failed_attempt(declare: Declare) -> None:
    def old(rows: int) -> None: ...

    [job] = submit(handler=declare(old), payload={"rows": 1})
    del registry._handlers["test-old"]

    def new(columns: int) -> None: ...

    handler("test-old")(new)
    run(job)
    job.refresh_from_db()
    assert (job.event, job.failed_attempts) == ("retry", 1)
    assert "payload.columns" in job.reason


def test_uploads_of_the_owner_are_at_hand_and_scratch_is_removed(
    declare: Declare, user_factory: UserFactory
) -> None:
    user = user_factory()
    mine = files.store_upload(io.BytesIO(b"a"), "a.csv", user.pk)
    theirs = files.store_upload(io.BytesIO(b"b"), "b.csv", user_factory().pk)

    def read(upload: UUID, *, context: Context) -> str:
        return context.open_upload(upload).read_text()

    name = declare(read)
    done = run_one(handler=name, payload={"upload": str(mine.id)}, owner_id=user.pk)
    assert (done.state, done.result) == (JobState.COMPLETED, "a")
    refused = run_one(handler=name, payload={"upload": str(theirs.id)}, owner_id=user.pk)
    assert (refused.state, refused.reason) == (JobState.FAILED, f"there is no upload {theirs.id}")


def test_an_async_handler_runs_to_its_result(declare: Declare) -> None:
    async def later(value: int, *, context: Context) -> int:
        await asyncio.sleep(0)
        context.progress(0.5)
        return value * 2

    assert run_one(handler=declare(later), payload={"value": 4}).result == 8


def test_an_async_handler_that_raises_is_retried(declare: Declare) -> None:
    async def broken() -> None:
        await asyncio.sleep(0)
        raise ValueError("async no")

    assert run_one(handler=declare(broken)).reason == "ValueError: async no"


def test_an_async_handler_that_never_looks_is_stopped(
    declare: Declare, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(timeout_seconds=0.1)
    cleaned = []

    async def sleeper() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(1)

    job = run_one(handler=declare(sleeper))
    assert (job.event, job.reason) == ("retry", "ran longer than 0.1 s")
    assert cleaned == [1]


def test_an_async_handler_that_cancels_itself_is_charged(declare: Declare) -> None:
    """Handing it back without a charge would bring it round for ever."""

    async def quitter() -> None:
        raise asyncio.CancelledError

    job = run_one(handler=declare(quitter))
    assert (job.event, job.failed_attempts) == ("retry", 1)


def test_a_transaction_left_open_is_closed_once_and_the_next_job_has_a_session(
    declare: Declare, caplog: pytest.LogCaptureFixture
) -> None:
    sessions: list[int] = []

    def session() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return int(cursor.fetchone()[0])

    def leaves() -> None:
        transaction.atomic().__enter__()
        sessions.append(session())

    def stays() -> None:
        assert not connection.in_atomic_block
        sessions.append(session())

    jobs = [submit(handler=declare(function))[0] for function in (leaves, stays, stays)]
    executor = Executor("worker:1")
    run(*jobs, executor=executor)
    assert [Job.objects.get(id=job.id).state for job in jobs] == [JobState.COMPLETED] * 3
    first, second, third = sessions
    assert first != second == third
    assert caplog.text.count("left a transaction open") == 1


def test_an_async_handler_has_a_database_session_of_its_own(declare: Declare) -> None:
    """What one leaves open there is gone with it, and none is dead when the next one comes."""
    sessions: list[int] = []

    def leave_open() -> None:
        transaction.atomic().__enter__()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            sessions.append(cursor.fetchone()[0])

    async def leaves() -> None:
        await sync_to_async(leave_open)()

    name = declare(leaves)
    assert run_one(handler=name).state == JobState.COMPLETED
    assert run_one(handler=name).state == JobState.COMPLETED
    assert len(set(sessions)) == 2

    def alive() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", [sessions])
            return bool(cursor.fetchone()[0])

    until(lambda: not alive())
