"""One message's outcomes: recorded together, never late, and never twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from uuid import uuid4

import pytest

from jobs.errors import JobReleased
from jobs.recording import Ended, Recorder, Sheet
from jobs.running import Run
from jobs.states import JobEvent, JobState
from jobs.values import Attempt, Outcome, Settled
from tests.verbs import a_view

PATIENCE_SECONDS = 20


def a_run() -> Run:
    attempt = Attempt(a_view(JobState.RUNNING, 2), uuid4(), {})
    return Run(attempt, 60.0)


def succeeded(run: Run, *writes: Callable[[], None]) -> Outcome:
    return Outcome(run.claimed, JobEvent.SUCCEED, writes=writes)


class Office:
    """A clerk that notes what it was told to write, in groups."""

    def __init__(self) -> None:
        self.groups: list[list[Outcome]] = []
        self.errors: list[Exception] = []
        self.patience: list[bool] = []
        self.began = threading.Event()
        self.may_write = threading.Event()
        self.may_write.set()
        self.wrote = threading.Semaphore(0)

    def record(self, ended: Sequence[Ended], *, patient: bool) -> list[Settled]:
        self.patience.append(patient)
        self.began.set()
        assert self.may_write.wait(PATIENCE_SECONDS)
        if self.errors:
            raise self.errors.pop()
        self.groups.append([outcome for _, outcome in ended])
        self.wrote.release()
        return [Settled(run.job_id, outcome.event, fenced=False) for run, outcome in ended]

    def released(self, run: Run, reason: JobReleased) -> Outcome:
        return Outcome(run.claimed, JobEvent.RELEASE, reason=str(reason))

    @property
    def sizes(self) -> list[int]:
        return [len(group) for group in self.groups]


@pytest.fixture
def office() -> Office:
    return Office()


def work_off(sheet: Sheet) -> None:
    while (run := sheet.next()) is not None:
        sheet.add(run, succeeded(run))
    sheet.record()


def begins(run: Run | None) -> Run:
    """The next run, with its handler entered now."""
    assert run is not None
    run.began_at = time.monotonic()
    return run


def test_quick_jobs_are_recorded_together(
    office: Office, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(group_flush_seconds=60)
    runs = [a_run() for _ in range(5)]
    sheet = Sheet(office, runs)
    work_off(sheet)
    assert office.sizes == [5]
    assert [sheet.settled[run].job_id for run in runs] == [run.job_id for run in runs]
    assert sheet.left() == []


@pytest.mark.parametrize(("message_limit", "sizes"), [(1, [2, 2, 1]), (3, [3, 2])])
def test_a_group_is_no_larger_than_its_limit(
    office: Office, jobs_settings: Callable[..., None], message_limit: int, sizes: list[int]
) -> None:
    jobs_settings(group_flush_seconds=60, group_limit=2, message_limit=message_limit)
    work_off(Sheet(office, [a_run() for _ in range(5)]))
    assert office.sizes == sizes


def test_one_job_is_recorded_as_it_ends(office: Office) -> None:
    work_off(Sheet(office, [a_run()]))
    assert office.sizes == [1]


def test_writes_are_carried_out_at_once_and_by_the_handlers_thread(
    office: Office, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(group_flush_seconds=60)
    sheet = Sheet(office, [a_run() for _ in range(3)])
    for writes in ((), (lambda: None,)):
        run = begins(sheet.next())
        sheet.add(run, succeeded(run, *writes))
    assert office.sizes == [2]


def test_what_has_ended_does_not_wait_for_a_slow_neighbour(
    office: Office, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(group_turn_seconds=60)
    runs = [a_run() for _ in range(3)]
    sheet = Sheet(office, runs)
    recorder = Recorder()
    recorder.keep(sheet)
    first = begins(sheet.next())
    sheet.add(first, succeeded(first))
    begins(sheet.next())
    assert office.wrote.acquire(timeout=PATIENCE_SECONDS)
    assert office.groups == [[succeeded(first)]]
    assert sheet.left() == runs[1:]


def test_what_waits_behind_a_slow_neighbour_is_handed_back(
    office: Office, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(group_turn_seconds=0.01)
    runs = [a_run() for _ in range(4)]
    sheet = Sheet(office, runs)
    Recorder().keep(sheet)
    slow = begins(sheet.next())
    assert office.wrote.acquire(timeout=PATIENCE_SECONDS)
    [released] = office.groups
    assert [outcome.attempt for outcome in released] == [run.claimed for run in runs[1:]]
    assert {outcome.event for outcome in released} == {JobEvent.RELEASE}
    assert all(run.over and run.signal is not None for run in runs[1:])
    assert slow.signal is None
    sheet.add(slow, succeeded(slow))
    assert sheet.next() is None
    sheet.record()
    assert office.sizes == [3, 1]
    assert set(sheet.settled) == set(runs)


def test_what_waits_behind_many_middling_neighbours_is_handed_back_too(
    office: Office, jobs_settings: Callable[..., None]
) -> None:
    """The pace was measured some time ago, or elsewhere."""
    jobs_settings(group_turn_seconds=10, group_flush_seconds=60)
    runs = [a_run() for _ in range(5)]
    sheet = Sheet(office, runs)
    now = time.monotonic()
    for run in runs[:2]:
        assert sheet.next() is run
        sheet.add(run, succeeded(run))
    begins(sheet.next())
    sheet.tend(now + 9)
    assert office.sizes == []
    sheet.tend(now + 11)
    assert [outcome.event for outcome in office.groups[0]] == (
        [JobEvent.SUCCEED] * 2 + [JobEvent.RELEASE] * 2
    )


def test_the_other_thread_waits_for_nobody(office: Office) -> None:
    """The handlers' thread may be in writes that take long, and there are other messages."""
    sheet = Sheet(office, [a_run(), a_run()])
    office.may_write.clear()
    first = begins(sheet.next())
    writing = threading.Thread(target=sheet.add, args=(first, succeeded(first, lambda: None)))
    writing.start()
    assert office.began.wait(PATIENCE_SECONDS)
    sheet.record(patient=False)
    assert writing.is_alive()
    office.may_write.set()
    writing.join(PATIENCE_SECONDS)
    assert office.patience == [True]


def test_the_other_thread_carries_out_no_writes(office: Office) -> None:
    """They are the handler's own code, and may want its thread's connection."""
    sheet = Sheet(office, [a_run(), a_run()])
    first = begins(sheet.next())
    office.errors = [OSError("the database is away")]
    with pytest.raises(OSError, match="away"):
        sheet.add(first, succeeded(first, lambda: None))
    sheet.record(patient=False)
    assert office.patience == [True]
    sheet.record()
    assert office.patience == [True, True]
    assert office.sizes == [1]


def test_a_message_is_not_done_before_the_other_thread_has_written(office: Office) -> None:
    sheet = Sheet(office, [a_run(), a_run()])
    office.may_write.clear()
    first = begins(sheet.next())
    sheet.add(first, succeeded(first))
    other = threading.Thread(target=sheet.record)
    other.start()
    assert office.began.wait(PATIENCE_SECONDS)
    done = threading.Event()

    def record_too() -> None:
        sheet.record()
        done.set()

    threading.Thread(target=record_too).start()
    assert not done.wait(0.05)
    office.may_write.set()
    assert done.wait(PATIENCE_SECONDS)
    other.join(PATIENCE_SECONDS)
    assert office.sizes == [1]
    assert len(sheet.settled) == 1


def test_what_could_not_be_recorded_is_kept_in_order(
    office: Office, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(group_flush_seconds=60)
    runs = [a_run() for _ in range(3)]
    sheet = Sheet(office, runs)
    office.errors.append(OSError("away"))
    for _ in range(2):
        run = begins(sheet.next())
        sheet.add(run, succeeded(run))
    with pytest.raises(OSError, match="away"):
        sheet.record()
    assert sheet.left() == runs
    last = begins(sheet.next())
    sheet.add(last, succeeded(last))
    assert office.groups == [[succeeded(run) for run in runs]]


def test_the_other_thread_leaves_waiting_to_the_handlers_own(
    office: Office, jobs_settings: Callable[..., None]
) -> None:
    """Its connection is a new one, which may fail where the kept one is good."""
    jobs_settings(group_flush_seconds=0.001, group_turn_seconds=60)
    sheet = Sheet(office, [a_run(), a_run()])
    office.errors.append(OSError("away"))
    Recorder().keep(sheet)
    first = begins(sheet.next())
    with pytest.raises(OSError, match="away"):
        sheet.add(first, succeeded(first))
    begins(sheet.next())
    assert office.wrote.acquire(timeout=PATIENCE_SECONDS)
    assert office.patience == [True, False]


def test_a_sheet_with_nothing_that_could_wait_needs_no_tending(office: Office) -> None:
    sheet = Sheet(office, [a_run(), a_run()])
    assert sheet.needs_tending()
    first = begins(sheet.next())
    sheet.add(first, succeeded(first))
    sheet.record()
    assert sheet.needs_tending()
    begins(sheet.next())
    assert not sheet.needs_tending()
