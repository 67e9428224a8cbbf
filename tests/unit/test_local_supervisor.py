"""The supervisor with tiny children. Tests wait on its notices and on what children write."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from interlock.local.processes import Record
from interlock.local.supervisor import Backoff, Command, Notice, Supervisor

PATIENCE_SECONDS = 20.0

OBEDIENT = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
while True: signal.pause()
"""
STUBBORN = OBEDIENT.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")
CRASHING = "import sys; sys.exit(3)"
# Loses the first signal, as a program does that gets it while it starts.
FORGETFUL = """
import signal, sys
got = []
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0) if got else got.append(1))
print("up", flush=True)
while True: signal.pause()
"""
# A pool: a child of its own, which must get no signal from the supervisor, and notes it if it does.
POOL = """
import os, signal, sys, pathlib
marks = pathlib.Path(sys.argv[1])
if os.fork() == 0:
    signal.signal(signal.SIGTERM, lambda *_: (marks / "signalled").touch())
    (marks / "child").write_text(str(os.getpid()))
    while True: signal.pause()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
while True: signal.pause()
"""


class Run:
    """A supervisor in its thread, with its notices in a queue."""

    def __init__(self, commands: list[Command], logs: Path, backoff: Backoff) -> None:
        self.notices: queue.Queue[Notice] = queue.Queue()
        self.supervisor = Supervisor(commands, logs, notify=self.notices.put, backoff=backoff)
        self.codes: list[int] = []
        self.thread = threading.Thread(target=lambda: self.codes.append(self.supervisor.run()))
        self.thread.start()

    def until(self, kind: str, name: str) -> Notice:
        while True:
            notice = self.notices.get(timeout=PATIENCE_SECONDS)
            if (notice.kind, notice.name) == (kind, name):
                return notice

    def until_up(self, name: str) -> None:
        """The child has installed its signal handler."""
        log = self.supervisor.log_file(name)
        wait_for(lambda: log.exists() and "up" in log.read_text())

    def finish(self) -> int:
        self.supervisor.request_stop()
        self.thread.join(PATIENCE_SECONDS)
        return self.codes[0]

    def rest(self) -> list[Notice]:
        found = []
        while not self.notices.empty():
            found.append(self.notices.get())
        return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    runs: list[Run] = []

    def begin(*commands: Command, backoff: Backoff | None = None) -> Run:
        run = Run(list(commands), tmp_path / "logs", backoff or Backoff(base_seconds=0.01))
        runs.append(run)
        return run

    yield begin
    for run in runs:
        run.supervisor.kill_now()
        run.thread.join(PATIENCE_SECONDS)


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., Command]:
    def make(name: str, code: str, *arguments: str, stop_seconds: float = 10.0) -> Command:
        argv = (sys.executable, "-c", code, *arguments)
        return Command(name, argv, dict(os.environ), tmp_path, stop_seconds)

    return make


def test_backoff_doubles_up_to_its_cap() -> None:
    backoff = Backoff(base_seconds=0.5, cap_seconds=5)
    assert [backoff.delay_seconds(n) for n in (1, 2, 3, 4, 5, 1000)] == [0.5, 1, 2, 4, 5, 5]


def test_a_crashed_child_is_started_again_later_each_time(
    start: Start, child: Callable[..., Command]
) -> None:
    run = start(child("api", CRASHING))
    first, second = run.until("exited", "api"), run.until("exited", "api")
    assert (first.code, second.code) == (3, 3)
    assert second.pid != first.pid
    assert second.seconds == 2 * first.seconds
    assert run.supervisor.crashes("api") >= 2


def test_a_killed_child_comes_back(start: Start, child: Callable[..., Command]) -> None:
    run = start(child("api", OBEDIENT))
    os.kill(run.until("started", "api").pid, signal.SIGKILL)
    assert run.until("exited", "api").code == -signal.SIGKILL
    run.until("started", "api")
    assert run.finish() in (0, 1)


def test_children_stop_one_after_the_other_the_last_started_first(
    start: Start, child: Callable[..., Command]
) -> None:
    names = ("relay", "worker", "api")
    run = start(*(child(name, OBEDIENT) for name in names))
    for name in names:
        run.until("started", name)
        run.until_up(name)
    assert run.finish() == 0
    assert [(notice.kind, notice.name) for notice in run.rest()] == [
        (kind, name) for name in reversed(names) for kind in ("stopping", "stopped")
    ]


def test_a_child_that_does_not_stop_in_time_is_killed_and_the_exit_code_tells(
    start: Start, child: Callable[..., Command]
) -> None:
    run = start(child("worker", STUBBORN, stop_seconds=0.1))
    record = Record.of(run.until("started", "worker").pid)
    run.until_up("worker")
    assert run.finish() == 1
    assert not record.alive()
    assert [notice.kind for notice in run.rest()] == ["stopping", "killed"]


def test_a_lost_signal_is_repeated_for_who_may_lose_it(
    start: Start, child: Callable[..., Command]
) -> None:
    run = start(replace(child("api", FORGETFUL, stop_seconds=60.0), repeat_seconds=0.05))
    run.until_up("api")
    assert run.finish() == 0


def test_the_second_request_kills_at_once(start: Start, child: Callable[..., Command]) -> None:
    run = start(child("worker", STUBBORN, stop_seconds=3600.0))
    run.until("started", "worker")
    run.until_up("worker")
    run.supervisor.request_stop()
    run.until("stopping", "worker")
    run.supervisor.kill_now()
    run.until("killed", "worker")
    run.thread.join(PATIENCE_SECONDS)
    assert run.codes == [1]


def test_only_the_main_process_of_a_pool_gets_the_signal_and_no_member_stays(
    start: Start, child: Callable[..., Command], tmp_path: Path
) -> None:
    run = start(child("worker", POOL, str(tmp_path)))
    run.until_up("worker")
    wait_for((tmp_path / "child").exists)
    wait_for(lambda: bool((tmp_path / "child").read_text()))
    member = Record.of(int((tmp_path / "child").read_text()))
    assert member.alive()
    assert run.finish() == 0
    assert not (tmp_path / "signalled").exists()
    assert not member.alive()


def test_the_orphans_of_a_killed_main_process_do_not_work_on_beside_its_successor(
    start: Start, child: Callable[..., Command], tmp_path: Path
) -> None:
    run = start(child("worker", POOL, str(tmp_path)))
    main = run.until("started", "worker").pid
    wait_for((tmp_path / "child").exists)
    wait_for(lambda: bool((tmp_path / "child").read_text()))
    member = Record.of(int((tmp_path / "child").read_text()))
    os.kill(main, signal.SIGKILL)
    run.until("exited", "worker")
    assert not member.alive()
