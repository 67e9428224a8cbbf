"""compose.yaml without an engine: its commands with its environments, as plain processes.

One whole life of a deployment: set up, serve, work, be found healthy, stop.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest

from interlock.local.client import Client
from tests import composefile
from tests.integration.compose_stack import Composed, broker, cache, database, until

LOOPS = ("worker", "relay", "scheduler")
REPLICAS = ("api-1", "api-2")
WEB = (*REPLICAS, "waiting")

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    values = composefile.example_values()
    directory = tmp_path_factory.mktemp("compose")
    with (
        database(values) as postgres,
        broker(values, directory) as rabbitmq,
        cache(values, directory) as redis,
    ):
        places = {"DATABASE_URL": postgres, "BROKER_URL": rabbitmq, "CACHE_URL": redis}
        stack = Composed(directory, places, values)
        try:
            yield stack
        finally:
            stack.kill()


def _set_up(stack: Composed) -> None:
    for name in ("migrate", "topology"):
        done = stack.run(name)
        assert done.returncode == 0, done.stdout + done.stderr


def _api_key(stack: Composed) -> str:
    account = ("--username", "compose", "--password", uuid.uuid4().hex, "--key-name", "compose")
    done = stack.run("api", ["python", "-m", "interlock", "jobs_bootstrap", *account])
    assert done.returncode == 0, done.stdout + done.stderr
    return str(json.loads(done.stdout.splitlines()[-1])["api_key"])


def _state(client: Client, job_id: str) -> str:
    return str(client.get(f"/api/v1/jobs/{job_id}/status/")["state"])


def test_the_commands_make_a_platform_that_works_and_stops(composed: Composed) -> None:
    _set_up(composed)
    for name in (*WEB, *LOOPS):
        composed.start(name)
    key = _api_key(composed)
    clients = [Client(f"http://127.0.0.1:{composed.ports[name]}", key) for name in WEB]
    first, second, patient = clients
    for client in clients:
        until(client.is_ready, 60, composed.logs)

    job_id = first.submit("noop", {}, "compose-1")
    until(lambda: _state(second, job_id) == "COMPLETED", 60, composed.logs)
    waited = patient.get(f"/api/v1/jobs/{job_id}/status/?wait=20")
    assert waited["state"] == "COMPLETED"
    # Upload and result cross from one process to another through the shared directory.
    source = composed.directory / "upload.csv"
    source.write_text("city,year\nLagos,2020\nLima,2021\n")
    profile = second.submit("profile", {"source": {"upload": first.upload(source)}}, "compose-2")
    until(lambda: _state(first, profile) == "COMPLETED", 60, composed.logs)

    for name in (*WEB, *LOOPS):
        until(lambda name=name: composed.healthy(name), 30, composed.logs)  # type: ignore[misc]

    codes = {name: composed.terminate(name) for name in (*LOOPS, *WEB)}
    assert codes == dict.fromkeys(codes, 0), composed.logs()
    assert not composed.healthy("worker"), "a stopped worker must not be reported healthy"


def test_setting_up_again_changes_nothing(composed: Composed) -> None:
    _set_up(composed)
    _set_up(composed)


def test_each_process_has_rights_of_its_own(composed: Composed) -> None:
    """Says aloud where this machine could not prove them."""
    without = sorted(name for name, place in composed.places.items() if not place.own_users)
    if without:
        pytest.skip(f"{', '.join(without)}: server not ours, so its users could not be made")
    for name in LOOPS:
        assert f"interlock_{name}:" in composed.environment(name)["DATABASE_URL"]
