"""The loop of relay and scheduler goes on through failures, and only success counts as life."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from jobs import presence
from jobs.management import loop as loops
from jobs.management.loop import Loop, run_all


class Clock:
    """A monotonic clock that moves when the loop pauses or rests."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def rest(self) -> None:
        self.now += 1.0

    def pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        return False


class Watched:
    """A loop on a clock of its own, and what it says of itself."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.announced: list[float] = []
        self.ready: list[bool] = []

    def run(self, step: Callable[[Loop], bool]) -> int:
        loop = Loop("relay", lambda: step(loop), self.clock.rest)
        loop.ended.wait = self.clock.pause  # type: ignore[method-assign,assignment]
        return loop.run()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    watched = Watched(Clock())
    monkeypatch.setattr(time, "monotonic", watched.clock)
    monkeypatch.setattr(
        presence, "announce", lambda kind: watched.announced.append(watched.clock.now)
    )
    monkeypatch.setattr(presence, "withdraw", lambda: None)
    monkeypatch.setattr(presence, "beat", lambda kind, *, ready, note: watched.ready.append(ready))
    monkeypatch.setattr(presence, "forget_beat", lambda kind: None)
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield watched
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_loop_that_only_fails_says_nothing_in_the_registry(watched: Watched) -> None:
    def step(loop: Loop) -> bool:
        if len(watched.ready) == 50:
            loop.ended.set()
        raise OSError("away")

    assert watched.run(step) == 0
    assert watched.announced == []
    assert watched.ready == [True] + [False] * 49


def test_the_first_success_is_told_at_once_and_later_ones_now_and_then(watched: Watched) -> None:
    def step(loop: Loop) -> bool:
        if len(watched.ready) == 61:
            loop.ended.set()
        if len(watched.ready) == 1:
            raise OSError("away")
        return False

    assert watched.run(step) == 0
    assert 3 <= len(watched.announced) <= 7
    assert watched.ready[1:3] == [False, True]


def test_failures_are_bounded_in_number_and_the_end_of_trouble_is_noticed_soon(
    watched: Watched,
) -> None:
    def step(loop: Loop) -> bool:
        if watched.clock.now > 1300:
            loop.ended.set()
        raise OSError("away")

    assert watched.run(step) == 0
    assert max(watched.clock.pauses) <= 1.5
    assert watched.clock.pauses[0] <= 0.2
    assert len(watched.clock.pauses) < 300 / 0.7


def test_a_loop_ends_only_after_failing_for_long(watched: Watched) -> None:
    def step(loop: Loop) -> bool:
        raise OSError("away")

    assert watched.run(step) == 1
    assert watched.clock.now - 1000 == pytest.approx(loops.FAILING_SECONDS_TO_EXIT, abs=2)


def test_one_success_gives_all_the_time_again(watched: Watched) -> None:
    def step(loop: Loop) -> bool:
        if watched.clock.now > 5000:
            loop.ended.set()
        if len(watched.ready) % 100:
            raise OSError("away")
        return False

    assert watched.run(step) == 0


def test_a_rest_that_fails_counts_as_well(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rest() -> None:
        raise OSError("away")

    loop = Loop("relay", lambda: False, rest)
    loop.ended.wait = watched.clock.pause  # type: ignore[method-assign,assignment]

    def beat(kind: str, *, ready: bool, note: str) -> None:
        watched.ready.append(ready)
        if len(watched.ready) == 3:
            loop.ended.set()

    monkeypatch.setattr(presence, "beat", beat)
    assert loop.run() == 0
    assert watched.ready == [True, False, False]


def test_every_duty_runs_and_the_first_failure_is_told() -> None:
    done = []

    def fail(text: str) -> Callable[[], None]:
        def duty() -> None:
            done.append(text)
            raise ValueError(text)

        return duty

    with pytest.raises(ValueError, match="first"):
        run_all([fail("first"), lambda: done.append("between"), fail("last")])
    assert done == ["first", "between", "last"]
    run_all([lambda: done.append("more")])


STUCK = """
import django; django.setup()
import time
from jobs import presence
from jobs.management import loop
loop.STUCK_SECONDS = 0.5
presence.announce = presence.beat = presence.withdraw = lambda *args, **more: None
loop.Loop("relay", lambda: time.sleep(600), lambda: None).run()
"""


def test_a_turn_that_never_ends_ends_the_process_and_says_where_it_stood() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "in _turn" in done.stderr
