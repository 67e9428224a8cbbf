"""The watchdog's judgement, look by look, over a worker and an outside that are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobs import drain, presence, topology, watchdog
from jobs.watchdog import Watchdog

#: With ``deaf_seconds`` of 30: looks are a second apart.
DEAF_SECONDS = 30


class Worker:
    """A worker that is well: idle, listening, its loop turning."""

    def __init__(self) -> None:
        self.arrived = self.started = 0
        self.turns: float | None = 0.0
        self.stands_still = False
        self.free = True
        self.hoarding = False
        self.listening = True
        self.done: list[str] = []

    def heard(self) -> int:
        return self.arrived

    def begun(self) -> int:
        return self.started

    def has_free_slot(self) -> bool:
        return self.free

    def hoards(self) -> bool:
        return self.hoarding

    def is_listening(self) -> bool:
        return self.listening

    def pulse(self) -> float | None:
        if self.turns is not None and not self.stands_still:
            self.turns += 0.1
        return self.turns

    def rebuild(self) -> None:
        self.done.append("rebuild")

    def hurry(self) -> None:
        self.done.append("hurry")

    def stop_with_error(self) -> None:
        self.done.append("stop")


class Outside:
    """What database and broker would say; answered at once."""

    def __init__(self) -> None:
        self.jobs_wait = False
        self.ready: int | None = 0
        self.every_other_time = False
        self.asked = 0
        self.told: list[dict[str, Any]] = []

    def count_ready(self, queues: object) -> int | None:
        return 0 if self.every_other_time and self.asked % 2 else self.ready


class Answered(watchdog.Question):
    """A question that needs no thread."""

    outside: Outside

    def __init__(self, queues: Any) -> None:
        self.outside.asked += 1
        self._ask(queues)

    def is_open(self) -> bool:
        return False


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Outside:
    made = Outside()
    Answered.outside = made
    monkeypatch.setattr(watchdog, "Question", Answered)
    monkeypatch.setattr(watchdog, "jobs_wait", lambda queues: made.jobs_wait)
    monkeypatch.setattr(topology, "count_ready", made.count_ready)
    return made


@pytest.fixture
def look(
    worker: Worker, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], list[str]]]:
    """Look so many times, a second apart; returns what was done to the worker meanwhile."""
    monkeypatch.setattr(presence, "beat", lambda kind, **said: outside.told.append(said))
    dog = Watchdog(worker, ["default"])
    dog.look(1)

    def times(count: int) -> list[str]:
        worker.done.clear()
        for _ in range(count):
            dog.look(1)
        return list(worker.done)

    times.dog = dog  # type: ignore[attr-defined] # one test looks in its own rhythm
    yield times
    drain.clear()


Look = Callable[[int], list[str]]


def test_an_idle_worker_is_left_alone(look: Look, outside: Outside) -> None:
    assert look(300) == []
    assert outside.asked <= 30


def test_deaf_is_rebuilt_then_ended(look: Look, outside: Outside) -> None:
    outside.jobs_wait, outside.ready = True, 5
    assert look(DEAF_SECONDS - 1) == []
    assert look(DEAF_SECONDS) == ["rebuild"]
    assert look(DEAF_SECONDS + 20)[0] == "stop"
    assert drain.seconds_since_stop() is not None


def test_a_doorbell_answered_begins_everything_anew(
    look: Look, outside: Outside, worker: Worker
) -> None:
    outside.jobs_wait, outside.ready = True, 5
    assert look(2 * DEAF_SECONDS) == ["rebuild"]
    worker.arrived, worker.started = 1, 1
    assert look(DEAF_SECONDS - 1) == []
    assert look(DEAF_SECONDS) == ["rebuild"], "not the end: the first rebuild had helped"


@pytest.mark.parametrize(
    ("jobs_wait", "ready"),
    [(False, 5), (True, 0), (True, None), (False, None)],
    ids=["no job waits", "no doorbell", "broker is silent", "both away"],
)
def test_without_both_witnesses_nobody_is_deaf(
    look: Look, outside: Outside, jobs_wait: bool, ready: int | None
) -> None:
    outside.jobs_wait, outside.ready = jobs_wait, ready
    assert look(10 * DEAF_SECONDS) == []


def test_one_answer_is_not_enough(look: Look, outside: Outside) -> None:
    """A doorbell may be on its way at the moment of the question."""
    outside.jobs_wait, outside.ready, outside.every_other_time = True, 1, True
    assert look(10 * DEAF_SECONDS) == []
    assert outside.asked > 20


def test_a_busy_worker_is_not_deaf(look: Look, outside: Outside, worker: Worker) -> None:
    outside.jobs_wait, outside.ready, worker.free = True, 5, False
    assert look(10 * DEAF_SECONDS) == []
    assert outside.asked == 0


def test_children_that_begin_nothing(look: Look, worker: Worker) -> None:
    """The messages are fetched, so the broker has none: the worker itself is the witness."""
    worker.hoarding = True
    assert look(DEAF_SECONDS + 1) == ["rebuild"]
    worker.arrived += 2  # delivered again
    assert look(DEAF_SECONDS + 1)[0] == "stop"


def test_a_loop_that_stands_still(look: Look, outside: Outside, worker: Worker) -> None:
    """Also with all slots busy: nobody would hear that they are done."""
    worker.stands_still, worker.free, outside.ready = True, False, 0
    assert look(2 * DEAF_SECONDS) == ["rebuild"]
    assert look(2 * DEAF_SECONDS)[0] == "stop"


def test_a_loop_that_waits_for_a_broker_that_is_away(
    look: Look, outside: Outside, worker: Worker
) -> None:
    worker.stands_still, outside.ready = True, None
    assert look(10 * DEAF_SECONDS) == []


def test_a_pool_without_a_loop_is_not_judged_by_it(
    look: Look, outside: Outside, worker: Worker
) -> None:
    worker.turns, worker.free, outside.ready = None, False, 5
    assert look(10 * DEAF_SECONDS) == []


def test_time_that_nobody_watched_does_not_count(look: Look, outside: Outside) -> None:
    outside.jobs_wait, outside.ready = True, 5
    dog = look.dog  # type: ignore[attr-defined] # see the fixture
    for _ in range(20):
        assert look(DEAF_SECONDS - 2) == []
        dog.look(3600)


def test_a_stopping_worker_is_woken_and_not_judged(look: Look, outside: Outside) -> None:
    outside.jobs_wait, outside.ready = True, 5
    drain.stop()
    assert set(look(10 * DEAF_SECONDS)) == {"hurry"}


def test_supervisors_are_told_when_the_loop_last_turned(
    look: Look, outside: Outside, worker: Worker
) -> None:
    """The watchdog's own life proves nothing about the worker's."""
    look(3)
    worker.stands_still = True
    look(20)
    assert outside.told[-1] == {"ready": True, "note": "listening", "at": worker.turns}
    worker.stands_still = False
    look(2)
    assert outside.told[-1]["at"] > outside.told[-3]["at"]


def test_supervisors_are_told_who_cannot_work(look: Look, outside: Outside, worker: Worker) -> None:
    worker.listening = False
    look(1)
    assert (outside.told[-1]["ready"], outside.told[-1]["note"]) == (
        False, "not connected to the broker",
    )  # fmt: skip
    worker.listening, outside.jobs_wait, outside.ready = True, True, 5
    look(DEAF_SECONDS + 2)
    assert not outside.told[-1]["ready"], "one witness speaks against it already"
    drain.stop()
    look(1)
    assert (outside.told[-1]["ready"], outside.told[-1]["note"]) == (False, "stopping")
