"""Attempts run for real: heartbeats, and every way in which a handler ends or is ended.

The handler runs in the test's own thread, which is the main thread as in a prefork child; whoever
disturbs it is a rival with a session of its own that waits for a signal first.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError, connection, transaction

from jobs import drain, events, files, heart, lifecycle, registry, testing
from jobs.context import Context
from jobs.errors import PermanentFailure, RetryLater
from jobs.executor import Executor
from jobs.models import Job, JobArtifact, JobLogLine
from jobs.registry import handler
from jobs.states import JobEvent, JobState
from jobs.values import Backoff, Beat, Doorbell, Pulse, Settled
from tests.conftest import UserFactory
from tests.rivals import Rival, running, until
from tests.verbs import USER, Facts, claim, entry, history, lapse, submit

pytestmark = pytest.mark.django_db(transaction=True)

Declare = Callable[[Callable[..., Any]], str]


@pytest.fixture(autouse=True)
def _quick(jobs_settings: Callable[..., None]) -> None:
    """Beats and graces that keep the tests short; leases that a slow machine does not lose."""
    jobs_settings(
        heartbeat_seconds=0.02,
        lease_seconds=30,
        stop_grace_seconds=0.1,
        drain_grace_seconds=0.05,
        timeout_seconds=60,
    )


@pytest.fixture
def declare() -> Iterator[Declare]:
    """Declares a handler for one test and returns its name."""
    before = dict(registry._handlers)

    def add(function: Callable[..., Any], **options: Any) -> str:
        name = f"test-{function.__name__}"
        handler(name, backoff=Backoff(base_seconds=0, jitter=0), **options)(function)
        return name

    yield add
    registry._handlers.clear()
    registry._handlers.update(before)


def run(*jobs: Job, executor: Executor | None = None) -> list[Settled]:
    bells = [Doorbell(job.id, job.version) for job in jobs]
    return (executor or Executor("worker:1")).answer(bells)


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


# ------------------------------------------------------------------------------- ends of all kinds


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


# ------------------------------------------------------------------------------------------ async


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


# --------------------------------------------------------------------------------------- too long


@pytest.mark.parametrize("way", ["loop", "sleep", "swallow"])
def test_a_handler_that_never_looks_is_interrupted(
    declare: Declare, jobs_settings: Callable[..., None], way: str
) -> None:
    jobs_settings(timeout_seconds=0.1)

    def deaf() -> None:
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            try:
                if way == "sleep":
                    time.sleep(60)
            except Exception:
                if way == "swallow":
                    continue

    job = run_one(handler=declare(deaf))
    assert (job.event, job.reason) == ("retry", "ran longer than 0.1 s")
    assert job.failed_attempts == 1


def test_a_handler_may_have_its_own_limit(declare: Any) -> None:
    def slow(*, context: Context) -> None:
        while True:
            context.check()

    job = run_one(handler=declare(slow, timeout_seconds=0.05))
    assert job.reason == "ran longer than 0.05 s"


def test_waiting_behind_a_neighbour_is_not_running(
    declare: Any, jobs_settings: Callable[..., None]
) -> None:
    """Two jobs of one message: the second one's time begins when its own handler does."""

    def nap(*, context: Context) -> None:
        until_then = time.monotonic() + 0.3
        while time.monotonic() < until_then:
            context.check()

    jobs = submit(2, handler=declare(nap, timeout_seconds=0.5))
    assert [one.event for one in run(*jobs)] == [JobEvent.SUCCEED] * 2


# --------------------------------------------------------------------------------------- cancelled


@pytest.mark.parametrize("action", ["wait", "ignore"])
def test_a_cancel_reaches_the_handler(action: str) -> None:
    """``wait`` looks whether it should stop; ``ignore`` never does and is interrupted."""
    [job] = submit(payload={"action": action, "gate_name": "g"})
    rival = when_entered(testing.gate("g"), lambda: lifecycle.cancel([job.id], actor=USER))
    [settled] = run(job)
    rival.answer()
    assert settled == Settled(job.id, JobEvent.CANCEL, fenced=False)
    assert history(job.id) == ["submit", "claim", "request_cancel", "cancel"]
    found = entry(job.id)
    assert (found.actor_kind, found.reason) == ("worker", "stopped on request")
    assert Job.objects.get().failed_attempts == 0


def test_a_handler_that_completes_after_all_stays_completed(declare: Declare) -> None:
    gate = testing.gate("g")

    def stubborn(*, context: Context) -> str:
        gate.entered.set()
        until(lambda: context.cancelled)
        return "done anyway"

    [job] = submit(handler=declare(stubborn))
    rival = when_entered(gate, lambda: lifecycle.cancel([job.id], actor=USER))
    run(job)
    rival.answer()
    assert history(job.id) == ["submit", "claim", "request_cancel", "succeed"]


def test_a_handler_that_swallows_everything_loses_its_attempt(
    declare: Declare, caplog: pytest.LogCaptureFixture, facts: Facts
) -> None:
    """No supervisor replaces this process, so the attempt is ended and the handler left behind."""
    gate = testing.gate("g")

    def monster() -> str:
        gate.entered.set()
        while not gate.opened.is_set():
            try:
                gate.opened.wait(0.01)
            except BaseException:
                continue
        return "too late"

    [job] = submit(handler=declare(monster))

    def cancel_and_wait() -> None:
        lifecycle.cancel([job.id], actor=USER)
        until(lambda: Job.objects.get(id=job.id).state == JobState.CANCELLED)
        gate.opened.set()

    rival = when_entered(gate, cancel_and_wait)
    [settled] = run(job)
    rival.answer()
    assert settled.event is JobEvent.CANCEL
    assert history(job.id) == ["submit", "claim", "request_cancel", "cancel"]
    assert Job.objects.get().result is None
    assert "ignores cancelled" in caplog.text


# ---------------------------------------------------------------------------------- worker stopping


@pytest.mark.parametrize("action", ["wait", "ignore"])
def test_a_stopping_worker_hands_the_job_back_without_a_charge(action: str) -> None:
    [job] = submit(payload={"action": action, "gate_name": "g"}, max_attempts=1)
    rival = when_entered(testing.gate("g"), drain.stop)
    [settled] = run(job)
    rival.answer()
    assert settled == Settled(job.id, JobEvent.RELEASE, fenced=False)
    after = Job.objects.get()
    assert (after.state, after.failed_attempts, after.lost_attempts) == (JobState.PENDING, 0, 0)
    assert entry(job.id).reason == "worker is stopping"
    drain.clear()
    [again] = claim([after])
    assert again.attempt == 2


def test_a_job_that_ends_within_the_grace_is_not_handed_back(
    declare: Declare, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(drain_grace_seconds=60)
    gate = testing.gate("g")

    def polite(*, context: Context) -> str:
        gate.entered.set()
        until(lambda: context.stopping)
        context.check()
        return "saved"

    [job] = submit(handler=declare(polite))
    rival = when_entered(gate, drain.stop)
    run(job)
    rival.answer()
    assert Job.objects.get().result == "saved"


def test_a_stopping_worker_begins_nothing() -> None:
    [job] = submit()
    drain.stop()
    run(job)
    after = Job.objects.get()
    assert after.state == JobState.PENDING
    assert after.failed_attempts == 0
    assert after.result is None


# ------------------------------------------------------------------------------------- the heart


def test_progress_and_lines_are_seen_while_the_handler_runs(declare: Declare) -> None:
    gate = testing.gate("g")

    def shows(*, context: Context) -> None:
        context.log("reading")
        context.progress(0.25, "a quarter")
        gate.entered.set()
        gate.opened.wait(60)

    [job] = submit(handler=declare(shows))

    def look() -> None:
        until(lambda: Job.objects.get(id=job.id).progress == 0.25)
        until(lambda: JobLogLine.objects.filter(job_id=job.id).exists())
        assert Job.objects.get(id=job.id).progress_message == "a quarter"
        gate.opened.set()

    rival = when_entered(gate, look)
    run(job)
    rival.answer()
    assert JobLogLine.objects.count() == 1


def test_a_lease_is_kept_far_beyond_its_length(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(lease_seconds=2, heartbeat_seconds=0.05)
    [job] = submit(payload={"action": "ignore", "gate_name": "g"})
    gate = testing.gate("g")

    def lapsed_twice_over() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT lease_until > started_at + interval '4 s' FROM jobs_job")
            return bool(cursor.fetchone()[0])

    def look() -> None:
        until(lapsed_twice_over)
        assert lifecycle.rescue(limit=1, actor_id="r") == []
        gate.opened.set()

    rival = when_entered(gate, look)
    [settled] = run(job)
    rival.answer()
    assert not settled.fenced


def test_a_neighbour_that_waits_its_turn_keeps_its_lease() -> None:
    first, second = [
        *submit(payload={"action": "wait", "gate_name": "g"}),
        *submit(payload={"value": 2}),
    ]
    gate = testing.gate("g")

    def look() -> None:
        before = Job.objects.get(id=second.id).lease_until
        until(lambda: Job.objects.get(id=second.id).lease_until != before)
        gate.opened.set()

    rival = when_entered(gate, look)
    settled = run(first, second)
    rival.answer()
    assert [one.event for one in settled] == [JobEvent.SUCCEED] * 2


def test_a_beat_that_fails_loses_no_line(
    declare: Declare, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beat = lifecycle.heartbeat
    failed: list[int] = []

    def flaky(beats: list[Beat]) -> list[Pulse]:
        if any(one.lines for one in beats) and not failed:
            failed.append(1)
            raise OperationalError("no connection")
        return beat(beats)

    monkeypatch.setattr(lifecycle, "heartbeat", flaky)

    def logs(*, context: Context) -> None:
        context.log("kept")
        context.progress(0.5)
        until(JobLogLine.objects.exists)

    job = run_one(handler=declare(logs))
    assert job.state == JobState.COMPLETED
    assert job.progress_seq == 1
    assert list(JobLogLine.objects.values_list("message", flat=True)) == ["kept"]
    assert "heartbeat failed" in caplog.text


@pytest.mark.parametrize("action", ["wait", "ignore"])
def test_a_holder_that_lost_its_lease_is_fenced(action: str, facts: Facts) -> None:
    """Rescued and claimed by somebody else, while the first one still runs."""
    [job] = submit(payload={"action": action, "gate_name": "g", "value": "late"})
    taken = []

    def take_over() -> None:
        lapse([job])
        lifecycle.rescue(limit=1, actor_id="r")
        taken.extend(claim([Job.objects.get(id=job.id)], "worker:2"))

    # The lapse and the rescue must not be undone by a beat in between.
    def take_over_at_once() -> None:
        with transaction.atomic():
            Job.objects.select_for_update().get(id=job.id)
            take_over()

    rival = when_entered(testing.gate("g"), take_over_at_once)
    [settled] = run(job)
    rival.answer()
    assert settled.fenced
    after = Job.objects.get()
    assert (after.state, after.worker, after.result) == (JobState.RUNNING, "worker:2", None)
    assert after.lease_token == taken[0].token
    assert history(job.id) == ["submit", "claim", "rescue", "claim"]
    [fact] = facts.of(events.Fenced)
    assert fact.worker == "worker:1"


def test_an_idle_heart_holds_no_connection() -> None:
    executor = Executor("worker:1")
    name = "interlock-heart-test"
    seen = []

    def sessions() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return int(cursor.fetchone()[0])

    until(lambda: sessions() == 0)
    [job] = submit(payload={"action": "wait", "gate_name": name})
    gate = testing.gate(name)

    def look() -> None:
        until(lambda: sessions() == 2)  # the handler's and the heart's
        seen.append(1)
        gate.opened.set()

    rival = when_entered(gate, look)
    run(job, executor=executor)
    rival.answer()
    assert seen == [1]
    until(lambda: sessions() == 0)


def test_a_forked_child_has_a_heart_of_its_own() -> None:
    executor = Executor("worker:1")
    run(*submit(), executor=executor)
    first = executor._heart
    assert isinstance(first, heart.Heart)
    first.pid += 1
    run(*submit(), executor=executor)
    assert executor._heart is not first


# ------------------------------------------------------------------------------- what is left alone


def test_handlers_never_run_inside_a_transaction() -> None:
    [job] = submit()
    with transaction.atomic(), pytest.raises(RuntimeError, match="never run inside a transaction"):
        run(job)
    inside = []

    def look() -> None:
        inside.append(connection.in_atomic_block)

    handler("test-look")(look)
    try:
        run(*submit(handler="test-look"))
    finally:
        del registry._handlers["test-look"]
    assert inside == [False]


def test_stale_and_unknown_doorbells_run_nothing() -> None:
    [job] = submit()
    assert Executor("w").answer([Doorbell(job.id, 7), Doorbell(uuid4(), 1)]) == []
    assert history(job.id) == ["submit"]


def test_a_handler_that_vanishes_after_the_claim_hands_the_job_back(declare: Declare) -> None:
    def gone() -> None: ...

    name = declare(gone)
    first, second = [*submit(payload={"action": "wait", "gate_name": "g"}), *submit(handler=name)]
    gate = testing.gate("g")

    def vanish() -> None:
        del registry._handlers[name]
        gate.opened.set()

    rival = when_entered(gate, vanish)
    run(first, second)
    rival.answer()
    assert history(second.id) == ["submit", "claim", "release"]


def test_two_threads_may_share_an_executor() -> None:
    executor = Executor("worker:1")
    jobs = submit(10, payload={"action": "sleep", "seconds": 0.01})

    def half(mine: list[Job]) -> Callable[[], list[Settled]]:
        return lambda: [one for job in mine for one in run(job, executor=executor)]

    with running(half(jobs[:5])), running(half(jobs[5:])):
        pass
    assert set(Job.objects.values_list("state", flat=True)) == {JobState.COMPLETED}


def test_marks_tell_who_ran(tmp_path: Path) -> None:
    run_one(payload={"mark": str(tmp_path / "mark")})
    assert len((tmp_path / "mark").read_text().splitlines()) == 1
