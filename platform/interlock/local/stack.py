"""The whole platform on one machine: embedded servers, four processes, one private directory."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from interlock.local import processes
from interlock.local.accounts import own_directory
from interlock.local.client import Client
from interlock.local.errors import LocalError
from interlock.local.home import Home
from interlock.local.options import Options, PortChoice, checkout_root
from interlock.local.ports import LOOPBACK, require_free
from interlock.local.screen import LogFollower, Screen
from interlock.local.servers import PostgresServer, RedisServer, Server, start_all, stop_all
from interlock.local.supervisor import Command, Notice, Supervisor

ACCOUNT_NAME = "demo"
READY_SECONDS = 60.0
ONE_SHOT_SECONDS = 120.0
# Longer than the worker's own limits (drain_grace_seconds and stop_grace_seconds).
WORKER_STOP_SECONDS = 30.0
# The embedded broker forgets its messages with every restart. Those that ring for waiting jobs are
# missed after this time, instead of the minute that suits a broker which keeps them.
EMBEDDED_JOBS = '{"rearm_seconds": 10}'
# Crashes in a row before the platform's start is given up; later ones are retried for ever.
MAX_START_CRASHES = 4


def sample_directory() -> Path:
    """Where the package `vega_datasets` keeps its files; found without importing pandas."""
    spec = importlib.util.find_spec("vega_datasets")
    if spec is None or not spec.submodule_search_locations:
        raise LocalError("the sample data is missing: the package vega_datasets is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "_data"


class Stack:
    """Brings the platform up, keeps it up and takes it down again.

    `start` may be interrupted anywhere; `stop` then still ends everything that was started.
    """

    def __init__(self, options: Options, screen: Screen) -> None:
        self.options = options
        self.screen = screen
        self.root = checkout_root()
        self.home = Home(options.home)
        self.api_port = options.api.number or 0
        self.servers: list[Server] = []
        self.env: dict[str, str] = {}
        self.account: dict[str, str] = {}
        self._supervisor: Supervisor | None = None
        self._supervisor_thread: threading.Thread | None = None
        self.began = False
        self._exit_code = 0
        self._follower: LogFollower | None = None
        self._quiet = True

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.api_port}"

    @property
    def logs(self) -> Path:
        return self.home.path("logs")

    def client(self) -> Client:
        return Client(self.url, self.account.get("api_key", ""))

    def start(self) -> None:
        """Until the API reports itself ready. Raises LocalError in words."""
        self.home.acquire()
        require_free("the API", self.api_port, self.options.api.setting)
        self.began = True
        left_over = processes.sweep(self.home.root)
        if left_over:
            self.screen.plain(f"ended what an earlier run left behind: {', '.join(left_over)}")
        # Closed to others: a log may hold what a process prints about itself.
        own_directory(self.logs, None, 0o700)
        with self.screen.step("PostgreSQL and two Redis servers"):
            self._start_servers()
        self.env = self._environment()
        self._write_environment_file()
        with self.screen.step("database migrated"):
            self._one_shot("migrate", "migrate", "--no-input", "-v", "1")
        self._ensure_account()
        with self.screen.step("API, worker, relay and scheduler"):
            self._start_processes()
            self._wait_ready()
        self._check_account()
        self._quiet = False

    def watch(self) -> None:
        """Bring back a server that has died; the platform's own processes wait for it."""
        for server in self.servers:
            if server.pid is None:
                self.screen.plain(f"{server.name} on port {server.port} is gone, starting it again")
                server.start()

    def stop(self) -> int:
        """End everything, the processes before the servers; 1 if something had to be killed."""
        self._quiet = True
        if self._supervisor is not None and self._supervisor_thread is not None:
            self._supervisor.request_stop()
            self._supervisor_thread.join()
        if self._follower is not None:
            self._follower.stop()
        stop_all(self.servers)
        if self.home.held:
            self.home.path("env.sh").unlink(missing_ok=True)
            processes.sweep(self.home.root)
            self.home.release()
        return self._exit_code

    def kill_now(self) -> None:
        """Cut the wait for an orderly stop short."""
        if self._supervisor is not None:
            self._supervisor.kill_now()

    # -- servers --------------------------------------------------------------------------------

    def _port(self, name: str, choice: PortChoice) -> int:
        if choice.number is not None:
            return choice.number
        return self.home.remembered_port(name)

    def _start_servers(self) -> None:
        chosen = self.options
        broker = RedisServer(
            self.home.path("broker"),
            self._port("broker", chosen.broker),
            chosen.broker.setting,
            role="broker",
        )
        cache = RedisServer(
            self.home.path("cache"),
            self._port("cache", chosen.cache),
            chosen.cache.setting,
            role="cache",
        )
        postgres = PostgresServer(
            self.home.path("postgres"),
            self._port("postgres", chosen.postgres),
            chosen.postgres.setting,
            embedded=True,
            password=self.home.secret("postgres_password"),
        )
        if broker.is_stand_in:
            self.screen.plain(
                "no Redis binary here: a stand-in in Python is used, which is slow; "
                "install redis-server or valkey-server to see real speed"
            )
        self.servers = [broker, cache, postgres]
        start_all(self.servers)

    def _environment(self) -> dict[str, str]:
        broker, cache, postgres = self.servers
        data = self.home.path("data")
        own_directory(data, None, 0o700)
        origins = [f"http://{name}:{self.api_port}" for name in (LOOPBACK, "localhost")]
        return {
            "DATABASE_URL": postgres.url,
            "BROKER_URL": broker.url,
            "CACHE_URL": cache.url,
            "INTERLOCK_SECRET_KEY": self.home.secret("secret_key"),
            "INTERLOCK_DEBUG": "0",
            "INTERLOCK_ALLOWED_HOSTS": f"{LOOPBACK},localhost",
            "INTERLOCK_CSRF_TRUSTED_ORIGINS": ",".join(origins),
            "INTERLOCK_DATA_DIR": str(data),
            "INTERLOCK_DATA_ROOTS": str(sample_directory()),
            "INTERLOCK_JOBS": os.environ.get("INTERLOCK_JOBS", EMBEDDED_JOBS),
            "INTERLOCK_LOG_LEVEL": os.environ.get("INTERLOCK_LOG_LEVEL", "INFO"),
            "DJANGO_SETTINGS_MODULE": "interlock.settings",
        }

    def _write_environment_file(self) -> None:
        """For `./dev manage` in a second terminal."""
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in self.env.items()]
        self.home.write_private("env.sh", "".join(lines))

    def _child_environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            **self.env,
            "PYTHONUNBUFFERED": "1",
            processes.MARKER: str(self.home.root),
        }

    # -- set-up commands ------------------------------------------------------------------------

    def _one_shot(self, name: str, *arguments: str) -> str:
        """Run one management command to its end; returns what it printed."""
        log = self.logs / f"{name}.log"
        log.unlink(missing_ok=True)
        process = processes.spawn(
            [sys.executable, "-m", "interlock", *arguments],
            cwd=self.root,
            env=self._child_environment(),
            log=log,
        )
        code = process.wait(timeout=ONE_SHOT_SECONDS)
        if code != 0:
            raise LocalError(f"{name} failed (exit code {code}):\n{processes.log_tail(log, 30)}")
        return log.read_text(errors="replace")

    def _ensure_account(self) -> None:
        kept = self.home.read("account.json")
        if {"username", "password", "api_key"} <= kept.keys():
            self.account = {key: str(value) for key, value in kept.items()}
        else:
            self._make_account()

    def _check_account(self) -> None:
        """The key kept here is unknown to a database that was made anew."""
        if not self.client().accepts_key():
            self._make_account()

    def _make_account(self) -> None:
        password = self.home.secret("demo_password", 12)
        with self.screen.step(f"account {ACCOUNT_NAME!r} with an API key"):
            printed = self._one_shot(
                "bootstrap",
                "jobs_bootstrap",
                *("--username", ACCOUNT_NAME, "--password", password),
                *("--staff", "--key-name", ACCOUNT_NAME),
            )
        made = _last_json_object(printed)
        self.home.path("logs", "bootstrap.log").unlink(missing_ok=True)  # it holds the key
        self.account = {
            "username": str(made["username"]),
            "password": password,
            "api_key": str(made["api_key"]),
        }
        self.home.write("account.json", self.account)

    # -- processes ------------------------------------------------------------------------------

    def commands(self) -> list[Command]:
        """In the order of starting; stopped the other way round."""
        python, port = sys.executable, str(self.api_port)
        slots = str(self.options.concurrency)
        env = self._child_environment()
        relay = (python, "-m", "interlock", "jobs_relay")
        worker = (
            *(python, "-m", "celery", "-A", "interlock", "worker", "-Q", "default"),
            *("--pool", "prefork", "--concurrency", slots),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO"),
        )
        scheduler = (python, "-m", "interlock", "jobs_scheduler")
        api = (
            *(python, "-m", "granian", "--interface", "wsgi", "interlock.wsgi:application"),
            *("--host", LOOPBACK, "--port", port, "--workers", "1", "--blocking-threads", "16"),
        )
        return [
            Command("relay", relay, env, self.root),
            Command("worker", worker, env, self.root, stop_seconds=WORKER_STOP_SECONDS),
            Command("scheduler", scheduler, env, self.root),
            Command("api", api, env, self.root, repeat_seconds=1.0),
        ]

    def _start_processes(self) -> None:
        commands = self.commands()
        supervisor = Supervisor(commands, self.logs, notify=self._on_notice)
        self._supervisor = supervisor
        if self.options.verbose:
            files = [(command.name, supervisor.log_file(command.name)) for command in commands]
            self._follower = LogFollower(self.screen, files)
            self._follower.start()
        thread = threading.Thread(target=self._supervise, args=(supervisor,), name="supervisor")
        # Never outlived by its children: they end with this thread. A daemon, so that an
        # interpreter on its way out does not wait for it before our own clean-up has run.
        thread.daemon = True
        self._supervisor_thread = thread
        thread.start()

    def _supervise(self, supervisor: Supervisor) -> None:
        self._exit_code = supervisor.run()

    def _on_notice(self, notice: Notice) -> None:
        if notice.kind == "exited" and not self._quiet:
            self.screen.plain(
                f"{notice.name} (pid {notice.pid}) ended with exit code {notice.code}, starts "
                f"again in {notice.seconds:.1f} s; log: {self.logs / notice.name}.log"
            )
        elif notice.kind == "killed":
            self.screen.plain(f"{notice.name} (pid {notice.pid}) did not stop in time: killed")

    def _wait_ready(self) -> None:
        client = self.client()
        deadline = time.monotonic() + READY_SECONDS
        while not client.is_ready():
            self._give_up_on_crashes()
            if time.monotonic() > deadline:
                tail = processes.log_tail(self.logs / "api.log")
                raise LocalError(f"the API was not ready within {READY_SECONDS:.0f} s:\n{tail}")
            time.sleep(0.1)

    def _give_up_on_crashes(self) -> None:
        if self._supervisor is None:
            return
        for command in self.commands():
            if self._supervisor.crashes(command.name) >= MAX_START_CRASHES:
                tail = processes.log_tail(self.logs / f"{command.name}.log", 30)
                raise LocalError(f"{command.name} does not come up:\n{tail}")


def _last_json_object(printed: str) -> dict[str, object]:
    """A library may have warned on the same stream before the command printed its line."""
    for line in reversed(printed.splitlines()):
        if line.startswith("{"):
            return dict(json.loads(line))
    raise LocalError(f"jobs_bootstrap printed no JSON object:\n{printed}")
