"""The private directory: one owner, kept secrets, ports that are remembered."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from interlock.local.errors import HomeBusy
from interlock.local.home import Home
from interlock.local.ports import LOOPBACK
from interlock.local.processes import Record


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.acquire()
    return home


def test_a_second_owner_is_told_who_the_first_is(home: Home) -> None:
    second = Home(home.root)
    with pytest.raises(HomeBusy, match=r"already running on .* \(pid \d+\)"):
        second.acquire()
    home.release()
    second.acquire()


def test_the_lock_of_a_killed_owner_is_free(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from interlock.local.home import Home\n"
        "Home(Path(sys.argv[1])).acquire(); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "home")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        with pytest.raises(HomeBusy, match=str(owner.pid)):
            Home(tmp_path / "home").acquire()
        owner.kill()
        owner.wait()
    Home(tmp_path / "home").acquire()


def test_secrets_are_kept_and_private(home: Home) -> None:
    first = home.secret("secret_key")
    assert home.secret("secret_key") == first
    assert home.secret("other") != first
    assert len(home.secret("short", 12)) == 12
    mode = home.path("secrets.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_file_cut_short_by_a_crash_counts_as_absent(home: Home) -> None:
    home.path("ports.json").write_text('{"api": 80')
    assert home.read("ports.json") == {}


def test_a_remembered_port_is_kept_while_free_and_replaced_when_taken(home: Home) -> None:
    port = home.remembered_port("broker")
    assert home.remembered_port("broker") == port
    with socket.create_server((LOOPBACK, port)):
        other = home.remembered_port("broker")
    assert other != port
    assert home.remembered_port("broker") == other


def test_a_reused_pid_is_not_taken_for_the_recorded_process(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        record = Record.of(process.pid)
        record.write(tmp_path / "record.json")
        assert Record.read(tmp_path / "record.json") == record
        assert record.alive()
        assert not Record(process.pid, record.started - 60).alive()
        process.kill()
        # Not yet collected: a zombie holds nothing any more.
        while record.alive():
            pass
