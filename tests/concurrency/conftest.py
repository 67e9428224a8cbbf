"""What the tests of attempts share: short times, and handlers for one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobs import registry
from jobs.registry import handler
from jobs.values import Backoff
from tests.concurrency.attempts import Declare


@pytest.fixture
def quick(jobs_settings: Callable[..., None]) -> None:
    """Beats and graces that keep the tests short; leases that a slow machine does not lose."""
    jobs_settings(
        heartbeat_seconds=0.02,
        lease_seconds=30,
        stop_grace_seconds=0.1,
        drain_grace_seconds=0.05,
        timeout_seconds=60,
        # Who waits behind a handler at its gate is handed back in the tests that are about it.
        group_turn_seconds=60,
    )


@pytest.fixture
def declare() -> Iterator[Declare]:
    """Declares a handler for one test and returns its name."""
    before = dict(registry._handlers)

    def add(function: Callable[..., Any], **options: Any) -> str:
        name = f"test-{function.__name__}"
        handler(name, backoff=Backoff(base_seconds=0, jitter=0), **options)(function)
        return name

    yield add
    registry._handlers.clear()
    registry._handlers.update(before)
