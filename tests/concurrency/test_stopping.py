"""Handlers that are stopped: too long, cancelled, or because the worker stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from jobs import drain, lifecycle, testing
from jobs.context import Context
from jobs.errors import HandlerSignal, JobCancelled, JobReleased, JobTimeout
from jobs.executor import Executor
from jobs.hosts import Host
from jobs.models import Job, JobLogLine
from jobs.states import JobEvent, JobState
from jobs.values import Settled
from tests.concurrency.attempts import Declare, run, run_one, when_entered
from tests.rivals import Rival, until
from tests.verbs import USER, Facts, claim, entry, history, lapse, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


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


def test_a_handler_may_have_its_own_limit(declare: Declare) -> None:
    def slow(*, context: Context) -> None:
        while True:
            context.check()

    job = run_one(handler=declare(slow, timeout_seconds=0.05))
    assert job.reason == "ran longer than 0.05 s"


def test_waiting_behind_a_neighbour_is_not_running(
    declare: Declare, jobs_settings: Callable[..., None]
) -> None:
    """Two jobs of one message: the second one's time begins when its own handler does."""

    def nap(*, context: Context) -> None:
        until_then = time.monotonic() + 0.3
        while time.monotonic() < until_then:
            context.check()

    jobs = submit(2, handler=declare(nap, timeout_seconds=0.5))
    assert [one.event for one in run(*jobs)] == [JobEvent.SUCCEED] * 2


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


# ------------------------------------------------------------------------ before its turn came


def test_a_cancel_of_a_job_that_waits_its_turn_hurts_nobody(declare: Declare) -> None:
    """Two jobs of one message: the second is cancelled while the first one runs, for longer than
    the whole ladder of stopping takes, and goes on undisturbed."""
    gate = testing.gate("g")
    begun: list[int] = []

    def second() -> None:
        begun.append(1)

    running, waiting = [
        *submit(payload={"action": "wait", "gate_name": "g", "value": "undisturbed"}),
        *submit(handler=declare(second)),
    ]

    def cancel_and_wait() -> None:
        lifecycle.cancel([waiting.id], actor=USER)
        until(lambda: Job.objects.get(id=waiting.id).state == JobState.CANCELLED)
        assert Job.objects.get(id=running.id).state == JobState.RUNNING
        time.sleep(0.5)  # more than the ladder's three steps of the one that was asked
        gate.opened.set()

    host = Recorder()
    rival = when_entered(gate, cancel_and_wait)
    settled = run(running, waiting, executor=Executor("worker:1", host))
    rival.answer()
    assert [one.event for one in settled] == [JobEvent.SUCCEED, JobEvent.CANCEL]
    assert not any(one.fenced for one in settled)
    assert history(waiting.id) == ["submit", "claim", "request_cancel", "cancel"]
    assert (begun, host.ended) == ([], [])


def test_a_stopping_worker_hands_back_at_once_what_waits_its_turn(
    declare: Declare, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(drain_grace_seconds=60)
    gate = testing.gate("g")
    running, waiting = [
        *submit(payload={"action": "wait", "gate_name": "g"}),
        *submit(),
    ]

    def stop_and_wait() -> None:
        drain.stop()
        until(lambda: history(waiting.id) == ["submit", "claim", "release"])
        gate.opened.set()

    rival = when_entered(gate, stop_and_wait)
    settled = run(running, waiting)
    rival.answer()
    assert [one.event for one in settled] == [JobEvent.SUCCEED, JobEvent.RELEASE]
    assert history(waiting.id) == ["submit", "claim", "release"]


def test_a_cancel_while_the_worker_stops_is_a_cancel() -> None:
    [job] = submit(payload={"action": "wait", "gate_name": "g"})

    def both() -> None:
        lifecycle.cancel([job.id], actor=USER)
        drain.stop()

    rival = when_entered(testing.gate("g"), both)
    run(job)
    rival.answer()
    assert history(job.id) == ["submit", "claim", "request_cancel", "cancel"]


def test_a_cancel_with_no_worker_alive_waits_for_nobody() -> None:
    waiting, running = submit(2)
    claim([running])
    lifecycle.cancel([waiting.id, running.id], actor=USER, reason="not needed")
    lapse([running])
    lifecycle.rescue(limit=10, actor_id="r")
    assert history(waiting.id) == ["submit", "cancel"]
    assert history(running.id) == ["submit", "claim", "request_cancel", "cancel"]
    found = entry(running.id)
    assert (found.actor_kind, found.reason) == (
        "rescuer",
        "stopped on request; worker worker:1 died before it could confirm",
    )


def test_a_doorbell_of_a_job_that_was_cancelled_in_the_queue_runs_nothing() -> None:
    [job] = submit()
    lifecycle.cancel([job.id], actor=USER)
    assert run(job) == []
    assert run(job, redelivered=True) == []
    assert history(job.id) == ["submit", "cancel"]


# ------------------------------------------------------------------------------- beyond raising


class Recorder(Host):
    """A host whose process is not really ended."""

    ends = True

    def __init__(self) -> None:
        self.ended: list[bool] = []

    def end(self, busy: Callable[[], bool]) -> None:
        self.ended.append(busy())


def test_a_stuck_handler_loses_its_process_after_it_was_recorded(declare: Declare) -> None:
    """Its neighbours of the same message are handed back first: their turn will never come."""
    gate = testing.gate("g")
    host = Recorder()

    def monster(*, context: Context) -> None:
        context.log("before the end")
        gate.entered.set()
        while not host.ended:
            with suppress(BaseException):
                time.sleep(0.01)

    stuck, waiting = [
        *submit(handler=declare(monster, timeout_seconds=0.05)),
        *submit(),
    ]
    settled = run(stuck, waiting, executor=Executor("worker:1", host))
    assert host.ended == [False], "nobody else needs the process"
    assert [one.event for one in settled] == [JobEvent.RETRY, JobEvent.RELEASE]
    stuck.refresh_from_db()
    assert (stuck.reason, stuck.failed_attempts) == ("ran longer than 0.05 s", 1)
    assert entry(waiting.id).reason == "a neighbour's process had to be ended"
    assert JobLogLine.objects.filter(message="before the end").exists()


def test_a_neighbour_in_another_thread_is_not_hurt(declare: Declare) -> None:
    """It keeps the process busy until it has ended, and is recorded like any other."""
    gate = testing.gate("g")
    host = Recorder()

    def monster() -> None:
        while not host.ended:
            with suppress(BaseException):
                time.sleep(0.01)

    executor = Executor("worker:1", host)
    [neighbour] = submit(payload={"action": "wait", "gate_name": "g", "value": "well"})
    [stuck] = submit(handler=declare(monster, timeout_seconds=0.05))
    rival = Rival(lambda: run(neighbour, executor=executor))
    assert gate.entered.wait(60)
    run(stuck, executor=executor)
    assert host.ended == [True], "the process is still needed"
    assert executor._beating().is_busy()
    gate.opened.set()
    assert [one.event for one in rival.answer()] == [JobEvent.SUCCEED]
    assert not executor._beating().is_busy()


def test_an_async_handler_that_blocks_its_loop_is_interrupted(
    declare: Declare, jobs_settings: Callable[..., None]
) -> None:
    """Cancelling its task is not heard before the next await, so the exception follows."""
    jobs_settings(timeout_seconds=0.1, stop_grace_seconds=0.3)

    heard: list[BaseException] = []

    async def blocks() -> None:
        ends = time.monotonic() + 30
        try:
            while time.monotonic() < ends:
                time.sleep(0.01)  # noqa: ASYNC251 - the mistake that this is about
        except BaseException as error:
            heard.append(error)
            raise

    job = run_one(handler=declare(blocks))
    assert (job.event, job.reason) == ("retry", "ran longer than 0.1 s")
    assert [type(error) for error in heard] == [JobTimeout]


def test_a_result_that_never_ends_is_interrupted(
    declare: Declare, jobs_settings: Callable[..., None]
) -> None:
    """Turning the value into JSON runs the handler's code as well."""
    jobs_settings(timeout_seconds=0.1)

    def endless() -> Any:
        def numbers() -> Iterator[int]:
            while True:
                time.sleep(0.001)
                yield 1

        return numbers()

    job = run_one(handler=declare(endless))
    assert (job.event, job.reason) == ("retry", "ran longer than 0.1 s")


@pytest.mark.parametrize("kind", [JobCancelled, JobReleased, JobTimeout])
def test_a_handler_that_says_so_itself_is_charged(
    declare: Declare, kind: type[HandlerSignal]
) -> None:
    """Nobody asked it to stop. Handed back for nothing, it would come round for ever."""

    def quitter() -> None:
        raise kind("by myself")

    job = run_one(handler=declare(quitter))
    assert (job.event, job.failed_attempts) == ("retry", 1)
    assert job.reason == f"RuntimeError: the handler raised {kind.__name__}"
