"""What `./dev up` and `./dev demo` can be told, by flag or by environment variable."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from interlock.local.errors import LocalError
from interlock.local.ports import parse_port

DEFAULT_API_PORT = 8000


def checkout_root() -> Path:
    """The directory with `pyproject.toml`, or the current one when installed from a wheel."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pyproject.toml").exists() else Path.cwd()


@dataclass(frozen=True, slots=True)
class PortChoice:
    """A port and how to change it. `number` None: any free one, kept for the next start."""

    number: int | None
    setting: str


@dataclass(frozen=True, slots=True)
class Options:
    """Validated choices for one run of the local platform."""

    home: Path
    api: PortChoice
    postgres: PortChoice
    broker: PortChoice
    cache: PortChoice
    jobs: bool
    exit: bool
    verbose: bool
    concurrency: int
    timeout_seconds: float


def parser() -> argparse.ArgumentParser:
    """Flags shared by `./dev demo` and `./dev up`."""
    result = argparse.ArgumentParser(
        prog="./dev demo",
        description="Run the whole platform on this machine, on servers of its own.",
        epilog="Ports also by INTERLOCK_PORT, INTERLOCK_POSTGRES_PORT, INTERLOCK_BROKER_PORT and "
        "INTERLOCK_CACHE_PORT; state is kept in .local/ or in INTERLOCK_HOME.",
    )
    add = result.add_argument
    add("--exit", action="store_true", help="end after the sample jobs; 0 if all completed")
    add("--no-jobs", action="store_true", help="only serve (what `./dev up` does)")
    add("--verbose", action="store_true", help="show the output of all processes")
    add("--port", metavar="N", help=f"port of the API (default {DEFAULT_API_PORT})")
    add("--postgres-port", metavar="N", help="port of PostgreSQL (default: a free one)")
    add("--broker-port", metavar="N", help="port of the Redis broker (default: a free one)")
    add("--cache-port", metavar="N", help="port of the Redis cache (default: a free one)")
    add("--concurrency", metavar="N", type=int, default=2, help="jobs at a time (default 2)")
    add(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=180.0,
        help="how long the sample jobs may take (default 180)",
    )
    return result


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Flags win over environment variables. Raises LocalError for nonsense."""
    given = parser().parse_args(argv)
    if given.concurrency < 1:
        raise LocalError("--concurrency must be at least 1")
    if given.exit and given.no_jobs:
        raise LocalError("--exit ends after the sample jobs, so it does not go with --no-jobs")
    home = environ.get("INTERLOCK_HOME")
    return Options(
        home=Path(home).expanduser() if home else checkout_root() / ".local",
        api=_port(given.port, environ, "INTERLOCK_PORT", "--port", DEFAULT_API_PORT),
        postgres=_port(given.postgres_port, environ, "INTERLOCK_POSTGRES_PORT", "--postgres-port"),
        broker=_port(given.broker_port, environ, "INTERLOCK_BROKER_PORT", "--broker-port"),
        cache=_port(given.cache_port, environ, "INTERLOCK_CACHE_PORT", "--cache-port"),
        jobs=not given.no_jobs,
        exit=given.exit,
        verbose=given.verbose,
        concurrency=given.concurrency,
        timeout_seconds=given.timeout,
    )


def _port(
    given: str | None,
    environ: Mapping[str, str],
    variable: str,
    flag: str,
    default: int | None = None,
) -> PortChoice:
    setting = f"{flag} or {variable}"
    if given is not None:
        return PortChoice(parse_port(given, flag), setting)
    if environ.get(variable):
        return PortChoice(parse_port(environ[variable], variable), setting)
    return PortChoice(default, setting)
