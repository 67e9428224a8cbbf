"""compose.yaml, judged without an engine: the specification's schema and the project's rules."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any
from urllib.parse import urlsplit

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest
from check_jsonschema.builtin_schemas import (  # type: ignore[import-untyped]  # ships no types
    get_builtin_schema,
)

from interlock.local import options
from interlock.local.screen import Screen
from interlock.local.stack import Stack
from jobs import conf as jobs_conf
from tests import composefile
from tests.composefile import COMPOSE_FILE, ROOT, SERVICES

Document = dict[str, Any]

OWN_PROCESSES = {"migrate", "topology", "api", "waiting", "worker", "relay", "scheduler"}
ONE_SHOT = {"migrate", "topology"}
SERVERS = {"postgres", "rabbitmq", "redis", "proxy"}
LONG_RUNNING = sorted((OWN_PROCESSES | SERVERS) - ONE_SHOT)
ALL = sorted(OWN_PROCESSES | SERVERS)
JOBS = jobs_conf.parse({})
DURATION = re.compile(r"^(\d+)s$")


@pytest.fixture(scope="module")
def written() -> Document:
    """As in the file, variables not replaced."""
    return composefile.load()


@pytest.fixture(scope="module")
def document() -> Document:
    """With the values of compose.env.example."""
    return composefile.resolved(composefile.example_values())


def service(document: Document, name: str) -> Document:
    return dict(document["services"][name])


def seconds(text: str) -> int:
    match = DURATION.match(text)
    assert match, f"{text!r} is not a number of seconds"
    return int(match[1])


def test_is_valid_by_the_compose_specification(written: Document, document: Document) -> None:
    validator = jsonschema.Draft202012Validator(get_builtin_schema("vendor.compose-spec"))

    for version in (written, document):
        assert [error.message for error in validator.iter_errors(version)] == []


def test_has_exactly_the_real_stack(document: Document) -> None:
    assert set(document["services"]) == OWN_PROCESSES | SERVERS
    assert int(service(document, "api")["deploy"]["replicas"]) == 2
    assert service(document, "postgres")["image"].startswith("postgres:17")
    assert service(document, "rabbitmq")["image"].startswith("rabbitmq:4")
    assert service(document, "redis")["image"].startswith("redis:8")


def test_only_the_proxy_publishes_a_port_and_it_can_be_set(written: Document) -> None:
    publishing = {name for name in ALL if service(written, name).get("ports")}
    assert publishing == {"proxy"}

    for port in service(written, "proxy")["ports"]:
        assert re.fullmatch(r"\$\{\w+:-[\d.]+\}:\$\{\w+:-\d+\}:8080", port)
    assert not any("expose" in written["services"][name] for name in ALL)


def test_the_published_port_stays_on_the_machine_unless_told_otherwise(document: Document) -> None:
    assert service(document, "proxy")["ports"] == ["127.0.0.1:8000:8080"]


@pytest.mark.parametrize("name", ALL)
def test_service_is_on_the_dedicated_network_only(document: Document, name: str) -> None:
    assert set(document["networks"]) == {"interlock"}
    assert service(document, name)["networks"] == ["interlock"]
    assert "network_mode" not in service(document, name)


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_service_has_a_bounded_health_check(document: Document, name: str) -> None:
    check = service(document, name)["healthcheck"]

    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert not check.get("disable")
    assert 0 < seconds(check["timeout"]) <= seconds(check["interval"]) + 10
    assert {"retries", "start_period"} <= set(check)


@pytest.mark.parametrize("name", ["api", "waiting", "proxy"])
def test_web_health_checks_ask_the_lightweight_endpoint(document: Document, name: str) -> None:
    command = " ".join(service(document, name)["healthcheck"]["test"])

    assert "/health/live" in command
    assert "/health/ready" not in command


@pytest.mark.parametrize("name", ["worker", "relay", "scheduler"])
def test_loops_are_asked_for_their_heartbeat(document: Document, name: str) -> None:
    check = service(document, name)["healthcheck"]["test"]
    assert check == ["CMD", "python", "-m", "interlock", "jobs_health", name]


@pytest.mark.parametrize("name", sorted(ONE_SHOT))
def test_one_shots_end_and_others_wait_for_them(document: Document, name: str) -> None:
    assert service(document, name)["restart"].startswith("on-failure")
    others = ("api", "waiting", "worker", "relay", "scheduler")
    depending = {other: service(document, other).get("depends_on", {}) for other in others}
    needed = {"migrate": set(depending), "topology": {"worker", "relay"}}[name]
    done = {"condition": "service_completed_successfully"}
    assert {other for other, on in depending.items() if on.get(name) == done} == needed


def test_the_api_starts_without_broker_and_cache(document: Document) -> None:
    needed, todo = set(), ["api"]
    while todo:
        for other in service(document, todo.pop()).get("depends_on", {}):
            if other not in needed:
                needed.add(other)
                todo.append(other)
    assert needed == {"migrate", "postgres"}


@pytest.mark.parametrize("name", ALL)
def test_commands_are_in_exec_form(document: Document, name: str) -> None:
    command = service(document, name)["command"]

    assert isinstance(command, list)
    assert all(isinstance(word, str) for word in command)
    assert "-c" not in command[:2] or command[0] in {"postgres", "nginx"}
    assert "entrypoint" not in service(document, name)


def _program(argv: list[str]) -> list[str]:
    """A command without what differs between a checkout and a container."""
    words = list(argv)
    if words[1:2] == ["-m"] and words[2] in {"celery", "granian"}:
        words = words[2:]
    elif words[1:2] == ["-m"]:
        words[0] = "python"
    for flag in ("--host", "--port", "--concurrency"):
        if flag in words:
            words[words.index(flag) + 1] = "..."
    return words


def test_processes_are_those_of_the_local_platform(document: Document) -> None:
    """One list of commands: what `./dev up` runs is what the containers run."""
    stack = Stack(options.parse([], {}), Screen())
    local = {command.name: _program(list(command.argv)) for command in stack.commands()}
    composed = {name: _program(service(document, name)["command"]) for name in local}

    assert set(local) == {"api", "worker", "relay", "scheduler"}
    assert composed == local
    for name in OWN_PROCESSES:
        assert service(document, name)["image"] == service(document, "api")["image"]


def test_one_shot_commands(document: Document) -> None:
    assert service(document, "migrate")["command"] == shlex.split(
        "python -m interlock migrate --noinput"
    )
    assert service(document, "topology")["command"] == shlex.split(
        "python -m interlock jobs_topology"
    )


def test_every_queue_has_a_worker(document: Document) -> None:
    consumed: set[str] = set()
    for name in document["services"]:
        command = document["services"][name]["command"]
        if command[0] == "celery":
            consumed |= set(command[command.index("-Q") + 1].split(","))
    assert consumed == set(JOBS.queues)


@pytest.mark.parametrize("name", ALL)
def test_containers_can_do_little(document: Document, name: str) -> None:
    this = service(document, name)

    assert this["cap_drop"] == ["ALL"]
    assert "cap_add" not in this
    assert this["security_opt"] == ["no-new-privileges:true"]
    assert this["read_only"] is True
    assert not this.get("privileged")
    assert this["logging"]["options"].keys() == {"max-size", "max-file"}
    assert this["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert this["restart"] in {"unless-stopped", "on-failure:5"}


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_servers_do_not_run_as_root(document: Document, name: str) -> None:
    assert service(document, name)["user"] not in {"", "root", "0", "0:0"}


@pytest.mark.parametrize("name", sorted(OWN_PROCESSES))
def test_own_processes_get_signals_at_the_main_process(document: Document, name: str) -> None:
    this = service(document, name)

    assert this["init"] is True
    assert this["stop_signal"] == "SIGTERM"
    assert "user" not in this, "the image names the user"


def test_the_worker_gets_longer_than_its_drain(document: Document) -> None:
    grace = seconds(service(document, "worker")["stop_grace_period"])
    assert grace >= JOBS.drain_grace_seconds + 3 * JOBS.stop_grace_seconds + 20


def test_the_api_believes_the_one_proxy_about_addresses(document: Document) -> None:
    """None, and all clients were throttled as one; two, and a client could name itself."""
    believed = {
        name: service.get("environment", {}).get("INTERLOCK_TRUSTED_PROXIES")
        for name, service in document["services"].items()
    }
    told = {name: count for name, count in believed.items() if count}
    assert told == {"api": "1", "waiting": "1"}


def test_open_requests_outlive_a_long_poll(document: Document) -> None:
    longest = JOBS.wait_limit_seconds
    assert seconds(service(document, "api")["stop_grace_period"]) > longest
    assert seconds(service(document, "proxy")["stop_grace_period"]) > longest
    assert service(document, "proxy")["stop_signal"] == "SIGQUIT"


def test_who_waits_is_held_by_coroutines_and_answered_before_the_stop(document: Document) -> None:
    this = service(document, "waiting")
    command = this["command"]
    assert command[command.index("--interface") + 1] == "asgi"
    # Beyond the backlog granian would let nobody in; each client is a socket.
    most = int(command[command.index("--backlog") + 1])
    assert JOBS.waiting_limit < most < this["ulimits"]["nofile"]["soft"]
    assert seconds(this["stop_grace_period"]) >= 10


def test_files_are_shared_by_api_and_worker(document: Document) -> None:
    directory = service(document, "api")["environment"]["INTERLOCK_DATA_DIR"]
    for name in ("api", "worker"):
        assert f"data:{directory}" in service(document, name)["volumes"]
    assert {"postgres", "rabbitmq", "data"} <= set(document["volumes"])


@pytest.mark.parametrize("name", ["api", "worker"])
def test_large_files_pass_through_a_disk_not_through_memory(document: Document, name: str) -> None:
    this = service(document, name)
    assert f"scratch:{this['environment']['TMPDIR']}" in this["volumes"]
    assert "proxy_spool:/var/cache/nginx" in service(document, "proxy")["volumes"]


def test_mounted_files_exist(document: Document) -> None:
    mounts = [mount for name in ALL for mount in service(document, name).get("volumes", [])]
    sources = {mount.split(":")[0] for mount in mounts}
    for source in sources:
        assert (ROOT / source).exists() if source.startswith(".") else source in document["volumes"]
    assert set(document["volumes"]) <= sources
    read_only = [mount for mount in mounts if mount.startswith(".")]
    assert all(mount.endswith(":ro") for mount in read_only)


# -- secrets and rights -------------------------------------------------------------------------


def test_secrets_are_required_and_never_written_down(written: Document) -> None:
    text = COMPOSE_FILE.read_text()
    variables = {
        name: {
            match["kind"] for match in composefile.VARIABLE.finditer(text) if match["name"] == name
        }
        for name in {match["name"] for match in composefile.VARIABLE.finditer(text)} - {None}
    }
    secrets = {name for name in variables if name.endswith(("_PASSWORD", "_KEY"))}

    assert len(secrets) == 8
    for name in secrets:
        assert ":?" in variables[name], f"{name} must be required"
        assert ":-" not in variables[name], f"{name} must have no default"
    for name in set(variables) - secrets:
        assert variables[name] == {":-"}, f"{name} must have a default"
    for key, value in written["x-environment"].items():
        if key.endswith("_KEY"):
            assert value.startswith("${")
    with pytest.raises(composefile.MissingVariableError):
        composefile.resolved({})


def test_the_example_lists_every_variable() -> None:
    used = {match["name"] for match in composefile.VARIABLE.finditer(COMPOSE_FILE.read_text())}
    example = composefile.EXAMPLE_FILE.read_text()

    assert used - {None} == set(composefile.example_values())
    for name in composefile.passed_on():
        assert f"\n# {name}=" in example


def _url(document: Document, name: str, variable: str) -> Any:
    return urlsplit(service(document, name)["environment"].get(variable, ""))


@pytest.mark.parametrize("name", sorted(OWN_PROCESSES))
def test_every_process_has_its_own_database_role_with_limits(document: Document, name: str) -> None:
    url = _url(document, name, "DATABASE_URL")
    sql = (SERVICES / "postgres" / "init" / "10-roles.sql").read_text()

    assert (url.hostname, url.port, url.path) == ("postgres", 5432, "/interlock")
    role = "migrate" if name in ONE_SHOT else "api" if name == "waiting" else name
    assert url.username == f"interlock_{role}"
    assert f"CREATE ROLE {url.username} LOGIN" in sql
    for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        assert re.search(rf"ALTER ROLE {url.username} SET {limit} = '\d+\w+'", sql)


def test_serving_processes_do_not_own_the_schema() -> None:
    sql = (SERVICES / "postgres" / "init" / "10-roles.sql").read_text()

    assert "OWNER TO interlock_migrate" in sql
    assert "SUPERUSER" not in sql.upper()
    grants = re.findall(r"GRANT ([\w, ]+) ON (?:TABLES|SEQUENCES)", sql)
    assert grants == ["SELECT, INSERT, UPDATE, DELETE", "USAGE, SELECT"]


def test_broker_rights_fit_the_process(document: Document) -> None:
    definitions = json.loads((SERVICES / "rabbitmq" / "definitions.json").read_text())
    rights = {
        entry["user"]: (entry["configure"], entry["write"], entry["read"])
        for entry in definitions["permissions"]
    }

    assert rights == {
        "topology": (".*", ".*", ".*"),
        "relay": ("^$", ".*", "^$"),
        "worker": ("^$", "^$", ".*"),
    }
    for name in rights:
        url = _url(document, name, "BROKER_URL")
        assert (url.username, url.hostname, url.path) == (name, "rabbitmq", "/interlock")
    for name in OWN_PROCESSES - set(rights):
        url = _url(document, name, "BROKER_URL")
        assert (url.hostname, url.username, url.password) == ("rabbitmq", None, None)


def test_broker_definitions_hold_no_password_and_no_guest() -> None:
    definitions = json.loads((SERVICES / "rabbitmq" / "definitions.json").read_text())

    assert {user["name"] for user in definitions["users"]} == {"topology", "relay", "worker"}
    assert all(re.fullmatch(r"@\w+@", user["password"]) for user in definitions["users"])
    assert all(user["tags"] == "" for user in definitions["users"])
    assert [vhost["name"] for vhost in definitions["vhosts"]] == ["interlock"]
    assert definitions["vhosts"][0]["metadata"]["default_queue_type"] == "quorum"


def test_the_cache_user_is_limited_to_one_prefix(document: Document) -> None:
    rules = (SERVICES / "redis" / "users.acl").read_text().splitlines()
    words = rules[1].split()

    assert rules[0].split()[:3] == ["user", "default", "off"]
    assert f"~{JOBS.cache_prefix}:*" in words
    assert not {word for word in words if word.startswith("+@") or word in {"~*", "&*", "nopass"}}
    assert not {"+flushall", "+flushdb", "+config", "+keys", "+scan", "+debug"} & set(words)
    assert _url(document, "api", "CACHE_URL").username == words[1]
