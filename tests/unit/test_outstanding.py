"""Many acknowledgements in one word, and never one for what is still being worked on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from jobs import outstanding
from jobs.outstanding import Outstanding


class Closed(Exception):
    """The broker has closed the channel."""


ERRORS = (Closed,)


class Loop:
    """Carries out soon, in any order, what it is given."""

    def __init__(self, drawn: random.Random | None = None) -> None:
        self._drawn = drawn
        self._ready: list[Callable[[], None]] = []

    def soon(self, work: Callable[[], None]) -> None:
        self._ready.append(work)

    def turn(self) -> None:
        ready, self._ready = self._ready, []
        if self._drawn is not None:
            self._drawn.shuffle(ready)
        for work in ready:
            work()


class Channel:
    """What a broker has delivered, and what it waits for. As strict as RabbitMQ."""

    def __init__(self) -> None:
        self.words = 0
        self.tag = 0
        self.open: set[int] = set()
        self.is_closed = False

    def deliver(self) -> Message:
        self.tag += 1
        self.open.add(self.tag)
        return Message(self, self.tag)

    def acknowledge(self, tag: int, *, multiple: bool) -> None:
        self.words += 1
        if self.is_closed or tag not in self.open:
            self.is_closed = True
            raise Closed(f"unknown delivery tag {tag}")
        self.open -= {one for one in self.open if one <= tag} if multiple else {tag}


class Message:
    """As kombu's, as far as a worker needs it."""

    def __init__(self, channel: Channel, tag: int) -> None:
        self.channel = channel
        self.delivery_tag = tag
        self.acknowledged = False
        self.complaints = 0

    def ack_log_error(self, logger: Any, errors: Any, *, multiple: bool = False) -> None:
        del logger
        try:
            self.channel.acknowledge(self.delivery_tag, multiple=multiple)
            self.acknowledged = True
        except errors:
            self.complaints += 1

    def reject(self) -> None:
        """By somebody who knows nothing of the others."""
        self.channel.acknowledge(self.delivery_tag, multiple=False)
        self.acknowledged = True


class Case:
    def __init__(self) -> None:
        self.loop = Loop()
        self.channel = Channel()
        self.known = Outstanding(self.loop.soon)

    def arrive(self, count: int) -> list[Message]:
        messages = [self.channel.deliver() for _ in range(count)]
        for message in messages:
            self.known.add(message)
        return messages

    def acknowledge(self, messages: list[Message]) -> None:
        self.known.acknowledge(messages, ERRORS)
        self.loop.turn()
        assert not self.channel.is_closed


@pytest.fixture
def case() -> Case:
    return Case()


def test_all_that_came_before_is_acknowledged_with_one_word(case: Case) -> None:
    messages = case.arrive(20)
    case.acknowledge(messages[:10])
    case.acknowledge(messages[10:])
    assert (case.channel.words, case.channel.open) == (2, set())


def test_groups_that_are_done_at_the_same_moment_share_the_word(case: Case) -> None:
    messages = case.arrive(20)
    case.known.acknowledge(messages[10:], ERRORS)
    case.known.acknowledge(messages[:10], ERRORS)
    case.loop.turn()
    assert (case.channel.words, case.channel.open) == (1, set())
    assert not case.channel.is_closed


def test_what_another_child_still_works_on_is_not_acknowledged(case: Case) -> None:
    one, two, three, four, five, six = case.arrive(6)
    case.acknowledge([one, two, four, six])
    assert case.channel.open == {3, 5}
    assert case.channel.words == 3
    case.acknowledge([five, three])
    assert (case.channel.words, case.channel.open) == (4, set())


def test_what_others_have_answered_meanwhile_is_no_hindrance(case: Case) -> None:
    messages = case.arrive(4)
    messages[0].reject()
    messages[2].reject()
    case.acknowledge([messages[1], messages[3]])
    assert (case.channel.words, case.channel.open) == (3, set())


def test_messages_that_somebody_else_gets_on_the_channel_are_not_touched(case: Case) -> None:
    before = case.arrive(2)
    case.channel.deliver()
    after = case.arrive(2)
    case.acknowledge([*before, *after])
    assert case.channel.open == {3}
    assert case.channel.words == 3
    case.acknowledge(case.arrive(2))
    assert case.channel.open == {3}


def test_messages_of_a_lost_channel_are_not_taken_for_those_of_the_next(case: Case) -> None:
    old = case.channel
    first = case.arrive(3)
    case.channel = Channel()
    second = case.arrive(3)
    case.acknowledge(first[1:])
    assert case.channel.open == {1, 2, 3}
    assert old.open == {1}
    case.acknowledge(second)
    assert (case.channel.words, case.channel.open) == (1, set())


def test_a_lost_connection_is_one_complaint(case: Case) -> None:
    messages = case.arrive(5)
    case.channel.is_closed = True
    case.known.acknowledge([messages[0], messages[2], messages[4]], ERRORS)
    case.loop.turn()
    assert sum(message.complaints for message in messages) == 1


def test_what_was_lost_with_its_channel_is_not_sent_on_the_next(case: Case) -> None:
    case.known.acknowledge(case.arrive(3), ERRORS)
    case.channel = Channel()
    case.arrive(3)
    case.loop.turn()
    assert (case.channel.words, case.channel.open) == (0, {1, 2, 3})


def test_what_was_answered_is_forgotten_while_the_first_is_still_worked_on(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outstanding, "TIDY_AT", 10)
    slow = case.arrive(1)
    for _ in range(100):
        case.arrive(1)[0].reject()
        case.acknowledge(case.arrive(2))
    assert len(case.known._messages) <= 10
    case.acknowledge(slow)
    assert case.channel.open == set()


def test_what_is_answered_in_its_turn_is_forgotten_with_the_next(case: Case) -> None:
    for _ in range(10):
        case.arrive(1)[0].reject()
    case.arrive(1)
    assert len(case.known._messages) == 1


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_order_nothing_is_acknowledged_but_what_was_answered(seed: int) -> None:
    drawn = random.Random(seed)
    case = Case()
    case.loop = loop = Loop(drawn)
    case.known = known = Outstanding(loop.soon)
    waiting: list[Message] = []
    answered: set[int] = set()
    for _ in range(300):
        waiting += case.arrive(drawn.randrange(6))
        if seed % 3 == 0 and drawn.random() < 0.02:
            case.channel.deliver()
        for _ in range(drawn.randrange(4)):
            some = drawn.sample(waiting, min(len(waiting), drawn.randrange(8)))
            some = sorted(some, key=lambda one: one.delivery_tag) if drawn.random() < 0.7 else some
            waiting = [one for one in waiting if one not in some]
            answered |= {one.delivery_tag for one in some}
            if drawn.random() < 0.3:
                for one in some:
                    loop.soon(one.reject)
            else:
                known.acknowledge(some, ERRORS)
        if drawn.random() < 0.7:
            loop.turn()
            assert case.channel.open == set(range(1, case.channel.tag + 1)) - answered
    loop.turn()
    assert not case.channel.is_closed
    assert case.channel.open == set(range(1, case.channel.tag + 1)) - answered
