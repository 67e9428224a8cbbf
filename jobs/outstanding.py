"""Which messages of a channel the broker waits for, so that many are acknowledged with one word.

An acknowledgement may stand for all messages up to its own (AMQP 0-9-1, ``basic.ack`` with
``multiple``). That saves the worker's main process and the broker a frame for each, but one sent
too far would acknowledge what somebody else on the channel still works on. So it is sent only as
far as everything before is known and answered.

A broker closes the channel over an acknowledgement of what it has been told before. So what is
answered is collected and sent by one hand: the event loop carries out in any order what it is given
to do soon, and of two that stand for many the later one may come first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

log = logging.getLogger("jobs.outstanding")

#: Messages that are remembered before those are looked for that have been answered meanwhile.
TIDY_AT = 1000


class Outstanding:
    """The unanswered messages of the channel that a worker consumes on. Main loop only."""

    def __init__(self, soon: Callable[[Callable[[], None]], object]) -> None:
        """``soon`` has something done in the main loop, when what happens now is over."""
        self._soon = soon
        self._begin(None)

    def _begin(self, channel: Any) -> None:
        self._channel = channel
        self._messages: dict[int, Any] = {}
        self._answered: dict[int, Any] = {}
        self._errors: tuple[type[Exception], ...] = ()
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

    def acknowledge(self, messages: Iterable[Any], errors: tuple[type[Exception], ...]) -> None:
        """Acknowledge these soon, with as few words as possible.

        ``errors`` are what a lost connection raises. It is logged once: what was not acknowledged
        comes again.
        """
        for message in messages:
            if message.channel is self._channel:
                if not self._answered:
                    self._soon(self._send)
                self._answered[message.delivery_tag] = message
                self._errors = errors
            else:
                message.ack_log_error(log, errors)

    def _send(self) -> None:
        answered, self._answered = self._answered, {}
        last = self._covered(answered)
        words = [(last, True)] if last is not None else []
        words += [(message, False) for message in answered.values()]
        for message, multiple in words:
            message.ack_log_error(log, self._errors, multiple=multiple)
            if not message.acknowledged:
                break

    def _covered(self, answered: dict[int, Any]) -> Any:
        """The last of those before which nothing is unanswered but one another, or None. All of
        these are taken out of ``answered``."""
        last = None
        gone = []
        for tag, message in self._messages.items():
            if tag in answered:
                last = answered.pop(tag)
            elif not message.acknowledged:
                break
            gone.append(tag)
            if not answered:
                break
        for tag in gone:
            del self._messages[tag]
        return last

    def _tidy(self) -> None:
        self._messages = {
            tag: message for tag, message in self._messages.items() if not message.acknowledged
        }
        self._tidy_at = max(TIDY_AT, 2 * len(self._messages))
