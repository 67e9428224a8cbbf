"""The servers' configuration and the image: what other parts of the project rely on."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from django.conf import settings

from jobs import conf as jobs_conf
from tests.composefile import ROOT, SERVICES

JOBS = jobs_conf.parse({})


def dockerfile() -> list[str]:
    """Its instructions, continuation lines joined."""
    text = (SERVICES / "image" / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def settings_of(path: Path, separator: str) -> dict[str, str]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = [line.split(separator, 1) for line in lines if line and not line.startswith("#")]
    return {pair[0].strip(): pair[-1].strip().strip("'\"") for pair in pairs}


def test_the_broker_waits_longer_than_the_longest_attempt() -> None:
    conf = settings_of(SERVICES / "rabbitmq" / "rabbitmq.conf", "=")

    assert int(conf["consumer_timeout"]) > 1000 * 24 * 3600
    assert int(conf["max_message_size"]) == 64 * 1024
    assert conf["disk_free_limit.absolute"] in {"1GB", "2GB"}
    assert conf["vm_memory_high_watermark.absolute"].endswith("MB")


def test_the_truth_survives_a_crash_and_the_cache_forgets() -> None:
    postgres = settings_of(SERVICES / "postgres" / "postgresql.conf", "=")
    for name in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum"):
        assert postgres[name] == "on"

    cache = settings_of(SERVICES / "redis" / "cache.conf", " ")
    assert cache["maxmemory-policy"] == "allkeys-lru"
    assert cache["maxmemory"] == "256mb"
    assert (cache["save"], cache["appendonly"]) == ("", "no")


def _megabytes(unit: str, number: str) -> int:
    return int(number) * {"m": 1, "g": 1024}[unit]


def test_the_proxy_lets_through_what_the_api_accepts() -> None:
    conf = (SERVICES / "proxy" / "nginx.conf").read_text()
    limits = [
        _megabytes(unit, number) * 1024**2
        for number, unit in re.findall(r"client_max_body_size (\d+)([mg]);", conf)
    ]
    (read,) = set(re.findall(r"\n    proxy_read_timeout (\d+)s;", conf))

    assert len(limits) == 3
    assert JOBS.payload_limit_bytes < limits[0] <= 8 * JOBS.payload_limit_bytes
    whole = int(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    assert whole < limits[1] <= whole + 2 * 1024**2
    assert JOBS.upload_limit_bytes < limits[2] <= JOBS.upload_limit_bytes + 16 * 1024**2
    assert int(read) >= 60 + 10
    assert int(read) > JOBS.wait_limit_seconds


FORWARDING = (
    "X-Real-IP",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Forwarded-Prefix",
    "X-Script-Name",
    "Forwarded",
    "Proxy",
)


def test_the_proxy_believes_no_stranger() -> None:
    conf = (SERVICES / "proxy" / "nginx.conf").read_text()
    set_to = dict(re.findall(r"proxy_set_header ([\w-]+) (\S+);", conf))

    assert set_to["X-Forwarded-For"] == "$client_address"
    assert set_to["X-Forwarded-Proto"] == "$client_scheme"
    assert {name for name in FORWARDING if set_to.get(name) != '""'} == set()
    # One `proxy_set_header` inside a location would silently drop all of the outer ones.
    assert "proxy_set_header" not in conf.split("server {", 1)[1]
    # A query may hold a token by mistake.
    assert not re.findall(r"\$(?:request|request_uri|args|query_string)\b(?!_)", conf)
    trusted = (SERVICES / "proxy" / "trusted-proxies.conf").read_text().splitlines()
    assert all(line.startswith("#") for line in trusted)


# -- the image ----------------------------------------------------------------------------------


def test_the_image_runs_as_a_fixed_user_that_is_not_root() -> None:
    instructions = dockerfile()
    last_stage = instructions[max(i for i, x in enumerate(instructions) if x.startswith("FROM")) :]
    users = [line.split()[1] for line in last_stage if line.startswith("USER")]

    assert users == ["10001:10001"]
    assert not [line for line in last_stage if line.startswith(("HEALTHCHECK", "ENTRYPOINT"))]
    (command,) = [line for line in last_stage if line.startswith("CMD")]
    assert command.startswith("CMD [")


def test_the_image_is_built_in_stages_from_locked_wheels() -> None:
    instructions = dockerfile()
    stages = [line for line in instructions if line.startswith("FROM")]
    installs = [line for line in instructions if '"install"' in line and "-r" in line]

    assert [stage.split()[1] for stage in stages] == ["python:3.12-slim", "python:3.12-slim"]
    assert len(installs) == 2
    assert all('"--require-hashes"' in line for line in installs)
    for name in ("runtime.txt", "build.txt"):
        lock = (ROOT / "requirements" / name).read_text()
        blocks = re.split(r"\n(?=\w)", lock)
        assert all("--hash=sha256:" in block for block in blocks if "==" in block)


def _locked(name: str) -> set[str]:
    """What a lock names, as `name==version`; the conditions behind depend on who else asks."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return set(re.findall(r"^[a-z0-9][\w.-]*==[\w.]+", text, re.MULTILINE))


def test_the_image_gets_all_dependencies_in_the_versions_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {re.split(r"[\[<>=~; ]", one)[0] for one in project["project"]["dependencies"]}
    (backend,) = project["build-system"]["requires"]

    assert wanted <= {line.split("==")[0] for line in _locked("runtime")}
    assert _locked("runtime") <= _locked("embedded")
    assert backend.split(">")[0] in {line.split("==")[0] for line in _locked("build")}


def test_no_secret_is_baked_in() -> None:
    kept = [line for line in dockerfile() if line.startswith(("ENV", "ARG", "COPY"))]
    assert not [line for line in kept if re.search(r"SECRET|PASSWORD|_URL|\.env", line)]

    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert not [rule for rule in rules if rule.startswith("!") and "env" in rule]


def test_everything_copied_into_the_image_is_let_through() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied: set[str] = set()
    for line in dockerfile():
        if line.startswith("COPY") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert copied == allowed
