"""Which generation of the three servers the faults happen to.

installed  what this machine has
trixie     RabbitMQ 4, Redis 8 and PostgreSQL 17 of Debian 13, in a root folder of their own

The root folder is ``INTERLOCK_TRIXIE_ROOT``, or ``~/.cache/interlock/trixie``, and is made with
debootstrap when it is not there. The servers run inside it by ``chroot``, with the run's directory
and ``/proc`` and ``/dev`` mounted. Mounting happens in a mount namespace that only this run sees:
the kernel undoes it with the last process, also after ``kill -9``. All of it needs root on Linux.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

from interlock.local import rabbitmq, redis_server
from interlock.local.accounts import Account, own_directory, reachable_directory
from interlock.local.errors import LocalError
from interlock.local.provision import install_missing, install_packages, installed
from interlock.local.servers import PostgresServer, RabbitServer, RedisServer
from tests.faults.suite.world import Servers
from tests.services import Services

Name = Literal["installed", "trixie"]
Say = Callable[[str], None]

NAMES: tuple[Name, ...] = ("installed", "trixie")
PACKAGES = "rabbitmq-server,redis-server,postgresql-17"
ROOT_VARIABLE = "INTERLOCK_TRIXIE_ROOT"
_INSIDE_VARIABLE = "INTERLOCK_FAULTS_NAMESPACE"

#: A wrapper that runs one program of the root folder; the environment passes through.
_WRAPPER = '#!/bin/sh\nexec chroot {root} {program} "$@"\n'
#: The same as another user, still ended by the kernel when its parent ends.
_AS_USER = (
    "#!/bin/sh\nexec chroot {root} setpriv --reuid={uid} --regid={gid} --clear-groups"
    ' --pdeathsig keep {program} "$@"\n'
)
_PROGRAMS = {
    "rabbitmq-server": "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "rabbitmqctl": "/usr/lib/rabbitmq/bin/rabbitmqctl",
    "epmd": "/usr/bin/epmd",
    "redis-server": "/usr/bin/redis-server",
}
_POSTGRES = "/usr/lib/postgresql/17/bin"


def servers(name: Name, home: Path, say: Say) -> Servers:
    """The three servers below ``home``, not started. Raises LocalError saying what is missing."""
    if name == "trixie":
        return _of_root_folder(_root_folder(say), home)
    install_missing([one for one in ("rabbitmq", "redis") if not installed(one)], say)
    if rabbitmq.installed_binaries() is None or redis_server.installed_binary() is None:
        raise LocalError("RabbitMQ and Redis are needed as programs; apt-get can install both")
    return Servers(
        PostgresServer(home / "postgres", durable=True),
        RabbitServer(home / "rabbitmq"),
        RedisServer(home / "redis", role="cache"),
    )


def versions(services: Services) -> dict[str, str]:
    """What the running servers say they are."""
    with services.channel() as channel:
        broker = channel.connection.server_properties
    with closing(services.redis()) as client:
        cache = client.info("server")
    [(database,)] = services.sql("SHOW server_version")
    return {
        "PostgreSQL": str(database).split()[0],
        "RabbitMQ": f"{broker['version']} ({broker['platform']})",
        "Redis": str(cache["redis_version"]),
    }


def enter_namespace(arguments: Sequence[str]) -> None:
    """Replace this process by itself in a mount namespace of its own, unless it is in one.

    Raises LocalError where that is impossible.
    """
    if os.environ.get(_INSIDE_VARIABLE):
        return
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise LocalError("--generation trixie mounts and changes root: it needs root on Linux")
    unshare = shutil.which("unshare")
    if unshare is None:
        raise LocalError("--generation trixie needs `unshare` of util-linux")
    command = [unshare, "--mount", "--propagation", "private"]
    probe = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        raise LocalError(f"this machine allows no mount namespaces: {probe.stderr.strip()}")
    python = [sys.executable, "-m", "tests.faults.suite", *arguments]
    os.execvpe(unshare, [*command, *python], {**os.environ, _INSIDE_VARIABLE: "1"})


# ------------------------------------------------------------------------------- the root folder


def _root_folder(say: Say) -> Path:
    given = os.environ.get(ROOT_VARIABLE)
    root = Path(given) if given else Path.home() / ".cache" / "interlock" / "trixie"
    if not (root / _POSTGRES.lstrip("/") / "postgres").exists():
        say(f"making {root} with debootstrap; this takes some minutes, once")
        _debootstrap(root.resolve(), say)
    return root.resolve()


def _debootstrap(root: Path, say: Say) -> None:
    """In two stages, so that no service of the folder is ever started by its own package."""
    install_packages(["debootstrap"] if shutil.which("debootstrap") is None else [], say)
    staging = root.with_name(f"{root.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    first = ["debootstrap", "--foreign", "--variant=minbase", f"--include={PACKAGES}"]
    _run([*first, "trixie", str(staging), _mirror()], _proxy_variables())
    policy = staging / "usr/sbin/policy-rc.d"
    policy.parent.mkdir(parents=True, exist_ok=True)
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    _run(["chroot", str(staging), "/debootstrap/debootstrap", "--second-stage"], {})
    hosts = staging / "etc/hosts"
    if not hosts.exists():
        hosts.write_text("127.0.0.1 localhost\n")
    shutil.rmtree(root, ignore_errors=True)
    staging.rename(root)


def _mirror() -> str:
    """The mirror that this machine's own apt gets Debian from."""
    asked = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)"]
    said = _run([*asked, "Created-By: Packages"], {})
    found = [line.split()[1] for line in said.splitlines() if line.startswith("Debian ")]
    if not found:
        raise LocalError("apt on this machine gets nothing from a Debian mirror")
    return next((uri for uri in found if "security" not in uri), found[0])


def _proxy_variables() -> dict[str, str]:
    said = _run(["apt-config", "dump", "--format", "%v%n", "Acquire::http::Proxy"], {}).strip()
    return {"http_proxy": said} if said else {}


def _run(command: Sequence[str], variables: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise LocalError(f"{command[0]} is not here") from None
    if done.returncode != 0:
        raise LocalError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-1500:]}")
    return done.stdout


# ------------------------------------------------------------------------------- servers in it


class FolderPostgres(PostgresServer):
    """PostgreSQL of the root folder: started as root, it becomes its user behind the chroot."""

    def __init__(self, directory: Path, binaries: Path, user: Account) -> None:
        super().__init__(directory, binaries=binaries, durable=True)
        self._user = user
        self.home = reachable_directory(directory, user)

    def _account(self) -> Account | None:
        return None


def _of_root_folder(root: Path, home: Path) -> Servers:
    if not os.environ.get(_INSIDE_VARIABLE):
        raise LocalError("enter_namespace comes first")
    _mount(root, home)
    user = _user_of(root)
    wrappers = home / "programs"
    own_directory(wrappers, None, 0o711)
    for name, program in _PROGRAMS.items():
        _write(wrappers / name, _WRAPPER.format(root=root, program=program))
    for name in ("initdb", "postgres"):
        program = f"{_POSTGRES}/{name}"
        text = _AS_USER.format(root=root, program=program, uid=user.uid, gid=user.gid)
        _write(wrappers / name, text)
    return Servers(
        FolderPostgres(home / "postgres", wrappers, user),
        RabbitServer(home / "rabbitmq", binaries=wrappers),
        RedisServer(home / "redis", role="cache", binary=wrappers / "redis-server"),
    )


def _mount(root: Path, home: Path) -> None:
    """The directory that ``home`` is in, at the same path inside; nobody else sees it there."""
    base = home.parent
    (root / base.relative_to("/")).mkdir(parents=True, exist_ok=True)
    _run(["mount", "--bind", str(base), f"{root}{base}"], {})
    _run(["mount", "--rbind", "/dev", str(root / "dev")], {})
    _run(["mount", "--rbind", "/proc", str(root / "proc")], {})


def _user_of(root: Path) -> Account:
    for line in (root / "etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == "postgres":
            return Account("postgres", int(fields[2]), int(fields[3]))
    raise LocalError(f"{root} has no user postgres")


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
