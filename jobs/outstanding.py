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
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

log = logging.getLogger("jobs.outstanding")

#: Messages that are remembered behind one that is not answered yet, before those among them are
#: looked for that are.
TIDY_AT = 100


class Outstanding:
    """The unanswered messages of the channel that a worker consumes on. Main loop only."""

    def __init__(self, soon: Callable[[Callable[[], None]], object]) -> None:
        """``soon`` has something done in the main loop, when what happens now is over."""
        self._soon = soon
        self._begin(None)

    def _begin(self, channel: Any) -> None:
        self._channel = channel
        self._messages: deque[Any] = deque()
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
        self._messages.append(message)
        while self._messages[0].acknowledged:
            self._messages.popleft()
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
        while answered and self._messages:
            message = self._messages[0]
            if message.delivery_tag in answered:
                last = answered.pop(message.delivery_tag)
            elif not message.acknowledged:
                break
            self._messages.popleft()
        return last

    def _tidy(self) -> None:
        self._messages = deque(one for one in self._messages if not one.acknowledged)
        self._tidy_at = max(TIDY_AT, 2 * len(self._messages))
