"""`./dev test`: when servers are needed, and what is said when one cannot be had."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from interlock.local import provision
from interlock.local.errors import ServerMissing
from interlock.local.options import checkout_root
from interlock.local.testing import named_rings, needs_servers, spread

GIVEN = {
    "DATABASE_URL": "postgres://a@db/b",
    "BROKER_URL": "amqp://mq",
    "CACHE_URL": "redis://cache",
}


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        ([], True),
        (["-k", "x"], True),
        (["tests"], True),
        (["tests/unit"], False),
        (["tests/unit", "-k", "tests_of_something"], False),
        (["tests/unit/test_local_testing.py::test_x", "-q"], False),
        (["tests/unit", "tests/db"], True),
        (["tests/unit/../db"], True),
    ],
)
def test_servers_are_started_unless_only_unit_tests_are_named(
    arguments: list[str], needed: bool
) -> None:
    assert needs_servers(arguments, checkout_root()) is needed


def test_programs_are_got_for_the_rings_that_are_named() -> None:
    root = checkout_root()
    assert named_rings(["tests/browser", "-q"], root) == {"browser"}
    assert named_rings(["tests/db/test_guard.py::test_x", "tests/unit"], root) == {"db", "unit"}
    assert {"browser", "integration"} <= named_rings(["-k", "x"], root)
    assert {"browser", "integration"} <= named_rings(["tests"], root)


@pytest.mark.parametrize(
    ("arguments", "processors", "count"),
    [
        ([], 2, "2"),
        (["tests/db", "-q"], 2, "2"),
        (["-k", "x"], 16, "4"),
        ([], 1, None),
        (["tests/db/test_guard.py"], 2, None),
        (["tests/db/test_guard.py::test_x"], 2, None),
        (["tests", "--pdb"], 2, None),
        (["-n", "0"], 2, None),
        (["-n3"], 2, None),
    ],
)
def test_whole_folders_are_run_by_several_processes(
    arguments: list[str], processors: int, count: str | None
) -> None:
    before = ["-n", count, "--dist", "loadfile"] if count else []
    assert spread(arguments, processors) == [*before, *arguments]


def test_services_named_by_variables_are_used_as_they_are(tmp_path: Path) -> None:
    said: list[str] = []
    provided = provision.provide(tmp_path, GIVEN, said.append)
    assert provided.environment == GIVEN
    assert provided.servers == {}
    assert len(said) == 3


def test_everything_that_is_missing_is_named_at_once_with_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision, "installed", lambda _service: False)
    monkeypatch.setattr(provision, "root_prefix", lambda: None)
    monkeypatch.setattr(provision, "choose", lambda _service, _home: None)
    with pytest.raises(ServerMissing) as caught:
        provision.provide(tmp_path, {"DATABASE_URL": "postgres://a@db/b"}, lambda _line: None)
    message = str(caught.value)
    assert "RabbitMQ" in message
    assert "BROKER_URL" in message
    assert "CACHE_URL" in message
    assert "apt-get install rabbitmq-server" in message
    assert "PostgreSQL" not in message


def test_apt_is_asked_only_for_what_is_missing_and_has_a_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(provision, "root_prefix", lambda: ["true"])
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/apt-get")
    provision.install_missing(["postgres"], asked.append)
    assert asked == []
    provision.install_missing(["postgres", "rabbitmq"], asked.append)
    assert asked == ["installing rabbitmq-server with apt-get"]
