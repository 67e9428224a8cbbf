"""Servers of this ring's own, which its tests kill, stop, empty and freeze."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from interlock.local.accounts import own_directory
from interlock.local.provision import choose
from interlock.local.servers import PostgresServer, Server, start_all, stop_all
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


@dataclass(frozen=True, slots=True)
class Servers:
    """Three servers that nobody else uses."""

    postgres: Server
    rabbitmq: Server
    redis: Server

    @property
    def services(self) -> Services:
        return Services(self.postgres.url, self.rabbitmq.url, self.redis.url)

    def heal(self) -> None:
        """Start again whatever a failed test has left dead."""
        for server in (self.postgres, self.rabbitmq, self.redis):
            if server.pid is None or not server.answers():
                server.restart()


@pytest.fixture(scope="session")
def own_servers() -> Iterator[Servers]:
    with tempfile.TemporaryDirectory(prefix="interlock-faults-") as name:
        home = Path(name)
        own_directory(home, None, 0o711)
        # Durable, unlike a test's usual database: with synchronous_commit off a killed server
        # forgets commits that it has confirmed, and the tests would blame the platform.
        postgres = PostgresServer(home / "postgres", durable=True)
        rabbitmq, redis = choose("rabbitmq", home), choose("redis", home)
        if rabbitmq is None or redis is None:
            pytest.skip("these tests kill servers, and there are no programs to start own ones")
        everything = [postgres, rabbitmq, redis]
        start_all(everything)
        yield Servers(postgres, rabbitmq, redis)
        stop_all(everything)


@pytest.fixture(scope="session")
def migrated(own_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a migrated database to copy from."""
    with template(own_servers.services, tmp_path_factory.mktemp("template")) as name:
        yield name


@pytest.fixture(scope="session")
def stage(
    own_servers: Servers, migrated: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("stack")
    kept = Stage(
        lambda: Stack(
            own_servers.services,
            migrated,
            directory,
            queue="default",
            api_key_ttl_seconds=60.0,
            status_ttl_seconds=60.0,
        )
    )
    yield kept
    kept.close()


@pytest.fixture
def stack(own_servers: Servers, stage: Stage, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """All four roles at work on the servers of ``own_servers``, with the documented queue."""
    own_servers.heal()
    yield stage.enter()
    own_servers.heal()
    stage.leave(request)
