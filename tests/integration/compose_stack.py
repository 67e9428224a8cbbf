"""Runs what compose.yaml says as plain processes: host names replaced, everything else as written.

Where the servers of the test run are private, the configuration of platform/services is applied to
them, so that each process has the user and the rights that it has in a deployment.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import redis
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT

from interlock.local import processes
from interlock.local.ports import LOOPBACK, free_port
from interlock.local.rabbitmq import RabbitServer
from interlock.local.redis_server import installed_binary
from interlock.local.servers import attach
from tests import composefile
from tests.composefile import ROOT, SERVICES

ROLES = ("migrate", "api", "worker", "relay", "scheduler")
BROKER_USERS = ("topology", "relay", "worker")
DATA_IN_CONTAINER = "/var/lib/interlock"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server really is. `own_users`: the users of compose.yaml exist there."""

    url: str
    own_users: bool

    def locate(self, url: str) -> str:
        """A URL of compose.yaml, pointing here."""
        given, real = urlsplit(url), urlsplit(self.url)
        user = given.netloc if self.own_users else real.netloc
        userinfo = user.rpartition("@")[0]
        address = f"{real.hostname}:{real.port}"
        netloc = f"{userinfo}@{address}" if userinfo else address
        return urlunsplit((given.scheme, netloc, real.path, real.query, ""))


@contextmanager
def database(values: Mapping[str, str]) -> Iterator[Place]:
    """A database of its own, with the roles of 10-roles.sql if `psql` and rights allow."""
    given = os.environ["DATABASE_URL"]
    name = f"compose_{secrets.token_hex(4)}"
    url = urlunsplit(urlsplit(given)._replace(path=f"/{name}"))
    _execute(given, f"CREATE DATABASE {name}")
    made = False
    try:
        made = _make_roles(url, values)
        yield Place(url, made)
    finally:
        _execute(given, f"DROP DATABASE {name} WITH (FORCE)")
        if made:
            _execute(given, *(f"DROP ROLE IF EXISTS interlock_{role}" for role in ROLES))


def _execute(url: str, *statements: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(url)
    try:
        connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def _make_roles(url: str, values: Mapping[str, str]) -> bool:
    psql = shutil.which("psql")
    ((superuser,),) = _execute(url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    if psql is None or not superuser:
        return False
    subprocess.run(
        [psql, "--no-psqlrc", "-q", "-f", str(SERVICES / "postgres/init/10-roles.sql"), url],
        env={**os.environ, **values},
        check=True,
    )
    return True


@contextmanager
def broker(values: Mapping[str, str], directory: Path) -> Iterator[Place]:
    """The test run's RabbitMQ, with virtual host and users of definitions.json if it is private."""
    given = os.environ["BROKER_URL"]
    described = os.environ.get("INTERLOCK_TEST_SERVICES")
    server = attach(described).get("rabbitmq") if described else None
    if not isinstance(server, RabbitServer):
        yield Place(given, own_users=False)
        return
    definitions = directory / "definitions.json"
    subprocess.run(
        ["sh", str(SERVICES / "rabbitmq/start"), "true"],
        env={**os.environ, **values, "DEFINITIONS_FILE": str(definitions)},
        check=True,
    )
    server.ctl("import_definitions", str(definitions))
    try:
        yield Place(urlunsplit(urlsplit(given)._replace(path="/interlock")), own_users=True)
    finally:
        server.ctl("delete_vhost", "interlock")
        for user in BROKER_USERS:
            server.ctl("delete_user", user)


@contextmanager
def cache(values: Mapping[str, str], directory: Path) -> Iterator[Place]:
    """A Redis started as the container starts it, else the test run's."""
    binary = installed_binary()
    if binary is None:
        yield Place(os.environ["CACHE_URL"], own_users=False)
        return
    port, users = free_port(), directory / "users.acl"
    log = directory / "redis.log"
    command = ["sh", str(SERVICES / "redis/start"), "--bind", LOOPBACK, "--port", str(port)]
    process = processes.spawn(
        [*command, "--aclfile", str(users)],
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{binary.parent}{os.pathsep}{os.environ['PATH']}",
            "CACHE_PASSWORD": values["CACHE_PASSWORD"],
            "ACL_FILE": str(users),
        },
        log=log,
    )
    try:
        client = redis.Redis(
            LOOPBACK, port, username="interlock", password=values["CACHE_PASSWORD"]
        )
        until(lambda: _answers(client), 20, lambda: processes.log_tail(log))
        client.close()
        yield Place(f"redis://{LOOPBACK}:{port}/0", own_users=True)
    finally:
        processes.stop(processes.Record.of(process.pid), signal.SIGTERM, 10)
        process.wait(timeout=10)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def until(
    true: Callable[[], bool], seconds: float, explain: Callable[[], str] = lambda: ""
) -> None:
    """Wait until it is true; fails with the explanation after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s\n{explain()}"
        time.sleep(0.1)


@dataclass
class Composed:
    """The services of compose.yaml as processes of this machine."""

    directory: Path
    places: Mapping[str, Place]
    values: Mapping[str, str]
    ports: dict[str, int] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.document = composefile.resolved(self.values)
        for name in ("data", "scratch"):
            (self.directory / name).mkdir()

    def service(self, name: str) -> dict[str, Any]:
        """`api` for each replica `api-1`, `api-2`."""
        return dict(self.document["services"][name.partition("-")[0]])

    def environment(self, name: str) -> dict[str, str]:
        """Nothing but what compose.yaml says, and what the image would bring."""
        image = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}",
            "HOME": str(self.directory),
            "DJANGO_SETTINGS_MODULE": "interlock.settings",
        }
        marker = {key: value for key, value in os.environ.items() if key == processes.MARKER}
        given = {key: str(value) for key, value in self.service(name)["environment"].items()}
        for variable, place in self.places.items():
            if variable in given:
                given[variable] = place.locate(given[variable])
        for variable, value in given.items():
            if value.startswith(DATA_IN_CONTAINER):
                given[variable] = value.replace(DATA_IN_CONTAINER, str(self.directory), 1)
        return {**image, **marker, **given}

    def _here(self, name: str, command: list[str]) -> list[str]:
        """The container's own address and port, as they are on this machine."""
        port = str(self.ports.get(name, 8000))
        replaced = [word.replace(":8000/", f":{port}/") for word in command]
        return [{"0.0.0.0": LOOPBACK, "8000": port}.get(word, word) for word in replaced]

    def run(self, name: str, command: list[str] | None = None) -> subprocess.CompletedProcess[str]:
        """A service's command, or another one in its place, until it ends."""
        argv = self._here(name, command or list(self.service(name)["command"]))
        environment = self.environment(name)
        program = shutil.which(argv[0], path=environment["PATH"]) or argv[0]
        return subprocess.run(
            [program, *argv[1:]],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, name: str) -> None:
        """A service's command, left running."""
        self.ports[name] = free_port()
        command = self._here(name, list(self.service(name)["command"]))
        self.running[name] = processes.spawn(
            command, cwd=self.directory, env=self.environment(name), log=self.log(name)
        )

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def logs(self) -> str:
        """The end of every log, for a message that helps."""
        return "\n".join(
            f"--- {name}\n{processes.log_tail(self.log(name), 30)}" for name in self.running
        )

    def healthy(self, name: str) -> bool:
        """What the service's health check says."""
        return self.run(name, self.service(name)["healthcheck"]["test"][1:]).returncode == 0

    def terminate(self, name: str) -> int:
        """What `docker compose stop` does: SIGTERM to the main process, then wait its grace."""
        grace = float(self.service(name)["stop_grace_period"].rstrip("s"))
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout=grace)
        finally:
            processes.stop(processes.Record.of(process.pid), signal.SIGKILL, 5)

    def kill(self) -> None:
        """Whatever is still running."""
        for process in self.running.values():
            processes.stop(processes.Record.of(process.pid), signal.SIGKILL, 5)
            process.wait(timeout=5)
