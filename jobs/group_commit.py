"""Group commit: what several threads ask of the database at the same moment shares a transaction.

Nobody waits for company. Who comes while fewer than ``AT_ONCE`` groups are under way goes at once;
who comes later goes with all others that came meanwhile, as soon as one of these is done. So one
thread alone is as fast as before, and many cost about one transaction per group instead of one each
(the classic description is in Gawlick and Kinkade, "Varieties of concurrency control in IMS/VS Fast
Path", 1985).

What a group cannot do, each of its members does alone, so that one's trouble is nobody else's. What
would happen to each of them anyway, such as a database that is away, happens to all at once.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

W = TypeVar("W")
A = TypeVar("A")

#: Groups under way at the same time: one that waits for the disk leaves the database to the other.
AT_ONCE = 2
#: Wishes in one group.
MOST = 100


@dataclass(eq=False, slots=True)
class _Member(Generic[W, A]):
    wish: W
    turn: threading.Event = field(default_factory=threading.Event)
    #: Whom it leads; None until it is its turn to lead.
    others: list[_Member[W, A]] | None = None
    answered: bool = False
    answer: A | None = None
    error: Exception | None = None


class GroupCommit(Generic[W, A]):
    """Gathers the wishes of threads. ``work`` takes some of them and answers in their order.

    ``work`` must do all of them or none, and be safe to repeat after an error: who was in a group
    that failed asks again alone, unless ``concerns_all`` says of the error that this is in vain.
    Not for threads in which exceptions are raised from outside.
    """

    def __init__(
        self,
        work: Callable[[Sequence[W]], Sequence[A]],
        concerns_all: Callable[[BaseException], bool] = lambda _: False,
    ) -> None:
        self._work = work
        self._concerns_all = concerns_all
        self._changing = threading.Lock()
        self._waiting: list[_Member[W, A]] = []
        self._under_way = 0

    def ask(self, wish: W) -> A:
        """Have ``work`` do this, with others perhaps. Raises what it raises for this wish alone."""
        member: _Member[W, A] = _Member(wish)
        with self._changing:
            if self._under_way < AT_ONCE:
                self._under_way += 1
                member.others = []
            else:
                self._waiting.append(member)
        if member.others is None:
            member.turn.wait()
        if member.others is not None:
            self._lead(member, member.others)
        if member.error is not None:
            # A copy, because each thread that raises one writes its traceback into it.
            raise copy.copy(member.error) from member.error.__cause__
        if not member.answered:
            [member.answer] = self._work([wish])
        return cast("A", member.answer)

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
                member.turn.set()

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
        following.turn.set()
