"""The private services of a run, and a clean place on them for each measurement."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis

from bench import marks, place
from bench.catalogue import Cell
from bench.peers.base import amqp_connection
from bench.place import Place, Plan
from interlock.local import processes
from interlock.local.errors import ServerMissing
from interlock.local.home import Home
from interlock.local.provision import choose
from interlock.local.servers import PostgresServer, Server, start_all
from interlock.local.testing import make_home, remove_home

ROOT = Path(__file__).resolve().parent.parent


class Stage:
    """Running services, shared by all measurements of a run, one after another."""

    def __init__(self, home: Home, postgres: PostgresServer, servers: dict[str, Server]) -> None:
        self.home = home
        self.postgres = postgres
        self.servers = servers

    @contextmanager
    def place_for(self, cell: Cell, plan: Plan) -> Iterator[Place]:
        """A database of its own, an empty Redis and an empty directory; gone afterwards."""
        directory = self.home.path("cells", cell.name)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        database = "bench_" + cell.name.replace("-", "_")
        self._create(database)
        try:
            yield Place(
                directory=str(directory),
                database_url=_renamed(self.servers["postgres"].url, database),
                broker_url=self.servers["rabbitmq"].url,
                cache_url=self.servers["redis"].url,
                pids={name: server.pid or 0 for name, server in self.servers.items()},
                plan=plan,
            )
        finally:
            self._sql(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
            redis.Redis.from_url(self.servers["redis"].url).flushall()

    def _create(self, database: str) -> None:
        self._sql(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        self._sql(f"CREATE DATABASE {database}")
        # What an earlier measurement wrote is not to be paid for by this one.
        self._sql("CHECKPOINT")

    def _sql(self, statement: str) -> None:
        connection = self.postgres.connect("postgres")
        try:
            connection.cursor().execute(statement)
        finally:
            connection.close()

    def setting(self, name: str) -> str:
        """A setting of PostgreSQL as it is in effect."""
        connection = self.postgres.connect()
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT current_setting(%s)", [name])
            row = cursor.fetchone()
            return str(row[0]) if row else ""
        finally:
            connection.close()

    def versions(self) -> dict[str, str]:
        """Of the two other services."""
        with amqp_connection(self.servers["rabbitmq"].url) as connection:
            broker = str(connection.server_properties["version"])
        info: Any = redis.Redis.from_url(self.servers["redis"].url).info("server")
        return {"rabbitmq": broker, "redis": str(info["redis_version"])}

    def environment(self, here: Place) -> dict[str, str]:
        """Of a measurement's process, whichever interpreter runs it."""
        foreign = ("PG", "DJANGO_", "INTERLOCK_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return {
            **kept,
            processes.MARKER: str(self.home.root),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}",
            "PYTHONUNBUFFERED": "1",
            "DATABASE_URL": here.database_url,
            "BROKER_URL": here.broker_url,
            "CACHE_URL": here.cache_url,
            place.VARIABLE: here.to_environment(),
            marks.VARIABLE: str(here.path / "marks"),
        }


def of_the_product(environment: dict[str, str], here: Place) -> dict[str, str]:
    """What the platform's own processes need beside that."""
    return {
        **environment,
        "INTERLOCK_SECRET_KEY": "bench-only-key-of-no-value",
        "INTERLOCK_DATA_DIR": str(here.path / "data"),
        "INTERLOCK_LOG_LEVEL": "WARNING",
        "DJANGO_SETTINGS_MODULE": "bench.ours.settings",
    }


@contextmanager
def services() -> Iterator[Stage]:
    """Start private PostgreSQL, RabbitMQ and Redis.

    PostgreSQL keeps fsync, full_page_writes and synchronous_commit on: what is measured is what is
    promised. Raises ServerMissing if one of the three is not installed.
    """
    home = make_home()
    postgres = PostgresServer(home.path("postgres"), durable=True)
    servers: dict[str, Server] = {"postgres": postgres}
    try:
        for name in ("rabbitmq", "redis"):
            server = choose(name, home.root)
            if server is None:
                raise ServerMissing(f"{name} is not installed; ./dev test would install it")
            servers[name] = server
        start_all(list(servers.values()))
        yield Stage(home, postgres, servers)
    finally:
        for server in reversed(servers.values()):
            server.destroy()
        remove_home(home)


def _renamed(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))
