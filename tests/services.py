"""Databases, queues and cache keys of a stack's own, on whatever servers there are."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import amqp
import psycopg2
import redis

from interlock.local import processes

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Services:
    """Where the three servers are."""

    database_url: str
    broker_url: str
    cache_url: str

    @classmethod
    def given(cls) -> Services:
        """Those of this test run."""
        return cls(*(os.environ[name] for name in ("DATABASE_URL", "BROKER_URL", "CACHE_URL")))

    def with_database(self, name: str) -> Services:
        return replace(
            self, database_url=urlunsplit(urlsplit(self.database_url)._replace(path=f"/{name}"))
        )

    def variables(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database_url,
            "BROKER_URL": self.broker_url,
            "CACHE_URL": self.cache_url,
        }

    def sql(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
        """Run one statement on a connection of its own, which no restart can have broken."""
        with closing(psycopg2.connect(self.database_url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else []

    @contextmanager
    def channel(self) -> Iterator[amqp.Channel]:
        """A channel to the broker, for what an operator or a stranger would do there."""
        url = urlsplit(self.broker_url)
        connection = amqp.Connection(
            host=f"{url.hostname}:{url.port}",
            userid=url.username or "guest",
            password=url.password or "guest",
            virtual_host=url.path[1:] or "/",
            connect_timeout=5,
            confirm_publish=True,
        )
        connection.connect()
        try:
            yield connection.channel()
        finally:
            connection.close()

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.cache_url)


def environment(services: Services, directory: Path, **more: str) -> dict[str, str]:
    """What a process of the platform sees: nothing of the test run but its own services."""
    kept = ("PATH", "LANG", "TMPDIR", processes.MARKER)
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}",
        "PYTHONUNBUFFERED": "1",
        "HOME": str(directory),
        "DJANGO_SETTINGS_MODULE": "tests.settings_stack",
        "INTERLOCK_SECRET_KEY": "a key for tests and for nothing else",
        "INTERLOCK_DATA_DIR": str(directory / "data"),
        **services.variables(),
        **more,
    }


def database_name(url: str) -> str:
    return urlsplit(url).path[1:]


@contextmanager
def template(services: Services, directory: Path) -> Iterator[str]:
    """A migrated database to copy from: copying takes a tenth of the time of migrating."""
    name = f"stack_{secrets.token_hex(4)}_template"
    with database(services, name) as here:
        done = subprocess.run(
            [sys.executable, "-m", "interlock", "migrate", "-v", "0"],
            env=environment(here, directory),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield name


@contextmanager
def database(services: Services, name: str, template: str = "template1") -> Iterator[Services]:
    """A database for the length of the context."""
    services.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield services.with_database(name)
    finally:
        services.sql(f"DROP DATABASE {name} WITH (FORCE)")


def forget_queues(services: Services, names: list[str]) -> None:
    """Remove queues with whatever is in them."""
    with services.channel() as channel:
        for name in names:
            channel.queue_delete(name)


def forget_keys(services: Services, prefix: str) -> None:
    """Remove every key of one platform from a cache that others use too."""
    with closing(services.redis()) as client:
        for key in client.scan_iter(f"{prefix}:*", count=1000):
            client.delete(key)
