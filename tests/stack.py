"""The platform as it is deployed: its documented commands as real processes on real services.

    with Stack(services, template, directory) as stack:
        stack.start()
        ids = stack.submit("stack.nap", {"marks": ...}, count=20)
        stack.wait_for("COMPLETED", ids)
        stack.check(ids)

Nothing here sleeps blindly: readiness and progress are read from the tables and from files.
"""

from __future__ import annotations

import json
import re
import secrets
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from uuid import UUID

import psutil
import psycopg2

from interlock.local import processes
from interlock.local.ports import free_port
from jobs.verification import verify
from tests.http_client import Answer, Http
from tests.marks import Marks, until
from tests.services import ROOT, Services, database, environment, forget_keys, forget_queues

Role = Literal["api", "waiting", "worker", "relay", "scheduler"]
ROLES: tuple[Role, ...] = ("api", "worker", "relay", "scheduler")

COMMANDS: dict[Role, str] = {
    "api": (
        "granian --interface wsgi interlock.wsgi:application --host 127.0.0.1 --port {port}"
        " --workers 1 --blocking-threads 16"
    ),
    "waiting": (
        "granian --interface asgi interlock.asgi:application --host 127.0.0.1 --port {port}"
        " --workers 1 --loop asyncio --http 1 --no-ws --http1-buffer-size 8192 --backlog 16384"
    ),
    "worker": (
        "celery -A interlock worker -Q {queue} --pool prefork --concurrency 2"
        " --without-gossip --without-mingle --without-heartbeat -l INFO"
    ),
    "relay": "python -m interlock jobs_relay",
    "scheduler": "python -m interlock jobs_scheduler",
}

#: Everything that waits, waits shortly. The ratios are those of the defaults.
TIMINGS: dict[str, float] = {
    "lease_seconds": 3.0,
    "heartbeat_seconds": 0.5,
    "stop_grace_seconds": 1.0,
    "drain_grace_seconds": 2.0,
    "rearm_seconds": 2.0,
    "rearm_cap_seconds": 4.0,
    "maintenance_poll_seconds": 0.2,
    "relay_take_seconds": 3.0,
    "publish_timeout_seconds": 3.0,
    "worker_stale_seconds": 6.0,
}


class Process:
    """One running role. Only its own pids are ever signalled."""

    def __init__(self, role: Role, popen: subprocess.Popen[bytes], log: Path, port: int) -> None:
        """``port`` is where an API process listens; the others have none."""
        self.role = role
        self.log = log
        self.port = port
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def children(self) -> list[int]:
        """The pids of its children, such as the pool's."""
        return [int(child.pid) for child in psutil.Process(self.pid).children(recursive=True)]

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def terminate(self, seconds: float) -> int:
        """SIGTERM to the main process alone, as a supervisor does; its exit code.

        Fails if it has not ended by itself within ``seconds``.
        """
        self.send(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float) -> int:
        """Its exit code. Fails if it has not ended by itself within ``seconds``."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.role} did not end within {seconds:g} s") from None

    def kill(self) -> None:
        """``kill -9`` of it and its children at once, as when memory runs out."""
        record = processes.Record.of(self.pid)
        family = [record, *processes.descendants(record), *processes.session_members(self.pid)]
        processes.kill_all(family)
        self._popen.wait(10)

    def said(self, pattern: str) -> bool:
        """Whether its log has such a line."""
        return re.search(pattern, self.log.read_text(errors="replace")) is not None

    def wait_said(self, pattern: str, seconds: float = 20) -> None:
        until(lambda: self.said(pattern), seconds, lambda: f"{self.role} never said {pattern!r}")


class Stack:
    """A platform of its own: database, queues, cache keys, files and processes."""

    def __init__(
        self,
        services: Services,
        template: str,
        directory: Path,
        *,
        queue: str = "",
        data_roots: str = "",
        through: Callable[[Services], Services] = lambda services: services,
        variables: Mapping[str, str] | None = None,
        **jobs: Any,
    ) -> None:
        """``queue`` defaults to a name that nobody else uses; ``jobs`` overrides settings.JOBS.

        ``through`` says by which way the processes reach the services, and ``variables`` is what
        else they find in their environment.
        """
        self.name = f"stack_{secrets.token_hex(4)}"
        self.queue = queue or self.name
        self.dead_letter_queue = f"{self.queue}.dead"
        self.directory = directory / self.name
        self.jobs = {
            **TIMINGS,
            "queues": [self.queue],
            "dead_letter_queue": self.dead_letter_queue,
            "cache_prefix": self.name,
            "health_directory": str(self.directory / "health"),
            **jobs,
        }
        self.services = services
        self.port = free_port()
        self.key = ""
        self._staff_key = ""
        self.processes: list[Process] = []
        self._template = template
        self._data_roots = data_roots
        self._through = through
        self._variables = dict(variables or {})
        self._connection: psycopg2.extensions.connection | None = None
        self._exits = ExitStack()
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        for part in ("data", "logs", "marks"):
            (self.directory / part).mkdir(parents=True)
        self.services = self._exits.enter_context(
            database(self.services, self.name, self._template)
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._exits:
            self.stop()
            self._hang_up()
            forget_queues(self.services, [self.queue, self.dead_letter_queue])
            forget_keys(self.services, self.name)

    # -- processes ------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        return environment(
            self._through(self.services),
            self.directory,
            INTERLOCK_JOBS=json.dumps(self.jobs),
            INTERLOCK_DATA_ROOTS=self._data_roots,
            **self._variables,
        )

    def start(self, *roles: Role) -> list[Process]:
        """Start these, or one of each, side by side, and wait until each is at work."""
        started = [self.spawn(role) for role in roles or ROLES]
        if not self.key:
            self.key = self._bootstrap()
        for process in started:
            until(lambda p=process: self.ready(p), 60, self.tails)  # type: ignore[misc] # a lambda's default
        return started

    def heal(self) -> None:
        """Start what is missing of the four roles, for the next test."""
        present = {process.role for process in self.processes if process.alive}
        missing = [role for role in ROLES if role not in present]
        if missing:
            self.start(*missing)

    def the(self, role: Role) -> Process:
        """The newest living process of this role."""
        return next(p for p in reversed(self.processes) if p.role == role and p.alive)

    def stop(self) -> None:
        """End everything: asked first, killed after a bounded time."""
        living = [process for process in self.processes if process.alive]
        for process in living:
            process.send(signal.SIGCONT)
            process.send(signal.SIGTERM)
        deadline = time.monotonic() + 15
        for process in living:
            while process.alive and time.monotonic() < deadline:
                time.sleep(0.02)
            process.kill()

    def tails(self) -> str:
        """The end of every log, for a message that helps."""
        return "\n".join(
            f"--- {p.log.name} ({'alive' if p.alive else 'ended'})\n{processes.log_tail(p.log, 40)}"
            for p in self.processes
        )

    def spawn(
        self,
        role: Role,
        *,
        port: int | None = None,
        variables: Mapping[str, str] | None = None,
        leashed: bool | None = None,
    ) -> Process:
        """Start one process and return at once; ``leashed`` as in ``processes.spawn``."""
        self._counts[role] += 1
        log = self.directory / "logs" / f"{role}-{self._counts[role]}.log"
        port = port or self.port
        command = COMMANDS[role].format(port=port, queue=self.queue).split()
        env = {**self.environment(), **(variables or {})}
        popen = processes.spawn(command, cwd=ROOT, env=env, log=log, leashed=leashed)
        process = Process(role, popen, log, port)
        self.processes.append(process)
        return process

    def ready(self, process: Process) -> bool:
        """Whether it is at work. Fails if it has ended."""
        assert process.alive, f"{process.role} ended\n{processes.log_tail(process.log, 60)}"
        if process.role in {"api", "waiting"}:
            try:
                return Http(process.port).get("/health/ready").status == 200
            except OSError:
                return False
        return bool(
            self.sql(
                "SELECT 1 FROM jobs_worker WHERE kind = %(kind)s AND pid = %(pid)s"
                " AND stopped_at IS NULL",
                {"kind": process.role, "pid": process.pid},
            )
        )

    def wait_settled(self, port: int | None = None, seconds: float = 10) -> None:
        """Wait until the copies that this API process compares with their rows stay believed.

        Not so while it cannot know whether Redis failed a moment ago: just after its own start.
        """
        if not self._staff_key:
            self._staff_key = self._bootstrap("overseer", "--staff")
        http = Http(port or self.port, self._staff_key)

        def settled() -> bool:
            return bool(http.get("/health/ready?verbose").json()["cache"] == "ok")

        until(settled, seconds, self.tails)

    def _bootstrap(self, username: str = "stack", *options: str) -> str:
        account = ("--username", username, "--password", secrets.token_hex(8))
        done = subprocess.run(
            ["python", "-m", "interlock", "jobs_bootstrap", *account, *options],
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout.splitlines()[-1])["api_key"])

    # -- what a client does ---------------------------------------------------------------------

    @property
    def http(self) -> Http:
        return Http(self.port, self.key)

    def submit(
        self, handler: str, payload: Mapping[str, Any] | None = None, *, count: int = 1
    ) -> list[UUID]:
        """Submit equal jobs in one request; fails unless all are accepted."""
        job = {"handler": handler, "payload": dict(payload or {})}
        answer = self.http.ask("POST", "/api/v1/jobs/bulk/", {"jobs": [job] * count})
        assert answer.status == 201, answer.body
        return [UUID(one["id"]) for one in answer.json()["jobs"]]

    def cancel(self, job_id: UUID, reason: str = "") -> Answer:
        return self.http.ask("POST", f"/api/v1/jobs/{job_id}/cancel/", {"reason": reason})

    def retry(self, job_id: UUID, reason: str = "") -> Answer:
        return self.http.ask("POST", f"/api/v1/jobs/{job_id}/retry/", {"reason": reason})

    def status(self, job_id: UUID) -> Answer:
        return self.http.get(f"/api/v1/jobs/{job_id}/status/")

    def marks(self) -> Marks:
        """A new directory for the handlers of ``tests.testapp``."""
        place = self.directory / "marks" / secrets.token_hex(4)
        place.mkdir()
        return Marks(place)

    # -- what the broker holds ------------------------------------------------------------------

    def messages(self) -> int:
        """Doorbells in the queue that no worker has fetched."""
        return self._queue_says()[0]

    def consumers(self) -> int:
        """Workers that consume the queue, as the broker counts them."""
        return self._queue_says()[1]

    def _queue_says(self) -> tuple[int, int]:
        with self.services.channel() as channel:
            declared = channel.queue_declare(self.queue, passive=True)
            assert declared is not None
            return int(declared[1]), int(declared[2])

    def purge(self) -> int:
        """Empty the queue behind everybody's back; returns how many doorbells were in it."""
        with self.services.channel() as channel:
            return channel.queue_purge(self.queue) or 0

    def delete_queue(self) -> None:
        with self.services.channel() as channel:
            channel.queue_delete(self.queue)

    # -- what the tables say --------------------------------------------------------------------

    def sql(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
        """Run one statement on a connection that is kept, and made anew after a restart."""
        try:
            return self._run(statement, parameters)
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            self._hang_up()
            return self._run(statement, parameters)

    def _run(self, statement: str, parameters: Mapping[str, Any] | None) -> list[Any]:
        if self._connection is None:
            self._connection = self._connect()
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def _connect(self) -> psycopg2.extensions.connection:
        opened = psycopg2.connect(self.services.database_url)
        opened.autocommit = True
        return opened

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def states(self, ids: Collection[UUID]) -> dict[UUID, str]:
        rows = self.sql(
            "SELECT id::text, state FROM jobs_job WHERE id = ANY(%(ids)s::uuid[])", _ids(ids)
        )
        return {UUID(job_id): state for job_id, state in rows}

    def wait_for(self, state: str, ids: Collection[UUID], seconds: float = 60) -> None:
        """Wait until all of these jobs are in this state."""
        until(
            lambda: list(self.states(ids).values()) == [state] * len(ids),
            seconds,
            lambda: f"{state} wanted, found {Counter(self.states(ids).values())}",
        )

    def job(self, job_id: UUID) -> dict[str, Any]:
        return self._rows("SELECT * FROM jobs_job WHERE id = ANY(%(ids)s::uuid[])", [job_id])[0]

    def audit(self, *ids: UUID) -> list[dict[str, Any]]:
        """The history of these jobs, in order."""
        return self._rows(
            "SELECT * FROM jobs_auditentry WHERE job_id = ANY(%(ids)s::uuid[])"
            " ORDER BY job_id, version",
            ids,
        )

    def events(self, job_id: UUID) -> list[str]:
        return [entry["event"] for entry in self.audit(job_id)]

    def outbox(self, *ids: UUID) -> list[dict[str, Any]]:
        """The doorbells of these jobs, also of those that share an outbox row."""
        return self._rows(
            "SELECT member AS job_id, job_version, handler, queue, priority, due_at, created_at,"
            " taken_until, published_at, tries, rearms FROM jobs_outboxentry"
            " CROSS JOIN LATERAL unnest(job_id || others) AS member"
            " WHERE member = ANY(%(ids)s::uuid[]) ORDER BY id, member",
            ids,
        )

    def owner_id(self) -> int:
        """The user whom the key belongs to."""
        ((owner_id,),) = self.sql("SELECT id FROM auth_user WHERE username = 'stack'")
        return int(owner_id)

    def wait_published(self, ids: Collection[UUID], seconds: float = 20) -> None:
        """Wait until no doorbell of these jobs is left to ring."""
        until(
            lambda: all(row["published_at"] for row in self.outbox(*ids)),
            seconds,
            lambda: f"unpublished: {[r for r in self.outbox(*ids) if not r['published_at']][:3]}",
        )

    def check(self, ids: Collection[UUID]) -> None:
        """These jobs are COMPLETED, and nothing is wrong with any: see ``jobs.verification``."""
        self.wait_for("COMPLETED", ids)
        self.wait_published(ids)
        report = verify(open_connection=self._connect)
        assert report.ok, "\n".join(line for one in report.broken for line in one.examples)

    def _rows(self, statement: str, ids: Collection[UUID]) -> list[dict[str, Any]]:
        rows = self.sql(f"SELECT row_to_json(found) FROM ({statement}) AS found", _ids(ids))
        return [row[0] for row in rows]


def _ids(ids: Collection[UUID]) -> dict[str, Any]:
    return {"ids": [str(job_id) for job_id in ids]}
