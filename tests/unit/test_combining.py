"""Threads that ask at once share a transaction, and nobody pays for another's trouble."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from jobs.combining import AT_ONCE, MOST, Combiner
from tests.rivals import PATIENCE_SECONDS, Rival, until


class Desk:
    """Answers each wish with its double. Groups wait at the gate while it is shut."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.gate = threading.Event()
        self.errors: dict[int, Exception] = {}
        self._changing = threading.Lock()

    def work(self, wishes: Sequence[int]) -> list[int]:
        with self._changing:
            self.groups.append(list(wishes))
        assert self.gate.wait(PATIENCE_SECONDS)
        for wish in wishes:
            if wish in self.errors:
                raise self.errors[wish]
        return [2 * wish for wish in wishes]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def asking(combiner: Combiner[int, int], *wishes: int) -> list[Rival[int]]:
    """A thread per wish, each begun when the one before it is under way or waits."""
    rivals = []
    for wish in wishes:
        before = _present(combiner)
        rivals.append(Rival(lambda wish=wish: combiner.ask(wish), connects=False))  # type: ignore[misc]
        until(lambda before=before: _present(combiner) > before)  # type: ignore[misc]
    return rivals


def _present(combiner: Combiner[Any, Any]) -> int:
    return combiner._under_way + len(combiner._waiting)


def crowd(desk: Desk, count: int, **options: Any) -> Callable[[], list[Rival[int]]]:
    """Groups of one under way, and ``count`` wishes from 10 on that came meanwhile."""
    combiner: Combiner[int, int] = Combiner(desk.work, **options)
    first = asking(combiner, *range(AT_ONCE))
    until(lambda: len(desk.groups) == AT_ONCE)
    others = asking(combiner, *range(10, 10 + count))

    def opened() -> list[Rival[int]]:
        desk.gate.set()
        assert [rival.answer() for rival in first] == [2 * wish for wish in range(AT_ONCE)]
        return others

    return opened


def test_who_comes_alone_goes_at_once(desk: Desk) -> None:
    desk.gate.set()
    combiner: Combiner[int, int] = Combiner(desk.work)
    assert [combiner.ask(wish) for wish in (1, 2, 3)] == [2, 4, 6]
    assert desk.groups == [[1], [2], [3]]


def test_two_groups_are_under_way_without_waiting_for_each_other(desk: Desk) -> None:
    combiner: Combiner[int, int] = Combiner(desk.work)
    rivals = asking(combiner, *range(AT_ONCE))
    until(lambda: len(desk.groups) == AT_ONCE)
    desk.gate.set()
    assert [rival.answer() for rival in rivals] == [0, 2]


def test_who_came_meanwhile_goes_together_and_gets_their_own_answers(desk: Desk) -> None:
    others = crowd(desk, 8)()
    assert [rival.answer() for rival in others] == [2 * wish for wish in range(10, 18)]
    assert desk.groups[AT_ONCE:] == [list(range(10, 18))]


def test_a_group_is_bounded(desk: Desk) -> None:
    others = crowd(desk, MOST + 5)()
    assert [rival.answer() for rival in others] == [2 * wish for wish in range(10, 115)]
    assert max(map(len, desk.groups)) == MOST


def test_the_trouble_of_one_is_nobody_elses(desk: Desk) -> None:
    desk.errors[12] = ValueError("mine")
    others = crowd(desk, 5)()
    with pytest.raises(ValueError, match="mine"):
        others.pop(2).answer()
    assert [rival.answer() for rival in others] == [20, 22, 26, 28]
    assert sorted(desk.groups[AT_ONCE + 1 :]) == [[wish] for wish in range(10, 15)]


def test_what_concerns_all_is_told_to_all_and_not_tried_again(desk: Desk) -> None:
    trouble = ConnectionError("away")
    trouble.__cause__ = OSError("refused")
    desk.errors[11] = trouble
    others = crowd(desk, 3, concerns_all=lambda error: isinstance(error, ConnectionError))()
    for rival in others:
        with pytest.raises(ConnectionError, match="away") as raised:
            rival.answer()
        assert raised.value is not trouble
        assert raised.value.__cause__ is trouble.__cause__
    assert desk.groups[AT_ONCE:] == [[10, 11, 12]]


def test_places_are_free_again_after_errors(desk: Desk) -> None:
    desk.gate.set()
    desk.errors[1] = ValueError("mine")
    combiner: Combiner[int, int] = Combiner(desk.work)
    for _ in range(2 * AT_ONCE):
        with pytest.raises(ValueError, match="mine"):
            combiner.ask(1)
    assert combiner.ask(2) == 4
    assert combiner._under_way == 0


def test_a_leader_that_is_ended_leaves_the_others_to_themselves() -> None:
    """Not an ``Exception``: the thread of the leader is on its way out."""
    desk = Desk()
    desk.errors[10] = SystemExit("out")  # type: ignore[assignment]
    others = crowd(desk, 3)()
    with pytest.raises(SystemExit):
        others.pop(0).answer()
    assert [rival.answer() for rival in others] == [22, 24]
