"""Servers in Docker containers: the last resort of `./dev test` on a machine without packages."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from interlock.local.errors import ServerFailed
from interlock.local.ports import LOOPBACK, require_free
from interlock.local.server import Server

LABEL = "interlock.local.home"


@dataclass(frozen=True, slots=True)
class Image:
    """What to run and how to tell that it answers: `greeting` is sent, `reply` expected first."""

    service: str
    image: str
    inner_port: int
    url: str
    greeting: bytes
    reply: bytes
    environment: tuple[str, ...] = ()


IMAGES = {
    # An SSL request, which PostgreSQL answers with N or S once it serves connections.
    "postgres": Image(
        "postgres",
        "postgres:17",
        5432,
        "postgres://interlock:interlock@{host}:{port}/interlock",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"N",
        ("POSTGRES_USER=interlock", "POSTGRES_PASSWORD=interlock", "POSTGRES_DB=interlock"),
    ),
    "rabbitmq": Image(
        "rabbitmq",
        "rabbitmq:4",
        5672,
        "amqp://guest:guest@{host}:{port}//",
        b"AMQP\x00\x00\x09\x01",
        b"\x01",
        # Docker's port forwarding does not come from the container's loopback.
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-rabbit loopback_users []",),
    ),
    "redis": Image("redis", "redis:7", 6379, "redis://{host}:{port}/0", b"PING\r\n", b"+"),
}


def docker_works() -> bool:
    """Is there a docker command with a running engine behind it?"""
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def remove_left_over(home: Path) -> None:
    """Remove containers that a killed run left behind for this directory."""
    listed = _docker("ps", "-aq", "--filter", f"label={LABEL}={home}").split()
    if listed:
        _docker("rm", "-f", "-v", *listed)


def _docker(*arguments: str, timeout_seconds: float = 300.0) -> str:
    """Five minutes: the first run downloads the image."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout_seconds, check=False
    )
    if done.returncode != 0:
        raise ServerFailed(f"docker {' '.join(arguments)} failed:\n{done.stderr.strip()}")
    return done.stdout


class ContainerServer(Server):
    """One container on a loopback port. `kill` and `restart` keep its data, `destroy` does not."""

    name: ClassVar[str] = "container"
    start_seconds: ClassVar[float] = 120.0

    def __init__(self, image: Image, directory: Path, port: int | None = None) -> None:
        super().__init__(directory, port)
        self.image = image

    @property
    def container(self) -> str:
        return f"interlock-{self.image.service}-{self.port}"

    @property
    def url(self) -> str:
        return self.image.url.format(host=LOOPBACK, port=self.port)

    @property
    def pid(self) -> int | None:
        """The container's main process as the engine's machine sees it; None when stopped."""
        try:
            return int(_docker("inspect", "-f", "{{.State.Pid}}", self.container)) or None
        except (ServerFailed, ValueError):
            return None

    def answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.settimeout(1)
                connection.sendall(self.image.greeting)
                return connection.recv(1) == self.image.reply
        except OSError:
            return False

    def launch(self) -> None:
        self._own_directory()
        # Tells a later run that containers, not only processes, may be left over.
        (self.directory.parent / "containers").touch()
        known = _docker("ps", "-aq", "--filter", f"name=^{self.container}$").strip()
        if known:
            _docker("start", self.container)
            return
        require_free(self.image.service, self.port, self.setting)
        environment = [part for item in self.image.environment for part in ("-e", item)]
        _docker(
            *("run", "-d", "--name", self.container),
            *("--label", f"{LABEL}={self.directory.parent}"),
            *("-p", f"{LOOPBACK}:{self.port}:{self.image.inner_port}"),
            *environment,
            self.image.image,
        )

    def stop(self) -> bool:
        if self.pid is not None:
            _docker("stop", "-t", "20", self.container)
        return True

    def kill(self) -> None:
        if self.pid is not None:
            _docker("kill", self.container)

    def destroy(self) -> None:
        _docker("rm", "-f", "-v", self.container)
        shutil.rmtree(self.directory, ignore_errors=True)

    def ctl(self, *arguments: str, timeout_seconds: float = 60.0) -> str:
        """`rabbitmqctl` inside the container."""
        inside = ("exec", self.container, "rabbitmqctl", "-q", *arguments)
        return _docker(*inside, timeout_seconds=timeout_seconds)

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "service": self.image.service, "container": self.container}

    def _prepare(self) -> None:
        self._own_directory()

    def _command(self) -> Sequence[str]:
        return ("docker", "start", "-a", self.container)

    def _environment(self) -> Mapping[str, str]:
        return dict(os.environ)
