"""Stacks on the servers of this test run: never restarted, never emptied, shared with others."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import vega_datasets  # type: ignore[import-untyped]  # ships no types
from pytest_django import DjangoDbBlocker

from interlock.celery import app
from jobs import topology
from jobs.models import OutboxEntry
from jobs.relay import Relay
from tests.inside import inside
from tests.proxy import Proxy
from tests.services import Services, template
from tests.stack import Stack
from tests.stage import Stage, note


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    note(item, report)
    return report


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """A directory of real, public tables."""
    return Path(vega_datasets.__file__).parent / "_data"


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a migrated database to copy from."""
    with template(Services.given(), tmp_path_factory.mktemp("template")) as name:
        yield name


@pytest.fixture(scope="session")
def stage(
    migrated: str, tmp_path_factory: pytest.TempPathFactory, sample_data: Path
) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("stack")
    kept = Stage(
        lambda: Stack(
            Services.given(),
            migrated,
            directory,
            data_roots=str(sample_data),
            # A status answered without the database must not meet an expired copy by chance.
            api_key_ttl_seconds=60.0,
            status_ttl_seconds=60.0,
        )
    )
    yield kept
    kept.close()


@pytest.fixture
def stack(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """All four roles at work, on queues of their own."""
    yield stage.enter()
    stage.leave(request)


@pytest.fixture
def quiet(migrated: str, tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Stack]:
    """A stack without any process, and this process a part of it."""
    with Stack(Services.given(), migrated, tmp_path) as stack, inside(stack, django_db_blocker):
        yield stack


@pytest.fixture
def relay(quiet: Stack) -> Iterator[Relay]:
    """A relay in this process, on a stack without any other."""
    relay = Relay(app)
    yield relay
    relay.close()


@pytest.fixture
def broker_proxy() -> Iterator[Proxy]:
    url = urlsplit(Services.given().broker_url)
    with Proxy(url.hostname or "", url.port or 5672) as proxy:
        yield proxy


class Clock:
    """The relay's monotonic clock, ahead of the real one by as much as a test wants."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return _monotonic() + self._ahead

    def forward(self, seconds: float) -> None:
        self._ahead += seconds


_monotonic = time.monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def waiting() -> list[tuple[int, object]]:
    """Tries and holder of each doorbell that is not published."""
    rows = OutboxEntry.objects.filter(published_at=None)
    return [(row.tries, row.taken_until) for row in rows for _ in row.job_ids]


def declare_small(quiet: Stack, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """The queue takes no more than this, and the relay does not mind."""
    full = {"x-max-length": most, "x-overflow": "reject-publish"}
    with quiet.services.channel() as channel:
        channel.queue_declare(quiet.queue, durable=True, auto_delete=False, arguments=full)
    monkeypatch.setattr(topology, "declare", lambda _: [])
