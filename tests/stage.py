"""Keeps one stack for many tests: starting four processes takes longer than most of the tests.

A test that fails gets the next one a new stack, and its report the end of every log.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.stack import Stack

FAILED = pytest.StashKey[bool]()


class Stage:
    """Hands out a stack with all four roles at work."""

    def __init__(self, make: Callable[[], Stack]) -> None:
        self._make = make
        self._stack: Stack | None = None

    def enter(self) -> Stack:
        """The stack, with whatever the test before has ended started again."""
        if self._stack is None:
            self._stack = self._make().__enter__()
        try:
            self._stack.heal()
        except BaseException:
            self.close()
            raise
        return self._stack

    def leave(self, request: pytest.FixtureRequest) -> None:
        """Throw the stack away if the test has failed: nobody knows what it left behind."""
        if request.node.stash.get(FAILED, False):
            self.close()

    def close(self) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.__exit__(None, None, None)


def note(item: pytest.Item, report: pytest.TestReport) -> None:
    """Remember a failure, and show the logs of the stack that it happened on."""
    if not report.failed:
        return
    item.stash[FAILED] = True
    stack = getattr(item, "funcargs", {}).get("stack")
    if isinstance(stack, Stack):
        report.sections.append(("the platform's logs", stack.tails()))
