"""Workers that stop, stall and come back: a job has one holder, and only it may finish the job."""

from __future__ import annotations

import os
import signal

import pytest

from tests.stack import TIMINGS, Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]

#: Ask, raise, end the process: the ladder of stopping, and what a loaded machine adds.
GRACE_SECONDS = TIMINGS["drain_grace_seconds"] + 3 * TIMINGS["stop_grace_seconds"] + 8


@pytest.mark.parametrize("handler", ["stack.hold", "stack.deaf", "stack.async"])
def test_sigterm_hands_the_job_back_without_a_charge(stack: Stack, handler: str) -> None:
    marks = stack.marks()
    ids = stack.submit(handler, {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    waiting = stack.submit("noop", {}, count=4)
    stack.wait_published(waiting)

    assert stack.the("worker").terminate(GRACE_SECONDS) == 0

    for job_id in ids:
        assert stack.events(job_id) == ["submit", "claim", "release"]
    stack.start("worker")
    marks.open()
    stack.check([*ids, *waiting])
    for job_id in ids:
        job = stack.job(job_id)
        assert (job["failed_attempts"], job["lost_attempts"], job["attempt"]) == (0, 0, 2)
        assert stack.events(job_id) == ["submit", "claim", "release", "claim", "succeed"]


def test_sigterm_lets_a_short_job_finish(stack: Stack) -> None:
    marks = stack.marks()
    ids = stack.submit("stack.nap", {"marks": str(marks.directory), "seconds": 1}, count=2)
    marks.wait_started(2)
    assert stack.the("worker").terminate(GRACE_SECONDS) == 0
    stack.check(ids)
    assert [stack.events(job_id) for job_id in ids] == [["submit", "claim", "succeed"]] * 2


def test_frozen_child_is_fenced_when_it_wakes_up(stack: Stack) -> None:
    """SIGSTOP past the lease: somebody else completes the job, and the late result is refused."""
    marks = stack.marks()
    [job_id] = stack.submit("stack.deaf", {"marks": str(marks.directory)})
    [frozen] = marks.wait_started(1)
    worker = stack.the("worker")
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        marks.wait_started(2)
        marks.open()
        stack.check([job_id])
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    worker.wait_said(rf"fenced job={job_id} event=succeed")

    stack.check([job_id])
    assert stack.events(job_id) == ["submit", "claim", "rescue", "claim", "succeed"]
    assert stack.job(job_id)["result"] == {"attempt": 2}
    assert {mark.attempt for mark in marks.all("finished")} == {1, 2}
    # The fenced child is as good as any other.
    stack.check(stack.submit("noop", {}, count=10))
