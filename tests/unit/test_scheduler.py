"""The scheduler's pace: duties that run less often than its loop."""

from __future__ import annotations

import time

import pytest

from jobs.management.commands.jobs_scheduler import Every


def test_a_duty_is_due_at_once_and_then_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    duty = Every(10)
    assert duty.is_due()
    assert not duty.is_due()
    now = 109.9
    assert not duty.is_due()
    now = 110.0
    assert duty.is_due()
    assert not duty.is_due()
