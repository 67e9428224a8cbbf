"""Which messages of a channel the broker waits for, so that many are acknowledged with one word.

An acknowledgement may stand for all messages up to its own (AMQP 0-9-1, ``basic.ack`` with
``multiple``). That saves the worker's main process and the broker a frame for each, but one sent
too far would acknowledge what somebody else on the channel still works on. So it is sent only as
far as everything before is known and answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

#: Messages that are remembered before those are looked for that have been answered meanwhile.
TIDY_AT = 1000


class Answerable(Protocol):
    """A message in a worker's hands: Celery's request for it."""

    message: Any

    def acknowledge_alone(self) -> None:
        """Send an acknowledgement of this message only."""

    def acknowledge_all_before(self) -> None:
        """Send one of this message and of all before it on its channel."""

    def is_acknowledged(self) -> None:
        """Another one's acknowledgement covers this message."""


class Outstanding:
    """The unanswered messages of the channel that a worker consumes on. Main loop only."""

    def __init__(self) -> None:
        self._begin(None)

    def _begin(self, channel: Any) -> None:
        self._channel = channel
        self._messages: dict[int, Any] = {}
        self._last = 0
        self._is_ours = True
        self._tidy_at = TIDY_AT

    def add(self, message: Any) -> None:
        """Note a message that has just arrived, whatever it is."""
        if message.channel is not self._channel:
            self._begin(message.channel)
        tag = message.delivery_tag
        if tag != self._last + 1:
            # Tags are counted per channel: somebody else gets messages on it.
            self._is_ours = False
        if not self._is_ours:
            return
        self._last = tag
        self._messages[tag] = message
        if len(self._messages) >= self._tidy_at:
            self._tidy()

    def acknowledge(self, answered: Sequence[Answerable]) -> None:
        """Acknowledge all these with as few words as possible."""
        left = {one.message.delivery_tag: one for one in answered}
        covered = self._covered(left)
        for one in covered[:-1]:
            one.is_acknowledged()
        for one in covered[-1:]:
            one.acknowledge_all_before()
        for tag, one in left.items():
            one.acknowledge_alone()
            if self._messages.get(tag) is one.message:
                del self._messages[tag]

    def _covered(self, left: dict[int, Answerable]) -> list[Answerable]:
        """Takes out of ``left`` those before which nothing is unanswered but one another."""
        covered = []
        gone = []
        for tag, message in self._messages.items():
            one = left.get(tag)
            if one is not None and one.message is message:
                covered.append(left.pop(tag))
            elif not message.acknowledged:
                break
            gone.append(tag)
            if not left:
                break
        for tag in gone:
            del self._messages[tag]
        return covered

    def _tidy(self) -> None:
        self._messages = {
            tag: message for tag, message in self._messages.items() if not message.acknowledged
        }
        self._tidy_at = max(TIDY_AT, 2 * len(self._messages))
