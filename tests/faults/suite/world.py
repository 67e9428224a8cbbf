"""The world that the faults happen to: real servers, bad networks, and every role at least twice.

    with World(servers, template, directory, seed=7) as world:
        world.proxies.rabbitmq.cut()
        world.processes("worker")[0].kill()

The processes reach each server and are reached by clients through proxies; the world's own
questions (``sql``, ``channel``, ``redis``) go to the servers directly, so that no fault blinds the
judge. Whatever exits is started again after ``RESTART_SECONDS``, as a supervisor of the operating
system would do, and counted.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import UUID

import amqp
import redis

from interlock.local import processes
from interlock.local.ports import free_port
from interlock.local.rabbitmq import RabbitServer
from interlock.local.server import Server
from tests.faults.suite import kill_points
from tests.faults.suite.cast import CAST, Cast, children_of
from tests.faults.suite.ledger import Ledger
from tests.http_client import Http
from tests.marks import until
from tests.proxy import Proxy
from tests.services import ROOT, Services
from tests.stack import Stack

#: Longest time between a confirm and its commit on a busy machine.
SETTLING_SECONDS = 1.0
OWNERS = ("ada", "grace", "barbara")
_WITHOUT_KILL_POINTS = {"DJANGO_SETTINGS_MODULE": "tests.settings_stack"}
_MAKE_OWNERS = """
import json
from django.contrib.auth.models import User
from jobs import keys
from jobs.models import Scope
made = []
for name in {names!r}:
    user = User.objects.create_user(name)
    made.append({{"owner_id": user.pk, "key": keys.issue(user.pk, "faults", list(Scope))}})
print("owners " + json.dumps(made))
"""


@dataclass(frozen=True, slots=True)
class Servers:
    """Three servers that nobody else uses."""

    postgres: Server
    rabbitmq: RabbitServer
    redis: Server

    def all(self) -> tuple[Server, ...]:
        return (self.postgres, self.rabbitmq, self.redis)

    @property
    def services(self) -> Services:
        return Services(self.postgres.url, self.rabbitmq.url, self.redis.url)


@dataclass(frozen=True, slots=True)
class Proxies:
    """One before each server."""

    postgres: Proxy
    rabbitmq: Proxy
    redis: Proxy

    def all(self) -> tuple[Proxy, ...]:
        return (self.postgres, self.rabbitmq, self.redis)

    def through(self, services: Services) -> Services:
        """The same services, reached through the proxies."""
        return Services(
            _at(services.database_url, self.postgres.port) + "?sslmode=disable",
            _at(services.broker_url, self.rabbitmq.port),
            _at(services.cache_url, self.redis.port),
        )


class World(Cast):
    """Everything that a fault may touch. See the module's text."""

    def __init__(
        self, servers: Servers, template: str, directory: Path, *, seed: object, **jobs: Any
    ) -> None:
        super().__init__()
        self.servers = servers
        self.directory = directory
        self.kill_directory = directory / "kill"
        self.ledger_directory = directory / "ledger"
        self.owners: list[dict[str, Any]] = []
        self._seed = seed
        self._template = template
        self._jobs = jobs
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        for part in (self.kill_directory, self.ledger_directory):
            part.mkdir(parents=True)
        with ExitStack() as exits:
            self.proxies = Proxies(
                *(exits.enter_context(self._proxy(s.name, s.port)) for s in self.servers.all())
            )
            self.ledger = exits.enter_context(Ledger(self.ledger_directory))
            self.stack = exits.enter_context(self._make_stack())
            self.api_proxies = [
                exits.enter_context(self._proxy(f"api{n}", free_port())) for n in range(CAST["api"])
            ]
            self._exits = exits.pop_all()
        try:
            self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.dismiss()
        self.heal_everything()
        self._exits.close()

    def _proxy(self, name: str, port: int) -> Proxy:
        return Proxy("127.0.0.1", port, seed=f"{self._seed}/{name}", listen_port=free_port())

    def _make_stack(self) -> Stack:
        return Stack(
            self.servers.services,
            self._template,
            self.directory,
            through=self.proxies.through,
            variables={
                "DJANGO_SETTINGS_MODULE": "tests.settings_faults",
                kill_points.VARIABLE: str(self.kill_directory),
            },
            **self._jobs,
        )

    def _begin(self) -> None:
        self.fill([proxy.target_port for proxy in self.api_proxies])
        self.owners = self._make_owners()
        self.keys_file.write_text(json.dumps(self.owners))
        self.watch_over()

    def _make_owners(self) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "interlock", "shell", "-c", _MAKE_OWNERS.format(names=OWNERS)],
            cwd=ROOT,
            env=self.stack.environment(),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if line.startswith("owners "))
        made: list[dict[str, Any]] = json.loads(line.removeprefix("owners "))
        return made

    # -- where things are -----------------------------------------------------------------------

    @property
    def queue(self) -> str:
        return self.stack.queue

    @property
    def dead_letter_queue(self) -> str:
        return self.stack.dead_letter_queue

    @property
    def jobs(self) -> Mapping[str, Any]:
        """The processes' ``settings.JOBS``."""
        return self.stack.jobs

    @property
    def services(self) -> Services:
        """The servers themselves, not through the proxies."""
        return self.stack.services

    @property
    def api_ports(self) -> list[int]:
        """Where clients reach the API processes."""
        return [proxy.port for proxy in self.api_proxies]

    @property
    def keys_file(self) -> Path:
        """JSON: a list of ``{"owner_id", "key"}``."""
        return self.directory / "keys.json"

    @property
    def log_directory(self) -> Path:
        """A log for each process that ever ran."""
        return self.stack.directory / "logs"

    def environment(self) -> dict[str, str]:
        """That of a process of the platform which reaches the servers without a proxy."""
        return {**self.stack.environment(), **self.services.variables(), **_WITHOUT_KILL_POINTS}

    # -- questions, never through a proxy -------------------------------------------------------

    def sql(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
        """Ask the database on a connection of its own. Raises psycopg2.OperationalError."""
        return self.services.sql(statement, parameters)

    @contextmanager
    def channel(self) -> Iterator[amqp.Channel]:
        """A channel to the broker, with confirms. Raises what amqp raises."""
        with self.services.channel() as channel:
            yield channel

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.services.cache_url, socket_timeout=5)

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl``."""
        return self.servers.rabbitmq.ctl(*arguments)

    def database_time(self) -> float:
        """Seconds since the epoch on the database's clock."""
        return float(self.sql("SELECT extract(epoch FROM clock_timestamp())")[0][0])

    def holders(self) -> list[int]:
        """The pids of the workers' children that hold the running jobs."""
        rows = self.sql(
            "SELECT DISTINCT substring(a.actor_id from '/([0-9]+)$')::int FROM jobs_job AS j"
            " JOIN jobs_auditentry AS a ON a.job_id = j.id AND a.token = j.lease_token"
            " WHERE j.state = 'RUNNING' AND a.event = 'claim' AND a.actor_id LIKE '%%/%%'"
        )
        return [pid for (pid,) in rows]

    # -- places to die --------------------------------------------------------------------------

    def arm(self, point: str) -> None:
        """The next process that passes this point of the code dies there."""
        kill_points.arm(self.kill_directory, point)

    def disarm(self, point: str) -> bool:
        """Take it back; False if somebody has died there."""
        return kill_points.disarm(self.kill_directory, point)

    @contextmanager
    def silence(self, what: str) -> Iterator[None]:
        """Around the time in which the broker can confirm nothing: enter it into the ledger.

        Its first moments are left out: a confirm that came just before is still written down then.
        """
        began = time.time() + SETTLING_SECONDS
        try:
            yield
        finally:
            ended = time.time()
            if ended > began:
                self.ledger.silence(began, ended, what)

    # -- load and healing -----------------------------------------------------------------------

    def submit(self, handler: str, payload: Mapping[str, Any], count: int = 1) -> list[UUID]:
        """Submit through one of the API processes, whichever answers, and enter it in the ledger.

        Raises AssertionError if none accepts within 20 s.
        """
        jobs = [{"handler": handler, "payload": dict(payload)}] * count
        owner = self.owners[0]
        found: list[UUID] = []

        def accepted() -> bool:
            for port in self.api_ports:
                with suppress(OSError, AssertionError):
                    found[:] = _submit(port, owner["key"], jobs)
                    return True
            return False

        until(accepted, 20, lambda: f"nobody accepts {handler}")
        for job_id in found:
            self.ledger.accepted(str(job_id), owner["owner_id"], None, 201)
        return found

    def heal_everything(self) -> None:
        """Whatever a fault has left wrong in networks, processes and servers is put right."""
        for proxy in (*self.proxies.all(), *self.api_proxies):
            proxy.heal()
        for point in kill_points.POINTS:
            self.disarm(point)
        for process in self.stack.processes:
            if process.alive:
                for pid in (process.pid, *children_of(process)):
                    _continue(pid)
        for server in self.servers.all():
            record = server.record
            if record is not None:
                processes.send(record, signal.SIGCONT)
            if server.pid is None or not server.answers():
                server.restart()


def _at(url: str, port: int) -> str:
    given = urlsplit(url)
    user = given.netloc.rpartition("@")[0]
    return given._replace(netloc=f"{user}{'@' if user else ''}127.0.0.1:{port}").geturl()


def _continue(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _submit(port: int, key: str, jobs: list[dict[str, Any]]) -> list[UUID]:
    answer = Http(port, key, timeout_seconds=5).ask("POST", "/api/v1/jobs/bulk/", {"jobs": jobs})
    assert answer.status == 201, answer.body
    return [UUID(one["id"]) for one in answer.json()["jobs"]]
