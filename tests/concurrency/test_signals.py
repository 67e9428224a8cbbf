"""Signals that raise, thousands of them, all through claims and finishes on a real database.

The handlers of a pool raise SoftTimeLimitExceeded or SystemExit in the main thread, where this test
runs its attempts. Nothing may be left between two states: a job that nobody runs but whose lease is
renewed, or a result whose commit its worker does not know of.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Self

import pytest

from jobs import drain, lifecycle
from jobs.context import Context
from jobs.executor import Executor
from jobs.hosts import PreforkChild
from jobs.models import AuditEntry, Job
from jobs.shield import SIGNALS
from jobs.states import JobState
from jobs.values import Attempt, Doorbell, Outcome, Settled
from tests.concurrency.attempts import Declare, run
from tests.verbs import history, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


class Struck(Exception):
    """As SoftTimeLimitExceeded: an exception out of nowhere."""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, disposition in before.items():
        signal.signal(number, disposition)


class Storm:
    """Sends SIGUSR1 to this process, a few milliseconds after each that has arrived."""

    def __init__(self) -> None:
        self.sent = 0
        self.struck = 0
        self._arrived = threading.Event()
        self._over = False
        self._armed = False
        self._thread = threading.Thread(target=self._rage, daemon=True)

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        self._arrived.set()
        if self._armed:
            self.struck += 1
            raise Struck

    @contextmanager
    def strikes(self) -> Iterator[None]:
        """Signals raise inside the block, and only there."""
        with suppress(Struck):
            try:
                self._armed = True
                yield
            finally:
                self._armed = False

    def __enter__(self) -> Self:
        signal.signal(signal.SIGUSR1, self.handle)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join(30)

    def _rage(self) -> None:
        draw = random.Random(7)
        while not self._over:
            self._arrived.clear()
            self.sent += 1
            os.kill(os.getpid(), signal.SIGUSR1)
            self._arrived.wait(1)
            # Some pauses are long enough for an attempt that nobody disturbs.
            time.sleep(draw.choice([0.002, 0.005, 0.1]))


def test_a_storm_of_signals_leaves_no_half_state(declare: Declare) -> None:
    def work(*, context: Context) -> int:
        context.progress(0.5)
        return context.attempt

    executor = Executor("worker:1", PreforkChild())
    name = declare(work)
    with Storm() as storm:
        for _ in range(20):
            jobs = submit(300, handler=name, max_attempts=100)
            for first, second in zip(jobs[::2], jobs[1::2], strict=True):
                with storm.strikes():
                    executor.answer([Doorbell(job.id, job.version) for job in (first, second)])
            if storm.sent > 20 and storm.struck > 5:
                break
    assert storm.sent > 20
    assert storm.struck > 5

    heart = executor._beating()
    assert not heart._runs, "a lease is renewed for nobody"
    assert not heart._unsettled
    states = dict(Job.objects.values_list("id", "state"))
    assert JobState.RUNNING not in states.values(), "claimed, and then forgotten"
    for job_id, state in states.items():
        events = history(job_id)
        assert events in (
            ["submit"],
            ["submit", "claim", "succeed"],
            ["submit", "claim", "retry"],
            ["submit", "claim", "release"],
        )
        assert (events[-1] == "succeed") == (state == JobState.COMPLETED)
    done = AuditEntry.objects.filter(event="succeed").count()
    assert done > 10


def test_a_signal_without_a_handler_ends_nobody_who_writes(
    declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end the process between two jobs, as within one; never while they are written."""

    def masked() -> bool:
        return signal.pthread_sigmask(signal.SIG_BLOCK, []) >= SIGNALS

    found: list[tuple[str, bool]] = []
    claim, finish = lifecycle.Claim.__call__, lifecycle.finish

    def claims(wish: lifecycle.Claim) -> list[Attempt]:
        found.append(("claim", masked()))
        return claim(wish)

    def finishes(outcomes: Sequence[Outcome], *, worker: str) -> list[Settled]:
        found.append(("finish", masked()))
        return finish(outcomes, worker=worker)

    def work() -> None:
        found.append(("handler", masked()))

    monkeypatch.setattr(lifecycle.Claim, "__call__", claims)
    monkeypatch.setattr(lifecycle, "finish", finishes)
    jobs = submit(3, handler=declare(work))
    Executor("worker:1", PreforkChild()).answer([Doorbell(job.id, job.version) for job in jobs])
    assert found == [("claim", True), *[("handler", False)] * 3, ("finish", True)]
    assert not masked()


@pytest.mark.parametrize("stops", [True, False], ids=["worker stops", "process alone"])
def test_a_process_that_is_told_to_end(declare: Declare, stops: bool) -> None:
    """A supervisor that signals the whole group costs no attempt. A handler that gets its own
    process ended has failed, or it would come round for ever."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(-241))  # what billiard installs

    def ends_itself() -> None:
        if stops:
            drain.stop()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    first, second = submit(2, handler=declare(ends_itself))
    with pytest.raises(SystemExit):
        run(first, second, executor=Executor("worker:1", PreforkChild()))
    assert history(first.id) == ["submit", "claim", "release" if stops else "retry"]
    assert history(second.id) == ["submit", "claim", "release"], "its turn never came"
    failed = dict(Job.objects.values_list("id", "failed_attempts"))
    assert failed == {first.id: 0 if stops else 1, second.id: 0}


def test_sigterm_inside_the_claims_commit_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(-241))
    original = lifecycle.Claim._take

    def strikes(self: lifecycle.Claim) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    monkeypatch.setattr(lifecycle.Claim, "_take", strikes)
    [job] = submit()
    with pytest.raises(SystemExit):
        run(job, executor=Executor("worker:1", PreforkChild()))
    # Delivered where the handler was about to begin, and charged as nothing but a try.
    assert history(job.id) == ["submit", "claim", "retry"]


def test_a_timer_that_a_handler_left_does_not_strike_the_next_one(declare: Declare) -> None:
    struck: list[int] = []

    def leaves_a_timer() -> None:
        signal.signal(signal.SIGALRM, lambda *_: struck.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    def naps() -> None:
        time.sleep(0.2)

    executor = Executor("worker:1", PreforkChild())
    run(*submit(handler=declare(leaves_a_timer)), *submit(handler=declare(naps)), executor=executor)
    assert struck == []
