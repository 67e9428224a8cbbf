"""What a handler sees of its job, and how it is asked to stop. No database, no heart."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from jobs.errors import HandlerSignal, JobCancelled, JobReleased, JobTimeout
from jobs.running import INTERRUPTS, Run
from jobs.states import JobState
from jobs.values import Attempt
from tests.verbs import a_view


@pytest.fixture
def run() -> Run:
    view = a_view(JobState.RUNNING, 2)._replace(attempt=3, failed_attempts=1, max_attempts=5)
    attempt = Attempt(view._replace(owner_id=7), uuid4(), {})
    return Run(attempt, timeout_seconds=60)


def spin(seconds: float = 30) -> None:
    """Pure Python, without a system call, until interrupted."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass
    pytest.fail("nobody interrupted")


def interrupt_soon(run: Run, error: HandlerSignal, *, every_seconds: float = 0) -> threading.Thread:
    """From another thread, as the heart does, once the handler is inside its region.

    With ``every_seconds`` again and again until the region is left: a signal that arrives just
    before a system call begins does not end it, so the heart repeats it with each of its ticks.
    """

    def heart() -> None:
        while run.began_at is None:
            pass
        run.ask(error)
        run.interrupt()
        while every_seconds and run._thread_id is not None:
            time.sleep(every_seconds)
            run.interrupt()

    thread = threading.Thread(target=heart)
    thread.start()
    return thread


def test_a_run_says_whose_attempt_it_is(run: Run) -> None:
    assert (run.attempt, run.owner_id, run.handler) == (3, 7, "h")
    assert run.job_id == run.claimed.job_id
    assert run.token == run.claimed.token
    assert run.idempotency_key == str(run.job_id)
    assert not run.cancelled
    assert not run.stopping


# -------------------------------------------------------------------------------------- progress


@pytest.mark.parametrize(
    ("given", "kept"),
    [(0.25, 0.25), (1, 1.0), (-3, 0.0), (7, 1.0), (float("inf"), 1.0), (float("nan"), 0.0)],
)
def test_progress_is_kept_between_zero_and_one(run: Run, given: float, kept: float) -> None:
    run.progress(given, "half\x00way\ud800")
    beat = run.beat()
    assert (beat.fraction, beat.message) == (kept, "halfway?")


def test_only_the_last_progress_is_told_and_only_once(run: Run) -> None:
    run.progress(0.1)
    run.progress(0.2, "x" * 900)
    beat = run.beat()
    assert (beat.fraction, len(beat.message)) == (0.2, 500)
    assert run.beat().fraction is None


def test_a_beat_that_could_not_be_stored_is_given_back(run: Run) -> None:
    run.progress(0.5, "half")
    run.log("one")
    beat = run.beat()
    run.log("two")
    run.give_back(beat)
    again = run.beat()
    assert (again.fraction, again.message) == (0.5, "half")
    assert [line.message for line in again.lines] == ["one", "two"]


def test_newer_progress_wins_over_what_is_given_back(run: Run) -> None:
    run.progress(0.5)
    beat = run.beat()
    run.progress(0.6)
    run.give_back(beat)
    assert run.beat().fraction == 0.6


# ------------------------------------------------------------------------------------------ lines


def test_lines_carry_level_and_time_and_are_made_storable(run: Run) -> None:
    run.log("a\x00b\ud800", "warning")
    run.log("x" * 20_000)
    first, second = run.beat().lines
    assert (first.level, first.message) == ("warning", "ab?")
    assert first.at.tzinfo is not None
    assert (second.level, len(second.message)) == ("info", 10_000)
    assert run.beat().lines == ()


def test_an_unknown_level_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="one of debug, error, info, warning"):
        run.log("x", "fatal")


def test_the_last_line_kept_says_that_more_were_left_out(
    run: Run, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(log_lines_limit=3)
    for number in range(10):
        run.log(str(number))
    lines = run.beat().lines
    assert [line.message for line in lines] == ["0", "1", "only 3 lines of an attempt are kept"]
    assert lines[-1].level == "warning"
    run.log("more")
    assert run.beat().lines == ()


# -------------------------------------------------------------------------------------- artifacts


def test_an_artifact_name_is_used_once(run: Run) -> None:
    run.artifact("a.txt", b"1", "text/plain")
    with pytest.raises(ValueError, match="already has an artifact"):
        run.artifact("a.txt", b"2", "text/plain")
    assert [(a.name, a.size_bytes) for a in run.artifacts] == [("a.txt", 1)]


def test_a_refused_artifact_leaves_its_name_free(run: Run) -> None:
    with pytest.raises(ValueError, match="media type"):
        run.artifact("a.txt", b"1", "x" * 200)
    run.artifact("a.txt", b"1", "text/plain")


# ------------------------------------------------------------------------------- asked to stop


@pytest.mark.parametrize("kind", [JobCancelled, JobReleased, JobTimeout])
def test_a_request_is_raised_at_the_next_look(run: Run, kind: type[HandlerSignal]) -> None:
    run.check()
    run.ask(kind("please"))
    with pytest.raises(kind, match="please"):
        run.check()
    with pytest.raises(kind):
        run.progress(0.5)
    assert run.cancelled == (kind is JobCancelled)


def test_the_first_request_counts(run: Run) -> None:
    run.ask(JobCancelled("first"))
    asked = run.asked_at
    run.ask(JobTimeout("second"))
    assert isinstance(run.signal, JobCancelled)
    assert run.asked_at == asked


def test_progress_is_noted_even_when_it_is_time_to_stop(run: Run) -> None:
    run.ask(JobReleased())
    with pytest.raises(JobReleased):
        run.progress(0.75)
    assert run.beat().fraction == 0.75


def test_time_runs_from_the_handlers_beginning(run: Run) -> None:
    assert run.ran_seconds() == 0
    assert run.inside(lambda: run.began_at) is not None
    assert run.ran_seconds() >= 0


# ------------------------------------------------------------------------------------ interrupted


def in_thread(work: Callable[[], Any]) -> None:
    """Run in a thread that is not the main one; an error of it is the test's."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # the test must see it, whatever it is
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_loop_that_never_looks_is_interrupted(run: Run, where: str) -> None:
    def handler() -> None:
        heart = interrupt_soon(run, JobTimeout("too long"))
        with pytest.raises(JobTimeout):
            run.inside(spin)
        heart.join()

    handler() if where == "main" else in_thread(handler)


def test_a_sleep_of_the_main_thread_is_interrupted(run: Run) -> None:
    begun = time.monotonic()
    heart = interrupt_soon(run, JobCancelled(), every_seconds=0.1)
    with pytest.raises(JobCancelled):
        run.inside(lambda: time.sleep(60))
    heart.join()
    assert time.monotonic() - begun < 30


def test_except_exception_does_not_swallow_an_interrupt(run: Run) -> None:
    heart = interrupt_soon(run, JobCancelled())

    def handler() -> None:
        with suppress(Exception):
            spin()
        pytest.fail("swallowed")

    with pytest.raises(JobCancelled):
        run.inside(handler)
    heart.join()


def test_nothing_is_raised_before_or_after_the_region(run: Run) -> None:
    run.interrupt()
    run.inside(lambda: None)
    run.ask(JobCancelled())
    run.interrupt()
    for _ in range(10_000):
        pass


def test_a_handler_that_was_asked_before_its_turn_never_begins(run: Run) -> None:
    run.ask(JobCancelled("before"))
    assert run.will_not_begin()
    with pytest.raises(JobCancelled, match="before"):
        run.inside(lambda: pytest.fail("began"))
    assert run.began_at is None


class HitWhileLocking:
    """A lock whose first takers are hit by exceptions that were on their way."""

    def __init__(self, lock: threading.Lock, hits: int) -> None:
        self._lock = lock
        self.left = hits

    def __enter__(self) -> None:
        if self.left:
            self.left -= 1
            raise JobTimeout("on its way")
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("hits", range(INTERRUPTS + 1))
def test_interrupts_that_hit_the_leaving_do_not_stop_it(run: Run, hits: int) -> None:
    """As many as may ever be raised; the region is left, and the attempt counts as stopped."""

    def handler() -> str:
        run._lock = HitWhileLocking(run._lock, hits)  # type: ignore[assignment]  # lock enough
        return "done"

    if hits:
        with pytest.raises(JobTimeout):
            run.inside(handler)
    else:
        assert run.inside(handler) == "done"
    assert run._thread_id is None


def test_a_handler_that_swallows_everything_is_not_interrupted_for_ever(run: Run) -> None:
    """After the last one the ladder's next step is due; three leave a handler time to clean up."""
    caught: list[BaseException] = []

    def deaf() -> str:
        while len(caught) < INTERRUPTS:
            try:
                spin()
            except JobTimeout as error:
                caught.append(error)
        for _ in range(50):
            run.interrupt()
        return "done anyway"

    heart = interrupt_soon(run, JobTimeout(), every_seconds=0.01)
    assert run.inside(deaf) == "done anyway"
    heart.join()
    assert len(caught) == INTERRUPTS


def test_interrupts_keep_their_distance(run: Run) -> None:
    def handler() -> None:
        run.ask(JobTimeout())
        for _ in range(10):
            run.interrupt(pause_seconds=60)

    with pytest.raises(JobTimeout):
        run.inside(handler)
    assert run._interrupts == 1


def test_an_interrupt_at_the_very_end_hits_the_handler_or_nobody(run: Run) -> None:
    for _ in range(1000):
        again = Run(run.claimed, 60)
        thread = interrupt_soon(again, JobTimeout(), every_seconds=1e-6)
        with suppress(JobTimeout):
            again.inside(lambda: None)
        # From here on nothing may come, in the middle of whatever the engine does.
        for _ in range(100):
            pass
        thread.join()


def test_a_del_that_swallows_the_interrupt_only_delays_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python drops what is raised in ``__del__``; the next one arrives."""
    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: dropped.append(found.exc_type))

    class Slow:
        def __del__(self) -> None:
            gone.set()
            ends = time.monotonic() + 0.2
            while time.monotonic() < ends:
                pass

    gone = threading.Event()

    def handler() -> None:
        Slow()
        spin()

    def heart() -> None:
        gone.wait(30)
        run.ask(JobTimeout())
        while run._thread_id is not None:
            run.interrupt(pause_seconds=0.3)
            time.sleep(0.01)

    thread = threading.Thread(target=heart)
    thread.start()
    with pytest.raises(JobTimeout):
        run.inside(handler)
    thread.join()
    assert dropped == [JobTimeout]


def test_a_forked_child_that_comes_back_ends_there(run: Run) -> None:
    """It has the parent's token, connections and pipes: it must not go on as a second worker."""

    def forks() -> int:
        return os.fork()

    child = run.inside(forks)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == os.EX_SOFTWARE


def test_scratch_files_go_with_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Path] = []

    def open_upload(upload_id: object, owner_id: object, scratch: Path) -> Path:
        used.append(scratch)
        return scratch

    monkeypatch.setattr("jobs.files.open_upload", open_upload)

    def handler() -> None:
        run.open_upload(uuid4())
        run.open_upload(uuid4())
        assert used[0].is_dir()

    run.inside(handler)
    assert used[0] == used[1]
    assert not used[0].exists()
