"""A private RabbitMQ node beside whatever broker the machine already runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from interlock.local import processes
from interlock.local.errors import ServerFailed, ServerMissing
from interlock.local.ports import LOOPBACK, free_port
from interlock.local.server import Server

INSTALLED_DIRECTORIES = (
    Path("/usr/lib/rabbitmq/bin"),
    Path("/opt/homebrew/opt/rabbitmq/sbin"),
    Path("/usr/local/opt/rabbitmq/sbin"),
)
EPMD_PATTERNS = (
    "usr/lib/erlang/erts-*/bin/epmd",
    "opt/homebrew/opt/erlang/lib/erlang/erts-*/bin/epmd",
    "usr/local/opt/erlang/lib/erlang/erts-*/bin/epmd",
)
AMQP_GREETING = b"AMQP\x00\x00\x09\x01"


def installed_binaries() -> Path | None:
    """The directory with `rabbitmq-server` and `rabbitmqctl`, PATH first.

    Debian's commands on PATH are one wrapper that switches to the user `rabbitmq`, who cannot
    enter our private directory; the scripts behind it run as anybody.
    """
    on_path = shutil.which("rabbitmq-server")
    candidates = list(INSTALLED_DIRECTORIES)
    if on_path and Path(on_path).resolve().name == "rabbitmq-server":
        candidates.insert(0, Path(on_path).resolve().parent)
    for directory in candidates:
        if all((directory / name).exists() for name in ("rabbitmq-server", "rabbitmqctl")):
            return directory
    return None


def find_epmd() -> Path | None:
    """Erlang's port mapper daemon, which every node registers with."""
    on_path = shutil.which("epmd")
    if on_path:
        return Path(on_path)
    return next((match for pattern in EPMD_PATTERNS for match in Path("/").glob(pattern)), None)


class RabbitServer(Server):
    """One node, listening on 127.0.0.1 only, user `guest`, no plugins.

    It brings its own epmd: the usual one is started as a daemon by the first node of a machine
    and stays for ever, which a test must not do. Runs as the current user, root included.
    """

    name: ClassVar[str] = "rabbitmq"
    start_seconds: ClassVar[float] = 90.0
    stop_seconds: ClassVar[float] = 30.0

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        setting: str = "",
        *,
        binaries: Path | None = None,
        extra_config: str = "",
        distribution_port: int | None = None,
        epmd_port: int | None = None,
    ) -> None:
        """`extra_config` is appended to the node's configuration file (`key = value` lines)."""
        super().__init__(directory, port, setting)
        self._wanted_binaries = binaries
        self.extra_config = extra_config
        self.distribution_port = distribution_port or free_port()
        self.epmd_port = epmd_port or free_port()
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def node(self) -> str:
        """Unique on the machine through its port; `localhost` resolves everywhere."""
        return f"interlock-{self.port}@localhost"

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}//"

    def answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(AMQP_GREETING)
                # A method frame (Connection.Start); anything else is not a ready broker.
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def ctl(self, *arguments: str, timeout_seconds: float = 60.0) -> str:
        """Run `rabbitmqctl` against this node and return what it prints.

        Raises ServerFailed with its output, or subprocess.TimeoutExpired. Starting the tool alone
        takes about two seconds.
        """
        command = [str(self._binaries() / "rabbitmqctl"), "-q", "-n", self.node, *arguments]
        done = subprocess.run(
            command,
            env=dict(self._environment()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        if done.returncode != 0:
            said = f"{done.stdout}{done.stderr}"
            raise ServerFailed(f"rabbitmqctl {' '.join(arguments)} failed:\n{said}")
        return done.stdout

    def stop(self) -> bool:
        clean = super().stop()
        self._stop_epmd()
        return clean

    def describe(self) -> dict[str, object]:
        return {
            **super().describe(),
            "binaries": str(self._binaries()),
            "extra_config": self.extra_config,
            "distribution_port": self.distribution_port,
            "epmd_port": self.epmd_port,
            "node": self.node,
        }

    # -- preparation ----------------------------------------------------------------------------

    def _binaries(self) -> Path:
        found = self._wanted_binaries or installed_binaries()
        if found is None:
            raise ServerMissing("found no rabbitmq-server")
        return found

    def _prepare(self) -> None:
        self._own_directory()
        for part in ("home", "mnesia", "log", "generated", "conf.d"):
            (self.directory / part).mkdir(exist_ok=True)
        for empty in ("env.conf", "enabled_plugins"):
            (self.directory / empty).write_text("")
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "advanced.config").write_text("[].\n")
        lines = [
            f"listeners.tcp.local = {LOOPBACK}:{self.port}",
            "log.console = true",
            "log.console.level = info",
            "log.file = false",
            self.extra_config,
        ]
        (self.directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        self._start_epmd()

    def _environment(self) -> Mapping[str, str]:
        # The person's own RABBITMQ_* and ERL_* settings belong to another broker.
        foreign = ("RABBITMQ_", "ERL_", "NOTIFY_SOCKET")
        inherited = {key: val for key, val in os.environ.items() if not key.startswith(foreign)}
        own = self.directory
        return {
            **inherited,
            processes.MARKER: str(own.parent),
            "HOME": str(own / "home"),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"
            ),
            "RABBITMQ_CONF_ENV_FILE": str(own / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(own / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(own / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(own / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(own / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(own / "generated"),
            "RABBITMQ_MNESIA_BASE": str(own / "mnesia"),
            "RABBITMQ_LOG_BASE": str(own / "log"),
            "RABBITMQ_LOGS": "-",
            # Makes the start script replace itself by the node instead of waiting for it, so the
            # recorded pid is the broker's own.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _command(self) -> Sequence[str]:
        return [str(self._binaries() / "rabbitmq-server")]

    # -- epmd -----------------------------------------------------------------------------------

    @property
    def _epmd_record_file(self) -> Path:
        return self.directory / "epmd.pid.json"

    def _epmd_answers(self) -> bool:
        try:
            socket.create_connection((LOOPBACK, self.epmd_port), timeout=1).close()
        except OSError:
            return False
        return True

    def _start_epmd(self) -> None:
        record = processes.Record.read(self._epmd_record_file)
        if record is not None and record.alive():
            return
        program = find_epmd()
        if program is None:
            raise ServerMissing("found no epmd, which belongs to Erlang")
        self._epmd = processes.spawn(
            [str(program), "-address", LOOPBACK, "-port", str(self.epmd_port)],
            cwd=self.directory,
            env=self._environment(),
            log=self.directory / "epmd.log",
        )
        processes.Record.of(self._epmd.pid).write(self._epmd_record_file)
        deadline = time.monotonic() + 10
        while not self._epmd_answers():
            if self._epmd.poll() is not None or time.monotonic() > deadline:
                tail = processes.log_tail(self.directory / "epmd.log")
                raise ServerFailed(f"epmd did not come up on port {self.epmd_port}:\n{tail}")
            time.sleep(0.02)

    def _stop_epmd(self) -> None:
        record = processes.Record.read(self._epmd_record_file)
        if record is not None:
            processes.stop(record, signal.SIGTERM, 5)
        if self._epmd is not None:
            self._epmd.wait(timeout=5)
            self._epmd = None
        self._epmd_record_file.unlink(missing_ok=True)
