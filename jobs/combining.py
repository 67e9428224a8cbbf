"""What several threads ask at the same moment is asked once, by one of them for all.

Nobody waits for company. Who comes while fewer than ``AT_ONCE`` groups are under way goes at once;
who comes later goes with all others that came meanwhile, as soon as one of these is done. So one
thread alone is as fast as before, and many cost about one round trip per group instead of one each.
For transactions that is group commit (Gawlick and Kinkade, "Varieties of concurrency control in
IMS/VS Fast Path", 1985), in general flat combining (Hendler et al., SPAA 2010).

What a group cannot do, each of its members does alone, so that one's trouble is nobody else's. What
would happen to each of them anyway, such as a database that is away, happens to all at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

W = TypeVar("W")
A = TypeVar("A")

#: Groups under way at the same time: one that waits leaves the service it asks to the other.
AT_ONCE = 2
#: Wishes in one group.
MOST = 100


class _Member(Generic[W, A]):
    __slots__ = ("answer", "answered", "error", "others", "turn", "wish")

    answer: A
    error: Exception | None

    def __init__(self, wish: W, others: list[_Member[W, A]] | None) -> None:
        self.wish = wish
        #: Whom it leads; None until it is its turn to lead.
        self.others = others
        self.answered = False
        self.error = None
        if others is None:
            #: Held until it is led or leads. An ``Event`` would do and costs ten times as much.
            self.turn = Lock()
            self.turn.acquire()


class Combiner(Generic[W, A]):
    """Gathers the wishes of threads. ``work`` takes some of them and answers in their order.

    ``work`` must do all of them or none, and be safe to repeat after an error: who was in a group
    that failed asks again alone, unless ``concerns_all`` says of the error that this is in vain.
    Not for threads in which exceptions are raised from outside.
    """

    def __init__(
        self,
        work: Callable[[Sequence[W]], Sequence[A]],
        concerns_all: Callable[[BaseException], bool] = lambda _: False,
        *,
        at_once: int = AT_ONCE,
    ) -> None:
        self._work = work
        self._concerns_all = concerns_all
        self._at_once = at_once
        self._changing = Lock()
        self._waiting: list[_Member[W, A]] = []
        self._under_way = 0

    def ask(self, wish: W) -> A:
        """Have ``work`` do this, with others perhaps. Raises what it raises for this wish alone."""
        with self._changing:
            if self._under_way < self._at_once:
                self._under_way += 1
                member: _Member[W, A] = _Member(wish, [])
            else:
                member = _Member(wish, None)
                self._waiting.append(member)
        if member.others is None:
            member.turn.acquire()
        if member.others is not None:
            self._lead(member, member.others)
        if member.error is not None:
            # A copy, because each thread that raises one writes its traceback into it.
            raise copy.copy(member.error) from member.error.__cause__
        if not member.answered:
            return self._work([wish])[0]
        return member.answer

    def _lead(self, leader: _Member[W, A], others: Sequence[_Member[W, A]]) -> None:
        try:
            if others:
                self._answer([leader, *others])
            else:
                [leader.answer] = self._work([leader.wish])
                leader.answered = True
        finally:
            self._hand_over()
            for member in others:
                member.turn.release()

    def _answer(self, group: Sequence[_Member[W, A]]) -> None:
        try:
            answers = self._work([member.wish for member in group])
        except Exception as error:
            if self._concerns_all(error):
                for member in group:
                    member.error = error
            return
        for member, answer in zip(group, answers, strict=True):
            member.answer = answer
            member.answered = True

    def _hand_over(self) -> None:
        """Give the place of a group that is done to those who wait."""
        with self._changing:
            if not self._waiting:
                self._under_way -= 1
                return
            following, *others = self._waiting[:MOST]
            del self._waiting[:MOST]
            following.others = others
        following.turn.release()
