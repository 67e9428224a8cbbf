"""Under which conditions a run was made; figures mean nothing without them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import psutil

from bench.environments import EnvironmentMissing, peers_interpreter
from bench.place import Plan
from bench.stage import ROOT, Stage
from interlock.local import postgres

_SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
_OURS = ("django", "celery", "kombu", "djangorestframework", "psycopg2-binary", "redis", "granian")
_LOCKED = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)


def conditions(stage: Stage, plan: Plan, repeats: int) -> dict[str, object]:
    """Machine, versions, settings and the plan of the run."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mb": round(psutil.virtual_memory().total / 1e6),
        "load_at_start": round(os.getloadavg()[0], 2),
        "postgres": {name: stage.setting(name) for name in _SETTINGS},
        "servers": stage.versions(),
        "fdatasync": _fdatasync(stage),
        "versions": {name: metadata.version(name) for name in _OURS},
        "peer_versions": _peer_versions(),
        "repeats": repeats,
        "plan": asdict(plan),
        "setup": "no-op jobs with about 100 bytes of payload; two worker processes for everybody;"
        " producer, workers and all services on this machine, over loopback; RabbitMQ one node",
    }


def in_words(found: dict[str, object]) -> str:
    """The lines above the tables."""
    settings = found["postgres"]
    assert isinstance(settings, dict)
    shown = ", ".join(f"{name} {value}" for name, value in settings.items())
    return (
        f"{found['cores']} cores ({found['processor']}), Python {found['python']},"
        f" load at start {found['load_at_start']}, {found['repeats']} repetitions;"
        f" PostgreSQL: {shown}; {found['servers']}; {found['fdatasync']}\n{found['setup']}"
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else platform.processor()


def _fdatasync(stage: Stage) -> str:
    """How quick the disk under the database is, by PostgreSQL's own tool."""
    binaries = postgres.installed_binaries()
    program = binaries / "pg_test_fsync" if binaries else None
    if program is None or not program.exists():
        return "pg_test_fsync not found"
    file = stage.home.path("fsync-test")
    done = subprocess.run(
        [str(program), "-s", "1", "-f", str(file)], capture_output=True, text=True, check=False
    )
    file.unlink(missing_ok=True)
    match = re.search(r"fdatasync\s+([\d.]+ ops/sec\s+\d+ usecs/op)", done.stdout)
    return f"fdatasync {match[1]}" if match else "fdatasync not measured"


def _peer_versions() -> dict[str, str]:
    try:
        peers_interpreter()
    except EnvironmentMissing:
        return {}
    lock = (ROOT / "requirements" / "bench.txt").read_text()
    wanted = (ROOT / "requirements" / "bench.in").read_text()
    names = set(re.findall(r"^([\w-]+)", wanted, re.MULTILINE))
    return {name: version for name, version in _LOCKED.findall(lock) if name in names}
