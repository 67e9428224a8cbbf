"""`./dev test`: pytest on real PostgreSQL, RabbitMQ and Redis, whatever the machine has.

    python -m interlock.local.testing [PYTEST ARGUMENTS]

Exports DATABASE_URL, BROKER_URL and CACHE_URL, and INTERLOCK_TEST_SERVICES: a JSON file from
which `servers.attach` makes objects that stop, kill and restart the private servers. Whole folders
are run by several pytest processes at once, file by file; `-n 0` is one. Everything that was
started is gone afterwards. Returns pytest's exit code, 2 when a service is missing.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from interlock.local import containers, processes
from interlock.local.accounts import own_directory, reachable, server_account
from interlock.local.errors import HomeBusy, LocalError
from interlock.local.home import Home
from interlock.local.options import checkout_root
from interlock.local.provision import Provided, install_programs, provide
from interlock.local.servers import write_services

PREFIX = "interlock-test-"
INTERRUPTED = 130
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# From a request to end until pytest is killed: tear-downs may stop servers and workers.
TEAR_DOWN_SECONDS = 60.0


class Interrupted(BaseException):
    """A stop signal while no test runs yet."""


def say(message: str) -> None:
    print(f"[test] {message}", file=sys.stderr, flush=True)


def needs_servers(arguments: Sequence[str], root: Path) -> bool:
    """False when only `tests/unit` is named, the ring that touches no server."""
    unit = root / "tests" / "unit"
    named = [argument.split("::")[0] for argument in arguments if not argument.startswith("-")]
    paths = [(root / name).resolve() for name in named if (root / name).exists()]
    return not paths or not all(path.is_relative_to(unit) for path in paths)


def named_rings(arguments: Sequence[str], root: Path) -> set[str]:
    """The folders below `tests/` that these pytest arguments run; all if none is named."""
    tests = root / "tests"
    named = [argument.split("::")[0] for argument in arguments if not argument.startswith("-")]
    paths = [path for name in named if (path := (root / name).resolve()).is_relative_to(tests)]
    below = [path.relative_to(tests).parts for path in paths if path.exists()]
    if not below or () in below:
        return {path.name for path in tests.iterdir() if path.is_dir()}
    return {parts[0] for parts in below}


def spread(arguments: Sequence[str], processors: int) -> list[str]:
    """The arguments, for several processes if whole folders are run and nobody said how many.

    Most of a test's time is waiting for other processes, so two per processor would fit; what is
    tested has bounds in time, so it is one, and no more than four.
    """
    single = any("::" in argument or argument.endswith(".py") for argument in arguments)
    chosen = any(argument.startswith(("-n", "--numprocesses", "--pdb")) for argument in arguments)
    if single or chosen or processors < 2:
        return list(arguments)
    return ["-n", str(min(processors, 4)), "--dist", "loadfile", *arguments]


def make_home() -> Home:
    """A fresh locked directory where also another account, for PostgreSQL, gets through."""
    account = server_account()
    bases = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108  # mkdtemp
    fitting = [base for base in bases if base.is_dir() and os.access(base, os.W_OK)]
    if account is not None:
        fitting = [base for base in fitting if reachable(base / "x", account)]
    if not fitting:
        raise LocalError(f"none of {bases} can be used for temporary files")
    remove_left_over(fitting[0])
    home = Home(Path(tempfile.mkdtemp(prefix=PREFIX, dir=fitting[0])))
    home.acquire()
    return home


def remove_left_over(base: Path) -> None:
    """End and remove what a killed run left: directories of ours whose lock nobody holds."""
    for directory in base.glob(f"{PREFIX}*"):
        lock = directory / "lock"
        # An empty lock file is a run that is just beginning.
        if directory.stat().st_uid != os.geteuid() or not lock.exists() or not lock.stat().st_size:
            continue
        stale = Home(directory)
        try:
            stale.acquire()
        except (HomeBusy, LocalError):
            continue
        remove_home(stale)


def remove_home(home: Home) -> None:
    """Kill whoever belongs to it, then remove it."""
    processes.sweep(home.root)
    if home.path("containers").exists():
        containers.remove_left_over(home.root)
    shutil.rmtree(home.root, ignore_errors=True)
    home.release()


class PytestRun:
    """The pytest process. In the foreground of a terminal it shares our process group, so that
    Ctrl-C and a debugger work as usual; elsewhere it has its own and signals are passed on."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._shares_terminal = in_foreground()
        command = processes.leash([sys.executable, "-m", "pytest", *arguments], signal.SIGTERM)
        self._process = subprocess.Popen(
            command,
            cwd=checkout_root(),
            env=dict(environment),
            start_new_session=not self._shares_terminal,
        )
        self._signals = 0

    def wait(self) -> int:
        """pytest's exit code, or 128 + n when signal n ended it."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._pass_on)
        code = self._process.wait()
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if number == signal.SIGINT and self._shares_terminal:
            return  # the terminal has sent it to both
        if self._signals > 2:
            self._process.kill()
            return
        # Also for SIGTERM: pytest runs its tear-downs after an interrupt, not after that.
        self._process.send_signal(signal.SIGINT)
        signal.signal(signal.SIGALRM, lambda *_: self._process.kill())
        signal.setitimer(signal.ITIMER_REAL, TEAR_DOWN_SECONDS)


def in_foreground() -> bool:
    """Are we the foreground job of a terminal?"""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def environment_for(home: Home, provided: Provided) -> dict[str, str]:
    """What pytest and the processes that tests start are to see."""
    services = home.path("services.json")
    write_services(services, provided.servers)
    temporary = home.path("tmp")
    own_directory(temporary, None, 0o711)
    data = home.path("data")
    own_directory(data, None, 0o700)
    return {
        "INTERLOCK_SECRET_KEY": secrets.token_hex(24),
        "INTERLOCK_DATA_DIR": str(data),
        **os.environ,
        **provided.environment,
        "INTERLOCK_TEST_SERVICES": str(services),
        # Tests' own temporary files go with the directory, also after a kill.
        "TMPDIR": str(temporary),
        processes.MARKER: str(home.root),
    }


def run(arguments: Sequence[str], home: Home) -> int:
    provided = Provided()
    if needs_servers(arguments, checkout_root()):
        install_programs(named_rings(arguments, checkout_root()), say)
        provided = provide(home.root, os.environ, say)
    try:
        spread_out = spread(arguments, os.cpu_count() or 1)
        return PytestRun(spread_out, environment_for(home, provided)).wait()
    finally:
        for server in reversed(provided.servers.values()):
            server.destroy()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted


def main(arguments: Sequence[str]) -> int:
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)
    home: Home | None = None
    try:
        home = make_home()
        return run(arguments, home)
    except LocalError as error:
        say(str(error))
        return 2
    except Interrupted:
        return INTERRUPTED
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if home is not None:
            remove_home(home)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
