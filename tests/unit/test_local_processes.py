"""Nothing that was started may stay: after a kill of the parent, and at the next start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from interlock.local import processes
from interlock.local.accounts import Account, reachable
from interlock.local.processes import MARKER, Record

ENDLESS = "import signal\nprint('up', flush=True)\nwhile True: signal.pause()"
# A parent that starts a leashed child, tells its pid and waits.
PARENT = """
import os, signal, sys
from pathlib import Path
from interlock.local import processes
child = processes.spawn(
    [sys.executable, "-c", "import signal\\nwhile True: signal.pause()"],
    cwd=Path(sys.argv[1]), env=os.environ, log=None,
)
print(child.pid, flush=True)
signal.pause()
"""


@contextmanager
def running(code: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, **environment}
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells of the death")
def test_a_leashed_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    with running(PARENT, str(tmp_path)) as parent:
        child = Record.of(int(said(parent)))
        assert child.alive()
        parent.kill()
        assert processes.wait_gone(child, 20)


def test_a_sweep_ends_what_carries_the_directory_and_nothing_else(tmp_path: Path) -> None:
    ours, others = tmp_path / "ours", tmp_path / "others"
    with (
        running(ENDLESS, **{MARKER: str(ours)}) as left_over,
        running(ENDLESS, **{MARKER: str(others)}) as stranger,
    ):
        assert said(left_over) == said(stranger) == "up"
        killed = processes.sweep(ours)
        assert len(killed) == 1
        assert str(left_over.pid) in killed[0]
        assert left_over.wait(20) < 0
        assert stranger.poll() is None


def test_a_command_that_cannot_run_says_so_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    process = processes.spawn([str(tmp_path / "missing")], cwd=tmp_path, env=os.environ, log=log)
    assert process.wait(20) == 1
    assert "cannot run" in processes.log_tail(log)


def test_the_tail_of_a_log_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {number}\n" for number in range(10_000)))
    assert processes.log_tail(log, 3) == "line 9997\nline 9998\nline 9999"
    assert processes.log_tail(tmp_path / "missing") == ""


def test_an_account_reaches_only_below_directories_that_let_it_pass(tmp_path: Path) -> None:
    stranger = Account("stranger", 54321, 54321)
    inner = tmp_path / "inner"
    inner.mkdir(mode=0o711)
    tmp_path.chmod(0o711)
    outside = reachable(tmp_path, stranger)  # whatever lies above is not ours to decide
    assert reachable(inner / "file", stranger) is outside
    tmp_path.chmod(0o700)
    assert not reachable(inner / "file", stranger)
    tmp_path.chmod(0o750)
    assert not reachable(inner / "file", stranger)
    member = Account("member", 54321, tmp_path.stat().st_gid)
    assert reachable(inner / "file", member) is reachable(tmp_path, member)
