"""``context.on_completion``: writes that happen with the recorded completion, or not at all.

The effect of these tests is an upload's row: a table of the same database without any guard.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction

from jobs import lifecycle, testing
from jobs.context import Context
from jobs.errors import JobCancelled, PermanentFailure
from jobs.models import Job, JobLogLine, Upload
from jobs.states import JobEvent, JobState
from jobs.transactions import is_away
from jobs.values import Outcome
from tests.concurrency.attempts import Declare, run, run_one, when_entered
from tests.rivals import Rival
from tests.verbs import USER, WORKER, claim, history, lapse, lost_answer, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


def leave(job_id: UUID, name: str = "effect") -> None:
    """The effect: it fails if this job has one already."""
    Upload.objects.create(id=job_id, name=name, size_bytes=1, sha256="", file="")


def effects() -> list[str]:
    return list(Upload.objects.order_by("name").values_list("name", flat=True))


def test_a_write_commits_with_the_completion(declare: Declare) -> None:
    seen: list[Any] = []

    def report(*, context: Context) -> str:
        context.on_completion(lambda: leave(context.job_id))
        context.on_completion(lambda: seen.append(Job.objects.get().state))
        context.on_completion(lambda: seen.append(threading.current_thread()))
        assert not Upload.objects.exists(), "not before the handler has ended"
        return "done"

    job = run_one(handler=declare(report))
    assert (job.state, job.result) == (JobState.COMPLETED, "done")
    assert effects() == ["effect"]
    assert seen == [JobState.COMPLETED, threading.main_thread()], "after the row, in its order"


def test_an_async_handler_may_leave_a_write(declare: Declare) -> None:
    async def report(*, context: Context) -> None:
        await asyncio.sleep(0)
        context.on_completion(lambda: leave(context.job_id))

    assert run_one(handler=declare(report)).state == JobState.COMPLETED
    assert effects() == ["effect"]


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), PermanentFailure("no"), SystemExit(1)],
    ids=lambda e: type(e).__name__,
)
def test_a_handler_that_fails_leaves_no_effect(declare: Declare, error: BaseException) -> None:
    def broken(*, context: Context) -> None:
        context.on_completion(lambda: leave(context.job_id))
        raise error

    assert run_one(handler=declare(broken)).state != JobState.COMPLETED
    assert effects() == []


def test_a_cancelled_attempt_leaves_no_effect(declare: Declare) -> None:
    gate = testing.gate("g")

    def obedient(*, context: Context) -> None:
        context.on_completion(lambda: leave(context.job_id))
        gate.entered.set()
        while True:
            context.check()

    [job] = submit(handler=declare(obedient))
    rival = when_entered(gate, lambda: lifecycle.cancel([job.id], actor=USER))
    run(job)
    rival.answer()
    assert Job.objects.get().state == JobState.CANCELLED
    assert effects() == []


def test_a_fenced_attempt_leaves_no_effect(declare: Declare) -> None:
    """Its job was rescued and is somebody else's while it finishes."""
    calls: list[int] = []

    def late(*, context: Context) -> None:
        context.on_completion(lambda: calls.append(1))
        with transaction.atomic():
            Job.objects.select_for_update().get(id=context.job_id)
            lapse(Job.objects.all())
            lifecycle.rescue(limit=1, actor_id="r")

    [job] = submit(handler=declare(late))
    [settled] = run(job)
    assert settled.fenced
    assert calls == []
    assert history(job.id) == ["submit", "claim", "rescue"]


# ------------------------------------------------------------------------------ writes that fail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("negative"), "ValueError: negative"),
        (PermanentFailure("closed"), "closed"),
        (SystemExit(2), "RuntimeError: the handler raised SystemExit"),
        (JobCancelled(), "RuntimeError: the handler raised JobCancelled"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_a_write_raises_is_the_attempts_failure(
    declare: Declare, error: BaseException, reason: str
) -> None:
    def report(*, context: Context) -> str:
        def write() -> None:
            leave(context.job_id)
            raise error

        context.log("kept")
        context.on_completion(write)
        return "not stored"

    job = run_one(handler=declare(report))
    assert job.reason == reason
    assert job.failed_attempts == 1
    assert job.event == ("fail" if isinstance(error, PermanentFailure) else "retry")
    assert job.result is None
    assert effects() == []
    assert "kept" in JobLogLine.objects.values_list("message", flat=True)


def test_a_write_may_succeed_at_the_next_attempt(declare: Declare) -> None:
    def report(*, context: Context) -> None:
        def write() -> None:
            leave(context.job_id)
            if context.attempt < 3:
                raise ValueError("not yet")

        context.on_completion(write)

    [job] = submit(handler=declare(report), max_attempts=3)
    testing.drain()
    assert history(job.id)[-1] == "succeed"
    assert effects() == ["effect"]


def test_a_write_that_hides_a_broken_transaction_fails_the_attempt(declare: Declare) -> None:
    """PostgreSQL answers its COMMIT with a silent rollback, so it would count as completed."""

    def report(*, context: Context) -> None:
        def write() -> None:
            leave(context.job_id)
            with suppress(IntegrityError):
                leave(context.job_id)

        context.on_completion(write)

    job = run_one(handler=declare(report))
    assert job.event == "retry"
    assert "a completion write has broken off the transaction" in job.reason
    assert effects() == []


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK"])
def test_a_write_that_ends_the_transaction_does_not_complete_the_job_twice(
    declare: Declare, statement: str
) -> None:
    def report(*, context: Context) -> None:
        def write() -> None:
            with connection.cursor() as cursor:
                cursor.execute(statement)

        context.on_completion(write)

    job = run_one(handler=declare(report))
    assert (job.state, job.event) in [("COMPLETED", "succeed"), ("PENDING", "retry")]
    assert not connection.in_atomic_block


def test_a_write_that_closes_the_connection_fails_the_attempt(declare: Declare) -> None:
    """The database is not away, so there is nothing to wait for."""

    def report(*, context: Context) -> None:
        context.on_completion(connection.close)

    job = run_one(handler=declare(report))
    assert (job.event, job.failed_attempts) == ("retry", 1)


def test_a_statement_of_a_write_that_takes_too_long_is_the_writes_fault(declare: Declare) -> None:
    def report(*, context: Context) -> None:
        def write() -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL statement_timeout = '20ms'")
                cursor.execute("SELECT pg_sleep(60)")

        context.on_completion(write)

    job = run_one(handler=declare(report))
    assert job.event == "retry"
    assert "statement timeout" in job.reason


def test_a_database_that_breaks_off_a_write_is_waited_for(declare: Declare) -> None:
    """Its session is ended from outside, as by a restart: the same completion is tried again."""
    tries: list[int] = []

    def report(*, context: Context) -> None:
        def write() -> None:
            tries.append(1)
            leave(context.job_id)
            if len(tries) < 7:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        context.on_completion(write)

    job = run_one(handler=declare(report))
    assert history(job.id) == ["submit", "claim", "succeed"]
    assert effects() == ["effect"]
    assert len(tries) == 7


def test_a_hook_that_raises_after_the_commit_fails_nothing(
    declare: Declare, caplog: pytest.LogCaptureFixture
) -> None:
    def report(*, context: Context) -> None:
        def hook() -> None:
            raise ValueError("too late")

        context.on_completion(lambda: transaction.on_commit(hook))

    job = run_one(handler=declare(report))
    assert job.state == JobState.COMPLETED
    assert "raised after its completion" in caplog.text


# ------------------------------------------------------------------------------------ many at once


def outcome(attempt: Any, write: Callable[[], None] | None = None) -> Outcome:
    return Outcome(attempt, JobEvent.SUCCEED, writes=() if write is None else (write,))


def test_one_bad_write_undoes_nothing_of_its_neighbours() -> None:
    first, bad, second, plain = claim(submit(4))

    def fails() -> None:
        leave(bad.job_id)
        raise ValueError("bad")

    settled = lifecycle.finish(
        [
            outcome(first, lambda: leave(first.job_id, "first")),
            outcome(bad, fails),
            outcome(second, lambda: leave(second.job_id, "second")),
            outcome(plain),
        ],
        worker=WORKER,
    )
    assert [one.job_id for one in settled] == [a.job_id for a in (first, bad, second, plain)]
    assert [type(one.error) for one in settled] == [type(None), ValueError, *[type(None)] * 2]
    assert effects() == ["first", "second"]
    states = dict(Job.objects.values_list("id", "state"))
    assert states.pop(bad.job_id) == JobState.RUNNING, "still held: its holder decides again"
    assert set(states.values()) == {JobState.COMPLETED}


def test_a_completion_whose_answer_was_lost_does_not_write_again() -> None:
    [attempt] = claim(submit())
    calls: list[int] = []

    def write() -> None:
        calls.append(1)
        leave(attempt.job_id)

    with lost_answer():
        [settled] = lifecycle.finish([outcome(attempt, write)], worker=WORKER)
    assert (settled.fenced, settled.error) == (False, None)
    assert calls == [1]
    assert history(attempt.job_id) == ["submit", "claim", "succeed"]


def test_a_write_waits_for_nobody_who_waits_for_the_job() -> None:
    """A cancel that arrives while the write runs waits for the row, and then finds it COMPLETED."""
    [attempt] = claim(submit())
    answers: list[Any] = []

    def write() -> None:
        rival = Rival(lambda: lifecycle.cancel([attempt.job_id], actor=USER))
        rival.wait_until_blocked()
        answers.append(rival)

    lifecycle.finish([outcome(attempt, write)], worker=WORKER)
    with pytest.raises(Exception, match="is COMPLETED"):
        answers[0].answer()


def test_a_lease_that_lapsed_and_that_nobody_took_still_completes() -> None:
    [attempt] = claim(submit())
    lapse(Job.objects.all())
    [settled] = lifecycle.finish([outcome(attempt, lambda: leave(attempt.job_id))], worker=WORKER)
    assert not settled.fenced
    assert effects() == ["effect"]


# ----------------------------------------------------------------------------------------- inline


@pytest.mark.django_db
def test_inline_runs_honour_it(declare: Declare) -> None:
    def report(good: bool, *, context: Context) -> None:
        def write() -> None:
            leave(context.job_id, f"good is {good}")
            if not good:
                raise ValueError("bad")

        context.on_completion(write)

    name = declare(report)
    with transaction.atomic():
        good, bad = [
            *submit(handler=name, payload={"good": True}),
            *submit(handler=name, payload={"good": False}, max_attempts=1),
        ]
        testing.run_inline()
        assert effects() == ["good is True"]
        assert Job.objects.get(id=good.id).state == JobState.COMPLETED
        assert Job.objects.get(id=bad.id).state == JobState.FAILED


def test_an_outage_is_told_from_a_failure() -> None:
    """By SQLSTATE: these two classes tell of the server, whatever Django calls them."""
    assert is_away(OperationalError("server closed the connection unexpectedly"))
    assert not is_away(IntegrityError("duplicate key"))
