"""The interpreter of the peers: a virtual environment of their own, from a lock of their own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from functools import cache

from bench.catalogue import Cell
from bench.stage import ROOT

_LOCK = ROOT / "requirements" / "bench.txt"
_HOME = ROOT / ".venv-bench"


class EnvironmentMissing(Exception):
    """The peers' packages cannot be installed; says what pip said."""


def interpreter_for(cell: Cell) -> str:
    """Ours run in the product's environment. Raises EnvironmentMissing for a peer without one."""
    return peers_interpreter() if cell.in_peers_environment else sys.executable


@cache
def peers_interpreter() -> str:
    """Made on first use and again when the lock has changed."""
    python = _HOME / "bin" / "python"
    stamp = _HOME / ".interlock-lock"
    wanted = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return str(python)
    print(f"[bench] installing {_LOCK.relative_to(ROOT)} in {_HOME}", file=sys.stderr, flush=True)
    venv.create(_HOME, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-input"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--require-hashes", "-r", str(_LOCK)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[-1] if said else f"exit code {done.returncode}"
        raise EnvironmentMissing(f"pip could not install {_LOCK.name}: {reason[:500]}")
    stamp.write_text(wanted)
    return str(python)
