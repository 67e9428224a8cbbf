"""The main job, the whole way: submitted over HTTP, run by a worker, read from Redis."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from socket import gethostname
from typing import Any
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoDbBlocker

from tests.inside import inside
from tests.marks import until
from tests.services import Services, database_name
from tests.stack import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]

WEATHER_ROWS = 1461
SVG = "{http://www.w3.org/2000/svg}svg"


def test_profile_from_submit_to_completed(stack: Stack, sample_data: Path) -> None:
    source = {"path": str(sample_data / "seattle-weather.csv")}
    answer = stack.http.ask(
        "POST", "/api/v1/jobs/", {"handler": "profile", "payload": {"source": source}}
    )
    assert answer.status == 201, answer.body
    job_id = UUID(answer.json()["id"])
    stack.check([job_id])

    _check_weather(stack, job_id)
    _check_artifact(stack, job_id)
    _check_history(stack, job_id)
    [row] = stack.outbox(job_id)
    assert (row["job_version"], row["queue"], row["tries"], row["rearms"]) == (1, stack.queue, 1, 0)
    assert row["created_at"] <= row["published_at"]


def _check_weather(stack: Stack, job_id: UUID) -> None:
    status = stack.status(job_id).json()
    assert status["state"] == "COMPLETED"
    assert (status["version"], status["attempt"], status["progress"]["fraction"]) == (3, 1, 1.0)
    assert status["submitted_at"] <= status["started_at"] <= status["finished_at"]
    result = stack.http.get(status["links"]["result"]).json()
    assert result["rows"] == WEATHER_ROWS
    names = [column["name"] for column in result["columns"]]
    assert names == ["date", "precipitation", "temp_max", "temp_min", "wind", "weather"]
    assert result == stack.http.get(status["links"]["self"]).json()["result"]


def _check_artifact(stack: Stack, job_id: UUID) -> None:
    [artifact] = stack.http.get(f"/api/v1/jobs/{job_id}/artifacts/").json()["results"]
    assert artifact["name"] == "histograms.svg"
    download = stack.http.get(artifact["links"]["self"])
    assert download.status == 200
    assert download.headers["content-type"] == artifact["media_type"] == "image/svg+xml"
    assert hashlib.sha256(download.body).hexdigest() == artifact["sha256"]
    assert len(download.body) == artifact["size_bytes"]
    assert ET.fromstring(download.body).tag == SVG


def _check_history(stack: Stack, job_id: UUID) -> None:
    entries = stack.audit(job_id)
    worker, token = entries[1]["actor_id"], entries[1]["token"]
    owner = str(stack.owner_id())
    names = (
        "version", "event", "from_state", "to_state", "actor_kind", "actor_id", "attempt", "token",
    )  # fmt: skip
    assert [tuple(entry[name] for name in names) for entry in entries] == [
        (1, "submit", None, "PENDING", "user", owner, 0, None),
        (2, "claim", "PENDING", "RUNNING", "worker", worker, 1, token),
        (3, "succeed", "RUNNING", "COMPLETED", "worker", worker, 1, token),
    ]
    assert {entry["reason"] for entry in entries} == {""}
    pool = stack.the("worker")
    assert worker in {f"{gethostname()}:{pool.pid}/{child}" for child in pool.children()}
    times = [datetime.fromisoformat(entry["at"]) for entry in entries]
    assert times == sorted(times)
    assert len({entry["txid"] for entry in entries}) == 3
    shown = stack.http.get(f"/api/v1/jobs/{job_id}/transitions/").json()["results"]
    assert [one["event"] for one in shown] == ["submit", "claim", "succeed"]
    assert [one["actor"] for one in shown] == [
        {"kind": "user", "id": owner}, *[{"kind": "worker", "id": worker}] * 2
    ]  # fmt: skip


def test_status_asks_the_database_nothing(stack: Stack, django_db_blocker: DjangoDbBlocker) -> None:
    [job_id] = stack.submit("noop")
    stack.wait_for("COMPLETED", [job_id])
    bearer = {"Authorization": f"Bearer {stack.key}"}
    with inside(stack, django_db_blocker):
        client, path = Client(), f"/api/v1/jobs/{job_id}/status/"
        client.get(path, headers=bearer)  # the key's copy is made, should nobody have asked yet
        with CaptureQueriesContext(connection) as queries:
            answer = client.get(path, headers=bearer)
            many = client.post(
                "/api/v1/jobs/status/",
                {"ids": [str(job_id)]},
                content_type="application/json",
                headers=bearer,
            )
        assert queries.captured_queries == []
        assert answer.json()["state"] == "COMPLETED"
        assert many.json()["statuses"] == [answer.json()]

        with CaptureQueriesContext(connection) as queries:
            assert client.get(f"/api/v1/jobs/{job_id}/", headers=bearer).status_code == 200
        assert queries.captured_queries, "the count would have been 0 whatever happened"


def test_status_is_answered_while_the_database_is_gone(stack: Stack) -> None:
    marks = stack.marks()
    [job_id] = stack.submit("stack.hold", {"marks": str(marks.directory)})
    marks.wait_started(1)
    # A server believes no copies in its first seconds: Redis may have failed just before.
    stack.wait_settled()
    assert stack.status(job_id).json()["state"] == "RUNNING"
    name = database_name(stack.services.database_url)
    elsewhere = Services.given()
    elsewhere.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        elsewhere.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %(name)s",
            {"name": name},
        )
        assert stack.http.get(f"/api/v1/jobs/{job_id}/").status == 503
        answers = [stack.status(job_id) for _ in range(20)]
    finally:
        elsewhere.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert [answer.status for answer in answers] == [200] * 20
    assert answers[-1].json()["state"] == "RUNNING"
    marks.open()
    stack.check([job_id])


def test_outbox_rows_are_of_their_entrys_transaction(stack: Stack) -> None:
    """Asked while no relay can touch the rows, so that they still bear their first writer."""
    stack.the("relay").terminate(10)
    [job_id] = stack.submit("noop")
    assert stack.cancel(job_id).status == 200
    assert stack.retry(job_id).status == 200
    pairs = stack.sql(
        "SELECT a.version, a.txid %% (2::bigint ^ 32)::bigint, o.xmin::text::bigint"
        " FROM jobs_auditentry AS a LEFT JOIN jobs_outboxentry AS o"
        " ON o.job_id = a.job_id AND o.job_version = a.version"
        " WHERE a.job_id = %(id)s AND a.to_state = 'PENDING' ORDER BY a.version",
        {"id": str(job_id)},
    )
    assert [version for version, _, _ in pairs] == [1, 3]
    assert all(txid == xmin for _, txid, xmin in pairs), pairs
    stack.start("relay")
    stack.check([job_id])
    assert stack.events(job_id) == ["submit", "cancel", "reopen", "claim", "succeed"]


def test_profile_of_an_upload(stack: Stack, sample_data: Path) -> None:
    answer = stack.http.upload("stocks.csv", (sample_data / "stocks.csv").read_bytes())
    assert answer.status == 201, answer.body
    [job_id] = stack.submit("profile", {"source": {"upload": answer.json()["id"]}})
    stack.check([job_id])
    result = stack.http.get(f"/api/v1/jobs/{job_id}/result/").json()
    assert result["rows"] == 560
    assert [column["name"] for column in result["columns"]] == ["symbol", "date", "price"]


def test_async_handler(stack: Stack) -> None:
    marks = stack.marks()
    ids = stack.submit("stack.async", {"marks": str(marks.directory)}, count=2)
    marks.wait_started(2)
    marks.open()
    stack.check(ids)
    assert stack.status(ids[0]).json()["result"] == {"attempt": 1}


@pytest.mark.parametrize("handler", ["stack.hold", "stack.deaf", "stack.async"])
def test_cancel_of_a_running_job(stack: Stack, handler: str) -> None:
    marks = stack.marks()
    [job_id] = stack.submit(handler, {"marks": str(marks.directory)})
    marks.wait_started(1)
    answer = stack.cancel(job_id, "ordered twice")
    assert (answer.status, answer.json()["event"]) == (200, "request_cancel")
    # Heartbeat 0.5 s, and for who does not listen a grace of 1 s more before he is interrupted.
    stack.wait_for("CANCELLED", [job_id], seconds=3 if handler == "stack.hold" else 6)

    entries = stack.audit(job_id)
    assert [(e["event"], e["to_state"], e["actor_kind"]) for e in entries] == [
        ("submit", "PENDING", "user"),
        ("claim", "RUNNING", "worker"),
        ("request_cancel", "RUNNING", "user"),
        ("cancel", "CANCELLED", "worker"),
    ]
    assert entries[2]["reason"] == "ordered twice"
    assert entries[2]["token"] == entries[1]["token"] == entries[3]["token"]
    assert not marks.all("finished")
    until(lambda: stack.status(job_id).json()["state"] == "CANCELLED", 5)
    assert stack.cancel(job_id).json()["event"] is None


def test_retry_with_backoff(stack: Stack) -> None:
    [job_id] = stack.submit("stack.flaky", {"failures": 2})
    stack.check([job_id])
    entries = stack.audit(job_id)
    assert [entry["event"] for entry in entries] == [
        "submit", "claim", "retry", "claim", "retry", "claim", "succeed",
    ]  # fmt: skip
    assert [e["reason"] for e in entries if e["event"] == "retry"] == [
        "ValueError: failure 1",
        "ValueError: failure 2",
    ]
    times = [datetime.fromisoformat(entry["at"]) for entry in entries]
    pauses = [(times[3] - times[2]).total_seconds(), (times[5] - times[4]).total_seconds()]
    assert pauses[0] >= 0.2
    assert pauses[1] >= 0.4
    job = stack.job(job_id)
    assert (job["attempt"], job["failed_attempts"], job["lost_attempts"]) == (3, 2, 0)
    log = stack.http.get(f"/api/v1/jobs/{job_id}/log/").json()["results"]
    assert [(line["attempt"], line["level"]) for line in log] == [(1, "error"), (2, "error")]
    assert "ValueError: failure 1" in log[0]["message"]


def test_budget_is_used_up(stack: Stack) -> None:
    [job_id] = stack.submit("stack.flaky", {"failures": 99})
    stack.wait_for("FAILED", [job_id])
    assert stack.status(job_id).json()["reason"] == ("attempt 3 of 3 failed: ValueError: failure 3")
    assert stack.events(job_id)[-2:] == ["claim", "fail"]


def test_permanent_failure_and_a_second_chance(stack: Stack) -> None:
    [job_id] = stack.submit("stack.refuse", {"reason": "no such customer"})
    stack.wait_for("FAILED", [job_id])
    until(lambda: stack.status(job_id).json()["reason"] == "no such customer", 5)
    assert stack.events(job_id) == ["submit", "claim", "fail"]

    assert stack.retry(job_id, "now there is").json()["event"] == "reopen"
    until(lambda: stack.job(job_id)["version"] == 6, 20, stack.tails)
    assert stack.events(job_id) == ["submit", "claim", "fail", "reopen", "claim", "fail"]
    assert stack.job(job_id)["failed_attempts"] == 1


def test_timeout(stack: Stack) -> None:
    [job_id] = stack.submit("stack.slow")
    stack.wait_for("FAILED", [job_id])
    assert stack.job(job_id)["reason"] == "attempt 1 of 1 failed: ran longer than 0.5 s"


def test_idempotent_submit(stack: Stack) -> None:
    def submit(key: str, payload: dict[str, Any]) -> Any:
        body = {"handler": "noop", "payload": payload}
        return stack.http.ask("POST", "/api/v1/jobs/", body, {"Idempotency-Key": key})

    first, again = submit("order-1", {}), submit("order-1", {})
    assert (first.status, again.status) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert not again.json()["created"]
    other = submit("order-1", {"sleep_seconds": 1})
    assert (other.status, other.json()["code"]) == (422, "idempotency_conflict")
    stack.check([UUID(first.json()["id"])])
    late = submit("order-1", {})
    assert (late.status, late.json()["state"]) == (200, "COMPLETED")


def test_bulk_of_two_hundred(stack: Stack) -> None:
    ids = stack.submit("noop", {}, count=200)
    assert len(set(ids)) == 200
    stack.check(ids)
    answer = stack.http.ask("POST", "/api/v1/jobs/status/", {"ids": [str(i) for i in ids]})
    assert [UUID(one["id"]) for one in answer.json()["statuses"]] == ids
    assert {one["state"] for one in answer.json()["statuses"]} == {"COMPLETED"}


def test_wait_hears_of_the_change(stack: Stack) -> None:
    """News travels from the worker's process over Redis to the waiting request."""
    marks = stack.marks()
    [job_id] = stack.submit("stack.hold", {"marks": str(marks.directory)})
    marks.wait_started(1)
    until(lambda: stack.status(job_id).json()["version"] == 2, 5)
    seen = stack.status(job_id).headers["etag"]
    path = f"/api/v1/jobs/{job_id}/status/"
    assert stack.http.ask("GET", path, headers={"If-None-Match": seen}).status == 304
    marks.open()
    answer = stack.http.ask("GET", f"{path}?wait=20", headers={"If-None-Match": seen})
    assert (answer.status, answer.json()["state"]) == (200, "COMPLETED")
