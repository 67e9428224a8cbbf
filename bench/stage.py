"""A private platform to measure: servers with every durability on, and the three processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from interlock.local.errors import ServerMissing
from interlock.local.provision import choose
from interlock.local.servers import PostgresServer, Server, start_all
from interlock.local.testing import make_home, remove_home

_ROOT = Path(__file__).resolve().parent.parent
_COMMANDS = {
    "worker": ["celery", "-A", "interlock", "worker", "-Q", "default", "--concurrency", "2"],
    "relay": ["interlock", "jobs_relay"],
    "scheduler": ["interlock", "jobs_scheduler"],
}


@contextmanager
def services() -> Iterator[dict[str, psutil.Process]]:
    """Start private PostgreSQL, RabbitMQ and Redis; sets the environment of this process.

    PostgreSQL keeps fsync, full_page_writes and synchronous_commit on, and the queues are quorum
    queues: what is measured is what is promised. Yields the servers' processes by name.
    Raises ServerMissing if one of the three is not installed.
    """
    home = make_home()
    servers: dict[str, Server] = {"postgres": PostgresServer(home.path("postgres"), durable=True)}
    try:
        for name in ("rabbitmq", "redis"):
            server = choose(name, home.root)
            if server is None:
                raise ServerMissing(f"{name} is not installed; ./dev test would install it")
            servers[name] = server
        start_all(list(servers.values()))
        os.environ.update(
            DATABASE_URL=servers["postgres"].url,
            BROKER_URL=servers["rabbitmq"].url,
            CACHE_URL=servers["redis"].url,
            INTERLOCK_SECRET_KEY="bench-only-key-of-no-value",
            INTERLOCK_DATA_DIR=str(home.path("data")),
            INTERLOCK_LOG_LEVEL="WARNING",
            DJANGO_SETTINGS_MODULE="interlock.settings",
        )
        yield {name: psutil.Process(server.pid) for name, server in servers.items()}
    finally:
        for server in reversed(servers.values()):
            server.destroy()
        remove_home(home)


@contextmanager
def workers() -> Iterator[dict[str, psutil.Process]]:
    """Worker, relay and scheduler as their documented commands; ended afterwards."""
    running = {name: _start(command) for name, command in _COMMANDS.items()}
    try:
        yield {name: psutil.Process(process.pid) for name, process in running.items()}
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def cpu_seconds(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """User and system time of each process with its children, living and reaped."""
    return {name: _tree_seconds(process) for name, process in processes.items()}


def _tree_seconds(process: psutil.Process) -> float:
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    module, *arguments = command
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
