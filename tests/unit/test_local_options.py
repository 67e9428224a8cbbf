"""Flags and variables of `./dev demo`, the words for a taken port, and which ports are chosen."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from interlock.local.errors import LocalError, PortTaken
from interlock.local.options import DEFAULT_API_PORT, checkout_root, parse
from interlock.local.ports import (
    FIRST_PORT,
    LAST_PORT,
    LOOPBACK,
    free_port,
    parse_port,
    require_free,
)


def test_defaults_keep_state_in_the_checkout_and_leave_server_ports_open() -> None:
    options = parse([], {})
    assert options.home == checkout_root() / ".local"
    assert options.api.number == DEFAULT_API_PORT
    assert options.postgres.number is options.broker.number is options.cache.number is None
    assert options.jobs
    assert not options.exit


def test_variables_are_read_and_flags_win() -> None:
    environ = {"INTERLOCK_PORT": "8100", "INTERLOCK_CACHE_PORT": "8101", "INTERLOCK_HOME": "/x/y"}
    options = parse(["--port", "8200"], environ)
    assert options.api.number == 8200
    assert options.cache.number == 8101
    assert options.home == Path("/x/y")


@pytest.mark.parametrize("text", ["", "x", "0", "65536", "-1", "80.5"])
def test_a_port_that_is_none_is_refused_by_the_name_of_its_setting(text: str) -> None:
    with pytest.raises(LocalError, match="INTERLOCK_PORT must be a port number"):
        parse_port(text, "INTERLOCK_PORT")


def test_exit_without_jobs_is_refused() -> None:
    with pytest.raises(LocalError, match="--no-jobs"):
        parse(["--exit", "--no-jobs"], {})


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        setting = parse([], {}).api.setting
        with pytest.raises(PortTaken) as caught:
            require_free("the API", port, setting)
    message = str(caught.value)
    assert str(port) in message
    assert "INTERLOCK_PORT" in message
    assert "--port" in message
    assert "\n" not in message


def test_free_ports_lie_below_those_of_outgoing_connections_and_differ() -> None:
    ports = [free_port() for _ in range(20)]
    assert len(set(ports)) == 20
    assert all(FIRST_PORT <= port < LAST_PORT for port in ports)


def test_a_management_command_without_a_platform_says_what_is_missing(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run(
        [checkout_root() / "dev", "manage", "check"],
        env={**environ, "INTERLOCK_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "./dev up" in done.stderr
    assert "DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr
