"""Find or get the three services that tests and measurements need, without asking.

For each one: named by an environment variable, else installed here, else (RabbitMQ and Redis)
installed now from the distribution's packages, else from a wheel, else in a container.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from interlock.local import containers, postgres, rabbitmq, redis_server
from interlock.local.errors import ServerMissing
from interlock.local.servers import PostgresServer, RabbitServer, RedisServer, Server, start_all

Service = Literal["postgres", "rabbitmq", "redis"]
VARIABLES: dict[Service, str] = {
    "postgres": "DATABASE_URL",
    "rabbitmq": "BROKER_URL",
    "redis": "CACHE_URL",
}
PACKAGES: dict[Service, str] = {"rabbitmq": "rabbitmq-server", "redis": "redis-server"}
# What a ring of tests drives beside the services: the ring's folder, the program, its package.
PROGRAMS: tuple[tuple[str, str, str], ...] = (
    ("browser", "chromium", "chromium"),
    ("integration", "nginx", "nginx-light"),
)
ADVICE: dict[Service, str] = {
    "postgres": "PostgreSQL (apt-get install postgresql, or brew install postgresql)",
    "rabbitmq": "RabbitMQ (apt-get install rabbitmq-server, or brew install rabbitmq)",
    "redis": "Redis (apt-get install redis-server, or brew install redis)",
}

# Debian starts what it installs. These servers are wanted as programs only, so starting is
# forbidden for the moment, by Debian's own switch, and they are not enabled for the next boot.
APT_SCRIPT = """
set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\\nexit 101\\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT INT TERM
fi
apt-get update -q
apt-get install -q -y --no-install-recommends "$@"
if [ -d /run/systemd/system ]; then
    for package in "$@"; do systemctl disable -q "$package" 2>/dev/null || true; done
fi
"""


@dataclass(slots=True)
class Provided:
    """What was found: the environment to export, and the servers that are ours to stop."""

    environment: dict[str, str] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)


def provide(home: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> Provided:
    """Have all three services running; those started here live below `home`.

    Raises ServerMissing naming everything that is missing and how to get it.
    """
    provided = Provided()
    wanted: list[Service] = []
    for service, variable in VARIABLES.items():
        if environ.get(variable):
            say(f"{service}: as given by {variable}")
            provided.environment[variable] = environ[variable]
        else:
            wanted.append(service)
    install_missing([service for service in wanted if not installed(service)], say)
    chosen = [(service, choose(service, home)) for service in wanted]
    missing = [service for service, server in chosen if server is None]
    if missing:
        raise ServerMissing(missing_message(missing))
    for service, server in chosen:
        if server is not None:
            say(f"{service}: private server on port {server.port}")
            provided.servers[service] = server
            provided.environment[VARIABLES[service]] = server.url
    start_all(list(provided.servers.values()))
    return provided


def missing_message(missing: list[Service]) -> str:
    """Everything that is missing in one message, with each way out."""
    lines = ["these services are needed and were not found:"]
    lines += [
        f"  {ADVICE[service]}; or name a running one in {VARIABLES[service]}" for service in missing
    ]
    lines.append("Starting Docker, or running as root on Debian or Ubuntu, works as well.")
    return "\n".join(lines)


def installed(service: Service) -> bool:
    """Is the service's program on this machine, outside of wheels?"""
    if service == "postgres":
        return postgres.installed_binaries() is not None
    if service == "rabbitmq":
        return rabbitmq.installed_binaries() is not None and rabbitmq.find_epmd() is not None
    return redis_server.installed_binary() is not None


def choose(service: Service, home: Path) -> Server | None:
    """A server object, not started; None when there is no way to have one.

    The Redis stand-in is not considered: tests are about the real thing.
    """
    directory = home / service
    if service == "postgres" and (installed(service) or postgres.wheel_binaries()):
        return PostgresServer(directory, durable=False)
    if service == "rabbitmq" and installed(service):
        return RabbitServer(directory)
    if service == "redis" and (installed(service) or redis_server.wheel_binary()):
        return RedisServer(directory, role="cache")
    if containers.docker_works():
        return containers.ContainerServer(containers.IMAGES[service], directory)
    return None


def install_missing(missing: list[Service], say: Callable[[str], None]) -> None:
    """Try the distribution's packages; that it did not work shows when the program is looked for.

    Not for PostgreSQL, which is at hand as a wheel and whose package makes a cluster of its own.
    """
    install_packages([PACKAGES[service] for service in missing if service in PACKAGES], say)


def install_programs(rings: Collection[str], say: Callable[[str], None]) -> None:
    """Have the programs of these rings, if the distribution's packages can give them.

    A test that misses its program fails and says so; nothing is skipped for that reason.
    """
    found = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"
    wanted = [
        package
        for ring, program, package in PROGRAMS
        if ring in rings and shutil.which(program, path=found) is None
    ]
    install_packages(wanted, say)


def install_packages(packages: list[str], say: Callable[[str], None]) -> None:
    """Install with apt-get where that is possible without a question."""
    prefix = root_prefix()
    if not packages or prefix is None or shutil.which("apt-get") is None:
        return
    say(f"installing {' '.join(packages)} with apt-get")
    command = [*prefix, "sh", "-c", APT_SCRIPT, "apt", *packages]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        say(f"apt-get did not succeed:\n{(done.stdout + done.stderr)[-1500:]}")


def root_prefix() -> list[str] | None:
    """How to run a command as root without being asked for a password; None when impossible."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    sudo = ["sudo", "-n", "--preserve-env=DEBIAN_FRONTEND"]
    try:
        done = subprocess.run([*sudo, "true"], capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return None
    return sudo if done.returncode == 0 else None
