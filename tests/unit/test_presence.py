"""Beats: what a process says to its supervisor, and what ``jobs_health`` makes of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from jobs import presence


@pytest.fixture(autouse=True)
def place(tmp_path: Path, jobs_settings: Callable[..., None]) -> Iterator[Path]:
    directory = tmp_path / "health"
    jobs_settings(health_directory=str(directory))
    yield directory
    presence.forget_beat("worker")


def health(*arguments: str) -> tuple[int, str]:
    """The exit code and the words of the command."""
    import io

    said = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("jobs_health", *arguments, stdout=said)
    return int(str(ended.value.code)), said.getvalue().strip()


def test_nobody_there() -> None:
    assert health("worker") == (1, "no worker is running here")


def test_alive_and_ready() -> None:
    presence.beat("worker", ready=True)
    assert health("worker") == (0, "ok")
    assert health("worker", "--ready") == (0, "ok")
    assert health("relay")[0] == 1


def test_alive_but_not_ready() -> None:
    """What a broker's outage looks like: no reason to restart anything."""
    presence.beat("worker", ready=False, note="not connected to the broker")
    assert health("worker") == (0, "ok")
    code, said = health("worker", "--ready")
    assert (code, "not connected to the broker" in said) == (1, True)


def test_a_loop_that_stands_still() -> None:
    presence.beat("worker", ready=True, at=time.monotonic() - 31)
    code, said = health("worker")
    assert (code, "no life for 31 s" in said) == (1, True)


def test_one_of_several() -> None:
    presence.beat("worker", ready=True)
    assert health("worker", "--pid", str(os.getpid()))[0] == 0
    assert health("worker", "--pid", "1")[0] == 1


def test_the_dead_are_not_asked(place: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    presence.beat("worker", ready=True)
    _write(place, pid=gone.pid, at=0.0)
    assert health("worker") == (0, "ok")


def test_a_file_from_before_a_reboot(place: Path) -> None:
    """Another process has that pid now, and the clock began anew."""
    place.mkdir()
    _write(place, pid=os.getpid(), at=time.monotonic() + 1000)
    assert health("worker")[0] == 1


def test_a_broken_file_counts_for_nothing(place: Path) -> None:
    place.mkdir()
    (place / f"worker.{socket.gethostname()}.7.json").write_text("{")
    assert health("worker") == (1, "no worker is running here")


def test_beats_are_not_written_more_often_than_needed(place: Path) -> None:
    presence.beat("worker", ready=True)
    [file] = place.iterdir()
    before = file.stat().st_ino
    presence.beat("worker", ready=True)
    assert file.stat().st_ino == before
    presence.beat("worker", ready=False)
    assert json.loads(file.read_text())["ready"] is False


def test_what_killed_processes_left_is_swept_away(place: Path) -> None:
    place.mkdir()
    old = place / "worker.elsewhere.7.json"
    old.write_text("{}")
    os.utime(old, (0, 0))
    presence.beat("worker", ready=True)
    assert not old.exists()


def test_a_place_that_cannot_be_written_stops_nobody(
    jobs_settings: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    jobs_settings(health_directory=str(tmp_path / "file" / "health"))
    presence.beat("worker", ready=True)


def _write(place: Path, **values: Any) -> None:
    beat = {"kind": "worker", "ready": True, "note": "", **values}
    path = place / f"worker.{socket.gethostname()}.{values['pid']}.json"
    path.write_text(json.dumps(beat))
