"""Makes the test process a part of a stack: its database, its queues, its cache keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.conf import settings
from django.db import connections
from django.test import override_settings
from pytest_django import DjangoDbBlocker

from jobs import cache
from tests.services import database_name
from tests.stack import Stack


@contextmanager
def inside(stack: Stack, blocker: DjangoDbBlocker) -> Iterator[None]:
    """Until the end, every thread of this process reads and writes what the stack does."""
    jobs = {
        **settings.JOBS,
        **stack.jobs,
        "cache_url": stack.services.cache_url,
        # The test counts queries; a slow moment of this machine must not add one.
        "cache_timeout_seconds": 5.0,
    }
    name = database_name(stack.services.database_url)
    # Copies in Redis are sealed under it.
    secret = stack.environment()["INTERLOCK_SECRET_KEY"]
    before = connections["default"]
    overridden = override_settings(JOBS=jobs, SECRET_KEY=secret)
    with pytest.MonkeyPatch.context() as patch, overridden, blocker.unblock():
        # Connections are made per thread, from these settings.
        patch.setitem(connections.settings["default"], "NAME", name)
        del connections["default"]
        cache.breaker.forget()
        try:
            yield
        finally:
            connections["default"].close()
            connections["default"] = before
