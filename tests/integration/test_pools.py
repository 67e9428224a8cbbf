"""Time limits in every pool that is supported, with real workers: exactly that job is ended.

The handler sits in C, holding a lock, where no exception of Python's reaches it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from uuid import UUID

import pytest

from jobs import lifecycle
from jobs.values import Submission
from tests import stack as stacks
from tests.marks import until
from tests.services import ROOT
from tests.stack import Process, Stack
from tests.testapp import handlers
from tests.verbs import USER

assert handlers  # imported to be declared, for submits of this process

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]

START = "celery -A interlock worker -Q {{queue}} --pool {pool} --concurrency {slots} -l INFO"
Start = Callable[..., Process]


@pytest.fixture
def start(quiet: Stack, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a worker with such a pool, and whoever it needs."""

    def start(pool: str, slots: int) -> Process:
        command = START.format(pool=pool, slots=slots)
        monkeypatch.setitem(stacks.COMMANDS, "worker", command)
        return quiet.start("worker", "relay", "scheduler")[0]

    return start


def submit(handler: str, **payload: object) -> UUID:
    [accepted] = lifecycle.submit([Submission(handler, payload)])
    return accepted.job_id


def assert_timed_out(stack: Stack, job_id: UUID) -> None:
    stack.wait_for("FAILED", [job_id])
    job = stack.job(job_id)
    assert (job["failed_attempts"], job["lost_attempts"]) == (1, 0)
    assert job["reason"] == "attempt 1 of 1 failed: ran longer than 1 s"
    assert stack.events(job_id) == ["submit", "claim", "fail"]
    claimed, failed = stack.audit(job_id)[1:]
    assert claimed["actor_id"] == failed["actor_id"]


def test_children_share_what_their_worker_has_imported(quiet: Stack, start: Start) -> None:
    start("prefork", 1)
    job_id = submit("stack.shared")
    quiet.wait_for("COMPLETED", [job_id])
    assert int(quiet.job(job_id)["result"]) > 50_000


def test_prefork_loses_a_child_and_goes_on(quiet: Stack, start: Start) -> None:
    worker = start("prefork", 2)
    marks = quiet.marks()
    neighbour = submit("stack.hold", marks=str(marks.directory))
    [mark] = marks.wait_started(1)
    stuck = submit("poison.stuck_in_c")
    assert_timed_out(quiet, stuck)
    marks.open()
    quiet.wait_for("COMPLETED", [neighbour, submit("noop"), submit("noop")])
    assert quiet.events(neighbour) == ["submit", "claim", "succeed"]
    assert worker.alive
    who = quiet.job(neighbour)["worker"]
    assert who == f"{socket.gethostname()}:{worker.pid}/{mark.pid}"


def test_solo_leaves_for_its_supervisor(quiet: Stack, start: Start) -> None:
    worker = start("solo", 1)
    stuck = submit("poison.stuck_in_c")
    assert_timed_out(quiet, stuck)
    assert worker._popen.wait(30) == os.EX_SOFTWARE
    assert quiet.job(stuck)["worker"] == f"{socket.gethostname()}:{worker.pid}"
    quiet.start("worker")
    quiet.wait_for("COMPLETED", [submit("noop")])


def test_threads_let_the_neighbour_finish_and_leave(quiet: Stack, start: Start) -> None:
    worker = start("threads", 2)
    marks = quiet.marks()
    neighbour = submit("stack.hold", marks=str(marks.directory))
    marks.wait_started(1)
    stuck = submit("poison.stuck_in_c")
    worker.wait_said("the worker stops and will end")
    marks.open()
    assert worker._popen.wait(60) == os.EX_SOFTWARE
    assert_timed_out(quiet, stuck)
    quiet.wait_for("COMPLETED", [neighbour])
    assert quiet.events(neighbour) == ["submit", "claim", "succeed"]
    quiet.start("worker")
    quiet.wait_for("COMPLETED", [submit("noop")])


def test_threads_hand_back_a_neighbour_that_takes_too_long(quiet: Stack, start: Start) -> None:
    worker = start("threads", 2)
    marks = quiet.marks()
    neighbour = submit("stack.deaf", marks=str(marks.directory))
    marks.wait_started(1)
    stuck = submit("poison.stuck_in_c")
    assert worker._popen.wait(60) == os.EX_SOFTWARE
    assert_timed_out(quiet, stuck)
    assert quiet.events(neighbour) == ["submit", "claim", "release"]
    marks.open()
    quiet.start("worker")
    quiet.wait_for("COMPLETED", [neighbour])
    assert quiet.job(neighbour)["failed_attempts"] == 0


@pytest.mark.parametrize(("pool", "slots"), [("threads", 2), ("solo", 1)])
def test_a_handler_that_looks_is_stopped_in_time_and_hurts_nobody(
    quiet: Stack, start: Start, pool: str, slots: int
) -> None:
    worker = start(pool, slots)
    slow = submit("stack.slow")
    quiet.wait_for("FAILED", [slow])
    assert quiet.job(slow)["reason"] == "attempt 1 of 1 failed: ran longer than 0.5 s"
    quiet.wait_for("COMPLETED", [submit("noop")])
    assert worker.terminate(30) == 0


def test_holding_pythons_own_lock_stops_the_heart_and_loses_the_attempt(
    quiet: Stack, start: Start
) -> None:
    """Nothing in that process can run, so the lease lapses and another process takes the job."""
    start("prefork", 2)
    job_id = submit("poison.hold_gil", seconds=8)
    until(lambda: "rescue" in quiet.events(job_id), 60)
    _, claimed, rescued = quiet.audit(job_id)[:3]
    assert rescued["reason"] == f"lease lapsed: worker {claimed['actor_id']} died or stalled"
    assert quiet.job(job_id)["failed_attempts"] == 0
    assert quiet.job(job_id)["lost_attempts"] >= 1
    lifecycle.cancel([job_id], actor=USER)
    quiet.wait_for("CANCELLED", [job_id])


def test_sigterm_to_the_whole_group_costs_no_attempt(quiet: Stack, start: Start) -> None:
    """Many supervisors signal every process. The pool's children then leave at once, too."""
    worker = start("prefork", 2)
    marks = quiet.marks()
    ids = [submit("stack.deaf", marks=str(marks.directory)) for _ in range(2)]
    marks.wait_started(2)
    for pid in [worker.pid, *worker.children()]:
        os.kill(pid, signal.SIGTERM)
    worker._popen.wait(60)
    for job_id in ids:
        until(lambda job_id=job_id: quiet.events(job_id)[2:] == ["release"], 30)  # type: ignore[misc] # a lambda's default
        job = quiet.job(job_id)
        assert (job["failed_attempts"], job["lost_attempts"]) == (0, 0)
    marks.open()
    quiet.start("worker")
    quiet.wait_for("COMPLETED", ids)


@pytest.mark.parametrize("name", ["custom"])
def test_another_pool_is_refused_in_one_line(quiet: Stack, name: str) -> None:
    program = [sys.executable, "-m", "celery", "-A", "interlock", "worker", "--pool", name]
    done = subprocess.run(
        [*program, "-Q", quiet.queue],
        cwd=ROOT,
        env={
            **os.environ,
            **quiet.environment(),
            "CELERY_CUSTOM_WORKER_POOL": "celery.concurrency.base:BasePool",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if "not supported" in line]
    assert lines == ["jobs: the pool base is not supported; use prefork, threads or solo"]
    assert "Traceback" not in done.stderr
