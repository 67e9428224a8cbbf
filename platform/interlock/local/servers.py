"""The private servers in one place, and how another process gets hold of running ones.

with PostgresServer(directory / "postgres") as postgres: ...
attach(os.environ["INTERLOCK_TEST_SERVICES"])["rabbitmq"].restart()
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interlock.local.containers import IMAGES, ContainerServer
from interlock.local.postgres import PostgresServer
from interlock.local.rabbitmq import RabbitServer
from interlock.local.redis_server import RedisServer
from interlock.local.server import Server

__all__ = [
    "ContainerServer",
    "PostgresServer",
    "RabbitServer",
    "RedisServer",
    "Server",
    "attach",
    "start_all",
    "stop_all",
    "write_services",
]


def start_all(servers: Sequence[Server]) -> None:
    """Start side by side, then wait for each; whatever fails, nothing is left running."""
    try:
        for server in servers:
            server.launch()
        for server in servers:
            server.wait_ready()
    except BaseException:
        stop_all(servers)
        raise


def stop_all(servers: Sequence[Server]) -> None:
    """Stop in reverse order, each bounded by its own time."""
    for server in reversed(servers):
        server.stop()


def write_services(path: Path, servers: Mapping[str, Server]) -> None:
    """Describe running servers for `attach`; readable by the owner only (it holds passwords)."""
    content = {
        name: {"kind": server.name, "pid": server.pid, **server.describe()}
        for name, server in servers.items()
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(content, stream, indent=2)


def attach(path: Path | str) -> dict[str, Server]:
    """Objects for servers that another process started, by the names in the services file.

    They stop, kill and restart the same servers: the record in each directory is the authority.
    Nothing that was merely given by an environment variable is in the file.
    """
    content: dict[str, dict[str, Any]] = json.loads(Path(path).read_text())
    return {name: _attached(entry) for name, entry in content.items()}


def _attached(entry: Mapping[str, Any]) -> Server:
    directory, port = Path(entry["directory"]), int(entry["port"])
    if entry["kind"] == PostgresServer.name:
        return PostgresServer(
            directory,
            port,
            binaries=Path(entry["binaries"]),
            password=str(entry["password"]),
            durable=bool(entry["durable"]),
        )
    if entry["kind"] == RabbitServer.name:
        return RabbitServer(
            directory,
            port,
            binaries=Path(entry["binaries"]),
            extra_config=str(entry["extra_config"]),
            distribution_port=int(entry["distribution_port"]),
            epmd_port=int(entry["epmd_port"]),
        )
    if entry["kind"] == ContainerServer.name:
        return ContainerServer(IMAGES[entry["service"]], directory, port)
    binary = Path(entry["binary"]) if entry["binary"] else None
    return RedisServer(directory, port, role=entry["role"], binary=binary)
