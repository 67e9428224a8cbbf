"""Messages of one job each that wait for a child are answered together, and never hoarded."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.marks import until
from tests.services import Services
from tests.stack import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]

WIDE = "all jobs are short"
NARROW = r"\d+ messages handed back"
LOST = "Connection to broker lost"


def commits(stack: Stack, event: str, ids: Collection[UUID]) -> int:
    """In how many transactions this happened to these jobs."""
    return len({entry["txid"] for entry in stack.audit(*ids) if entry["event"] == event})


def make_wide(stack: Stack) -> None:
    """Let the worker see how short jobs are, and then many of them."""
    stack.wait_for("COMPLETED", stack.submit("noop", count=10))
    worker = stack.the("worker")
    for _ in range(10):
        stack.wait_for("COMPLETED", stack.submit("noop", count=50))
        if worker.said(WIDE):
            return
    pytest.fail(f"never wide\n{stack.tails()}")


def test_single_messages_are_answered_together_and_given_back_when_all_are_slow(
    migrated: str, tmp_path: Path
) -> None:
    # Nobody rings again in this time: what is held is given back, or stays where it is.
    late: dict[str, Any] = {"rearm_seconds": 60.0, "rearm_cap_seconds": 60.0}
    with Stack(Services.given(), migrated, tmp_path, message_limit=1, **late) as stack:
        stack.start()
        make_wide(stack)
        ids = stack.submit("noop", count=1000)
        stack.wait_for("COMPLETED", ids)
        assert commits(stack, "claim", ids) < 500
        assert commits(stack, "succeed", ids) < 500
        until(lambda: stack.messages() == 0, 10)
        first = stack.the("worker")
        assert not first.said(LOST), "the broker was told what it had been told before"

        marks = stack.marks()
        slow = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
        marks.wait_started(2)
        quick = stack.submit("noop", count=30)
        first.wait_said(NARROW)
        [second] = stack.start("worker")
        stack.wait_for("COMPLETED", quick)
        assert set(stack.states(slow).values()) == {"RUNNING"}

        second.terminate(30)
        last = stack.submit("noop", count=5)
        marks.open()
        stack.wait_for("COMPLETED", [*slow, *last])
        stack.check([*ids, *slow, *quick, *last])
