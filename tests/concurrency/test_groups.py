"""Several jobs of one message: recorded in few commits, none of them late for another's sake."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from jobs import testing
from jobs.context import Context
from jobs.executor import Executor
from jobs.models import AuditEntry, Job, JobLogLine
from jobs.states import JobEvent, JobState
from tests.concurrency.attempts import Declare, run, when_entered
from tests.rivals import until
from tests.verbs import HANDLER, history, statements, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]

GATE = {"action": "wait", "gate_name": "g"}


def states(jobs: list[Job]) -> list[str]:
    found = dict(Job.objects.filter(id__in=[job.id for job in jobs]).values_list("id", "state"))
    return [found[job.id] for job in jobs]


def commits(jobs: list[Job]) -> int:
    """In how many transactions these jobs were completed."""
    entries = AuditEntry.objects.filter(job_id__in=[job.id for job in jobs], event=JobEvent.SUCCEED)
    return entries.values("txid").distinct().count()


def test_quick_jobs_of_one_message_are_completed_in_one_commit(
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(group_flush_seconds=60)
    jobs = submit(50)
    settled = run(*jobs)
    assert [one.job_id for one in settled] == [job.id for job in jobs]
    assert {one.event for one in settled} == {JobEvent.SUCCEED}
    assert set(states(jobs)) == {JobState.COMPLETED}
    assert commits(jobs) == 1


@pytest.mark.parametrize("count", [2, 60])
def test_the_number_of_statements_does_not_grow_with_the_message(
    count: int, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(group_flush_seconds=60, heartbeat_seconds=1)
    jobs = submit(count)
    executor = Executor("worker:1")
    with statements() as found:
        run(*jobs, executor=executor)
    assert len(found) == 2, found


def test_neighbours_fail_and_succeed_each_for_itself(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(group_flush_seconds=60)
    jobs = [
        *submit(),
        *submit(payload={"action": "permanent"}),
        *submit(payload={"value": 3}),
    ]
    run(*jobs)
    assert states(jobs) == [JobState.COMPLETED, JobState.FAILED, JobState.COMPLETED]
    assert Job.objects.get(id=jobs[2].id).result == 3


def test_a_slow_job_delays_nobody(jobs_settings: Callable[..., None]) -> None:
    """Seen while it runs: those before it are completed, those behind it wait for other workers."""
    jobs_settings(group_turn_seconds=0.1)
    before, slow, behind = submit(3), submit(payload=GATE), submit(3)
    gate = testing.gate("g")

    def look() -> None:
        until(lambda: set(states(before)) == {JobState.COMPLETED})
        until(lambda: set(states(behind)) == {JobState.PENDING})
        assert states(slow) == [JobState.RUNNING]
        # Another worker is free for them, and is rung for.
        run(*Job.objects.filter(id__in=[job.id for job in behind]), executor=Executor("worker:2"))
        assert set(states(behind)) == {JobState.COMPLETED}
        gate.opened.set()

    rival = when_entered(gate, look)
    settled = run(*before, *slow, *behind)
    rival.answer()
    assert [one.event for one in settled] == [JobEvent.SUCCEED] * 4 + [JobEvent.RELEASE] * 3
    for job in behind:
        assert history(job.id) == ["submit", "claim", "release", "claim", "succeed"]
        job.refresh_from_db()
        assert (job.failed_attempts, job.lost_attempts) == (0, 0)


def test_a_write_that_raises_undoes_its_own_completion_only(
    declare: Declare, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(group_flush_seconds=60)

    def refuses(*, context: Context) -> None:
        def write() -> None:
            raise ValueError("no such order")

        context.on_completion(write)

    name = declare(refuses, max_attempts=1)
    first, bad, last = [*submit(), *submit(handler=name), *submit()]
    run(first, bad, last)
    assert states([first, bad, last]) == [
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.COMPLETED,
    ]


def test_writes_run_in_the_handlers_thread(
    declare: Declare, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(group_flush_seconds=0.001)
    threads: list[tuple[int, int]] = []

    def notes(*, context: Context) -> None:
        mine = threading.get_ident()
        context.on_completion(lambda: threads.append((mine, threading.get_ident())))

    name = declare(notes)
    run(*submit(20, handler=name))
    assert len(threads) == 20
    assert all(one == other for one, other in threads)


def test_every_job_keeps_its_own_lines(
    declare: Declare, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(group_flush_seconds=60)

    def speaks(*, context: Context) -> None:
        context.log(f"I am {context.job_id}")

    jobs = submit(5, handler=declare(speaks))
    run(*jobs)
    lines = JobLogLine.objects.values_list("job_id", "message")
    assert sorted(lines) == sorted((job.id, f"I am {job.id}") for job in jobs)


def test_a_job_that_ended_in_time_is_not_timed_out_while_it_waits_to_be_recorded(
    declare: Declare, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(group_flush_seconds=60, heartbeat_seconds=0.02)

    def brief() -> None: ...

    name = declare(brief, timeout_seconds=0.05)
    first, slow = [*submit(handler=name), *submit(payload={"action": "sleep", "seconds": 0.5})]
    settled = run(first, slow)
    assert [one.event for one in settled] == [JobEvent.SUCCEED] * 2
    assert slow.handler == HANDLER


def test_a_message_leaves_nothing_for_the_garbage_collector(declare: Declare) -> None:
    """It runs rarely, and what outlives it once is kept for tens of thousands of jobs."""
    seen: list[weakref.ref[Context]] = []

    def look(context: Context) -> None:
        seen.append(weakref.ref(context))

    jobs = submit(3, handler=declare(look))
    gc.collect()
    gc.disable()
    try:
        run(*jobs)
        # The thread that tends the outcomes lets go of them at its next look.
        until(lambda: [one() for one in seen] == [None] * 3)
    finally:
        gc.enable()
