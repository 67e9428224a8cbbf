"""Many acknowledgements in one word, and never one for what is still being worked on."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import outstanding
from jobs.outstanding import Outstanding


class Channel:
    """A broker's side of a channel: what was delivered, and what is acknowledged by now."""

    def __init__(self) -> None:
        self.words = 0
        self.tag = 0
        self.open: set[int] = set()

    def deliver(self) -> Held:
        self.tag += 1
        self.open.add(self.tag)
        return Held(self, self.tag)


class Held:
    """A message, and the request for it."""

    def __init__(self, channel: Channel, tag: int) -> None:
        self.message = SimpleNamespace(channel=channel, delivery_tag=tag, acknowledged=False)
        self.channel = channel
        self.tag = tag
        self.is_told = False

    def acknowledge_alone(self) -> None:
        self.channel.words += 1
        self.channel.open.remove(self.tag)
        self.message.acknowledged = self.is_told = True

    def acknowledge_all_before(self) -> None:
        self.channel.words += 1
        self.channel.open = {tag for tag in self.channel.open if tag > self.tag}
        self.message.acknowledged = self.is_told = True

    def is_acknowledged(self) -> None:
        self.is_told = True

    def reject(self) -> None:
        """By somebody who knows nothing of the others."""
        self.acknowledge_alone()


def arrived(channel: Channel, known: Outstanding, count: int) -> list[Held]:
    held = [channel.deliver() for _ in range(count)]
    for one in held:
        known.add(one.message)
    return held


def test_all_that_came_before_is_acknowledged_with_one_word() -> None:
    channel, known = Channel(), Outstanding()
    held = arrived(channel, known, 20)
    known.acknowledge(held[:10])
    known.acknowledge(held[10:])
    assert (channel.words, channel.open) == (2, set())
    assert all(one.is_told for one in held)


def test_what_another_child_still_works_on_is_not_acknowledged() -> None:
    channel, known = Channel(), Outstanding()
    held = arrived(channel, known, 6)
    known.acknowledge([held[0], held[1], held[3], held[5]])
    assert channel.open == {3, 5}
    assert channel.words == 3
    known.acknowledge([held[4], held[2]])
    assert (channel.words, channel.open) == (4, set())


def test_what_others_have_answered_meanwhile_is_no_hindrance() -> None:
    channel, known = Channel(), Outstanding()
    held = arrived(channel, known, 4)
    held[0].reject()
    held[2].reject()
    known.acknowledge([held[1], held[3]])
    assert (channel.words, channel.open) == (3, set())


def test_messages_that_somebody_else_gets_on_the_channel_are_not_touched() -> None:
    channel, known = Channel(), Outstanding()
    before = arrived(channel, known, 2)
    channel.deliver()
    after = arrived(channel, known, 2)
    known.acknowledge([*before, *after])
    assert channel.open == {3}
    assert channel.words == 3

    known.acknowledge(arrived(channel, known, 2))
    assert channel.open == {3}


def test_messages_of_a_lost_channel_are_not_taken_for_those_of_the_next() -> None:
    old, new, known = Channel(), Channel(), Outstanding()
    first = arrived(old, known, 3)
    second = arrived(new, known, 3)
    known.acknowledge(first[1:])
    assert new.open == {1, 2, 3}
    assert old.open == {1}
    known.acknowledge(second)
    assert (new.words, new.open) == (1, set())


def test_what_was_answered_is_forgotten_while_the_first_is_still_worked_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outstanding, "TIDY_AT", 10)
    channel, known = Channel(), Outstanding()
    [slow] = arrived(channel, known, 1)
    for _ in range(100):
        [quick] = arrived(channel, known, 1)
        quick.reject()
        known.acknowledge(arrived(channel, known, 2))
    assert remembered(known) <= 10
    known.acknowledge([slow])
    assert channel.open == set()


def remembered(known: Outstanding) -> int:
    messages: dict[int, Any] = vars(known)["_messages"]
    return len(messages)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_order_nothing_is_acknowledged_but_what_was_answered(seed: int) -> None:
    drawn = random.Random(seed)
    channel, known = Channel(), Outstanding()
    waiting: list[Held] = []
    answered: set[int] = set()
    for _ in range(200):
        waiting += arrived(channel, known, drawn.randrange(4))
        if drawn.random() < 0.05:
            channel.deliver()
        some = drawn.sample(waiting, drawn.randrange(len(waiting) + 1))
        for one in some:
            waiting.remove(one)
        if drawn.random() < 0.2:
            for one in some:
                one.reject()
        else:
            known.acknowledge(some)
        answered |= {one.tag for one in some}
        assert channel.open == set(range(1, channel.tag + 1)) - answered
