"""Submitting over HTTP: validation, idempotency, bulk."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from pytest_django import DjangoAssertNumQueries

from jobs.models import AuditEntry, Job
from jobs.states import ActorKind
from tests.api import Api, problem
from tests.conftest import UserFactory
from tests.verbs import HANDLER

pytestmark = pytest.mark.django_db

ONE = {"handler": HANDLER}
#: Bodies of which one field is wrong, and its path.
WRONG_FIELDS: list[tuple[dict[str, Any], str | None]] = [
    ({}, "handler"),
    ({"handler": 5}, "handler"),
    ({"handler": "os.system"}, "handler"),
    ({"handler": "__import__"}, "handler"),
    ({"handler": "\ud800"}, "handler"),
    ({**ONE, "payload": []}, "payload"),
    ({**ONE, "payload": {"nonsense": 1}}, "payload.nonsense"),
    ({**ONE, "payload": {"\ud800": 1}}, None),
    ({**ONE, "priority": 10}, "priority"),
    ({**ONE, "priority": True}, "priority"),
    ({**ONE, "priority": "1"}, "priority"),
    ({**ONE, "max_attempts": 0}, "max_attempts"),
    ({**ONE, "queue": "elsewhere"}, "queue"),
    ({**ONE, "queue": "x" * 201}, "queue"),
    ({**ONE, "tenant": "a\x00b"}, "tenant"),
    ({**ONE, "tenant": "\ud800"}, "tenant"),
    ({**ONE, "unique_key": ""}, "unique_key"),
    ({**ONE, "due_at": "tomorrow"}, "due_at"),
    ({**ONE, "due_at": "2040-01-31T14:00:00"}, "due_at"),
    ({**ONE, "due_at": "0001-01-01T00:00:00+14:00"}, "due_at"),
    ({**ONE, "due_at": 5}, "due_at"),
    ({**ONE, "delay_seconds": -1}, "delay_seconds"),
    ({**ONE, "delay_seconds": "5"}, "delay_seconds"),
    ({**ONE, "delay_seconds": 5, "due_at": "2040-01-31T14:00:00Z"}, "due_at"),
    # What belongs to the platform alone.
    ({**ONE, "owner": 1}, "owner"),
    ({**ONE, "state": "COMPLETED"}, "state"),
    ({**ONE, "version": 9}, "version"),
    ({**ONE, "attempt": 9}, "attempt"),
    ({**ONE, "lease_token": "x"}, "lease_token"),
]
#: Bodies that are no JSON object as all readers understand it, and what is said of them.
WRONG_BODIES = [
    (b"", "invalid_request"),
    (b"[]", "invalid_request"),
    (b"null", "invalid_request"),
    (b"{", "not_json"),
    (b'{"handler": NaN}', "not_json"),
    (b'{"handler": -Infinity}', "not_json"),
    (b'{"delay_seconds": 1e999}', "not_json"),
    (b'{"n": ' + b"9" * 5000 + b"}", "not_json"),
    (b'{"handler":"a","handler":"b"}', "not_json"),
    (b'{"payload":{"x":{"a":1,"a":2}}}', "not_json"),
    (b'\xff\xfe{"handler": "a"}', "not_utf8"),
    (b'{"handler": "\xe9"}', "not_utf8"),
    (b'{"payload":' + b"[" * 40 + b"]" * 40 + b"}", "too_deep"),
    (b"[" * 5000 + b"]" * 5000, "too_deep"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "too_deep"),
]


@pytest.fixture
def api(user_factory: UserFactory, key_factory: Callable[..., str]) -> Api:
    return Api(key_factory(user_factory(username="owner")))


def test_a_job_is_accepted_and_signed_by_its_owner(api: Api) -> None:
    answer = api.post(
        "jobs/",
        {**ONE, "priority": 7, "tenant": "acme", "max_attempts": 9, "delay_seconds": 60},
    )
    assert answer.status_code == 201
    said = answer.json()
    job = Job.objects.get()
    assert answer["Location"] == f"/api/v1/jobs/{job.id}/"
    assert said == {
        "id": str(job.id),
        "state": "PENDING",
        "version": 1,
        "created": True,
        "links": {"self": answer["Location"], "status": f"{answer['Location']}status/"},
    }
    assert (job.priority, job.tenant, job.max_attempts) == (7, "acme", 9)
    assert timedelta(seconds=55) < job.due_at - job.submitted_at < timedelta(seconds=65)
    entry = AuditEntry.objects.get(job_id=job.id)
    assert (entry.actor_kind, entry.actor_id) == (ActorKind.USER, str(job.owner_id))


def test_a_job_may_wait_for_a_time(api: Api) -> None:
    due = datetime(2040, 1, 31, 12, tzinfo=UTC)
    answer = api.post("jobs/", {**ONE, "due_at": "2040-01-31T14:00:00+02:00"})
    assert answer.status_code == 201
    assert Job.objects.get().due_at == due


@pytest.mark.parametrize(("body", "path"), WRONG_FIELDS)
def test_a_wrong_field_is_named_and_nothing_is_written(
    api: Api, body: dict[str, Any], path: str | None
) -> None:
    answer = api.post("jobs/", body)
    assert answer.status_code == 400, answer.content
    errors = answer.json()["errors"]
    assert path is None or [error["path"] for error in errors] == [path]
    assert "index" not in errors[0]
    assert not Job.objects.exists()


@pytest.mark.parametrize(("body", "code"), WRONG_BODIES)
def test_a_body_that_is_no_good_json_is_refused(api: Api, body: bytes, code: str) -> None:
    problem(api.raw("jobs/", body), 400, code)


def test_a_body_of_the_wrong_kind_is_refused(api: Api) -> None:
    problem(
        api.raw("jobs/", "a=b", "application/x-www-form-urlencoded"), 415, "unsupported_media_type"
    )
    problem(api.raw("jobs/", "{}", "text/plain"), 415, "unsupported_media_type")
    problem(api.raw("jobs/", "{}", "application/json; charset=utf-16"), 400, "not_utf8")
    problem(api.raw("jobs/", "{}", Content_Encoding="gzip"), 415, "unsupported_media_type")
    problem(
        api.raw("jobs/", "", Transfer_Encoding="chunked", Content_Length=""), 411, "length_required"
    )


def test_a_body_that_is_too_large_is_refused(api: Api, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    problem(api.post("jobs/", {"handler": "x" * 1000}), 413, "too_large")


def test_a_payload_that_is_too_large_is_refused(
    api: Api, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(payload_limit_bytes=100)
    answer = api.post("jobs/", {"handler": HANDLER, "payload": {"effect": "x" * 200}})
    assert answer.status_code == 400
    assert not Job.objects.exists()


def test_the_same_key_and_body_give_the_same_job(api: Api) -> None:
    first = api.post("jobs/", ONE, Idempotency_Key="a key")
    again = api.post("jobs/", ONE, Idempotency_Key="a key")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == {**first.json(), "created": False}
    assert again["Location"] == first["Location"]


def test_the_same_key_with_another_body_is_refused(api: Api) -> None:
    api.post("jobs/", ONE, Idempotency_Key="k")
    found = problem(
        api.post("jobs/", {**ONE, "priority": 1}, Idempotency_Key="k"), 422, "idempotency_conflict"
    )
    assert found["errors"][0]["path"] == "idempotency_key"
    assert Job.objects.count() == 1


def test_a_key_belongs_to_its_owner(
    api: Api, user_factory: UserFactory, key_factory: Callable[..., str]
) -> None:
    other = Api(key_factory(user_factory()))
    mine = api.post("jobs/", ONE, Idempotency_Key="k")
    theirs = other.post("jobs/", {**ONE, "priority": 1}, Idempotency_Key="k")
    assert theirs.status_code == 201
    assert theirs.json()["id"] != mine.json()["id"]


@pytest.mark.parametrize("key", ["", " ", "x" * 181, "caf\xe9", "tab\there"])
def test_a_key_that_cannot_be_kept_is_refused(api: Api, key: str) -> None:
    found = problem(api.post("jobs/", ONE, Idempotency_Key=key), 400, "invalid_request")
    assert found["errors"][0]["path"] == "Idempotency-Key"


@pytest.mark.django_db(transaction=True)
def test_twenty_at_once_with_one_key_give_one_job(
    user_factory: UserFactory, key_factory: Callable[..., str]
) -> None:
    key = key_factory(user_factory())
    barrier = threading.Barrier(20)
    answers: list[tuple[int, str]] = []

    def submit() -> None:
        try:
            barrier.wait()
            answer = Api(key).post("jobs/", ONE, Idempotency_Key="once")
            answers.append((answer.status_code, answer.json()["id"]))
        finally:
            connection.close()

    threads = [threading.Thread(target=submit) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for status, _ in answers) == [200] * 19 + [201]
    assert {job_id for _, job_id in answers} == {str(Job.objects.get().id)}


# -------------------------------------------------------------------------------------------- bulk


def test_many_jobs_are_accepted_in_order(
    api: Api, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    api.get("jobs/")
    body = {"jobs": [{**ONE, "tenant": f"t{index}"} for index in range(500)]}
    # The key, the count of what waits, an insert of each part, and the savepoint around them that
    # the test's own transaction asks for.
    with django_assert_num_queries(9):
        answer = api.post("jobs/bulk/", body)
    assert answer.status_code == 201
    said = answer.json()["jobs"]
    assert set(said[0]) == {"id", "state", "version", "created"}
    tenants = {str(job.id): job.tenant for job in Job.objects.all()}
    assert [tenants[entry["id"]] for entry in said] == [f"t{index}" for index in range(500)]


def test_errors_of_many_carry_their_index_and_nothing_is_written(api: Api) -> None:
    body = {
        "jobs": [
            ONE,
            {"handler": "unknown"},
            {**ONE, "payload": {"nonsense": 1}},
            ONE,
            {**ONE, "queue": "elsewhere"},
        ]
    }
    answer = api.post("jobs/bulk/", body)
    assert answer.status_code == 400
    found = [(error["index"], error["path"]) for error in answer.json()["errors"]]
    assert found == [(1, "handler"), (2, "payload.nonsense"), (4, "queue")]
    assert not Job.objects.exists()


def test_malformed_entries_of_many_carry_their_index(api: Api) -> None:
    body = {"jobs": [ONE, {**ONE, "priority": 99}, {**ONE, "extra": 1}, 7, {}]}
    answer = api.post("jobs/bulk/", body)
    errors = problem(answer, 400, "invalid_request")["errors"]
    assert [(error["index"], error["path"]) for error in errors] == [
        (1, "priority"),
        (2, "extra"),
        (3, "jobs"),
        (4, "handler"),
    ]


@pytest.mark.parametrize("body", [{"jobs": []}, {"jobs": {}}, {}, {"jobs": [ONE], "extra": 1}])
def test_a_malformed_bulk_is_refused(api: Api, body: dict[str, Any]) -> None:
    problem(api.post("jobs/bulk/", body), 400, "invalid_request")


def test_too_many_are_refused(api: Api, jobs_settings: Callable[..., None]) -> None:
    jobs_settings(bulk_limit=3)
    assert api.post("jobs/bulk/", {"jobs": [ONE] * 3}).status_code == 201
    found = problem(api.post("jobs/bulk/", {"jobs": [ONE] * 4}), 400, "invalid_request")
    assert found["errors"] == [
        {"path": "jobs", "message": "4 entries; at most 3 are allowed", "code": "too_many"}
    ]


def test_one_key_covers_all_of_many(api: Api) -> None:
    body = {"jobs": [{**ONE, "tenant": str(index)} for index in range(3)]}
    first = api.post("jobs/bulk/", body, Idempotency_Key="k")
    again = api.post("jobs/bulk/", body, Idempotency_Key="k")
    assert (first.status_code, again.status_code) == (201, 200)
    assert [one["id"] for one in again.json()["jobs"]] == [
        one["id"] for one in first.json()["jobs"]
    ]
    assert Job.objects.count() == 3


@pytest.mark.parametrize("count", [1, 2, 4])
def test_one_key_with_more_or_fewer_jobs_is_refused(api: Api, count: int) -> None:
    api.post("jobs/bulk/", {"jobs": [ONE] * 3}, Idempotency_Key="k")
    answer = api.post("jobs/bulk/", {"jobs": [ONE] * count}, Idempotency_Key="k")
    problem(answer, 422, "idempotency_conflict")
    assert Job.objects.count() == 3


def test_a_single_job_costs_few_queries(
    api: Api, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(5):
        assert api.post("jobs/", ONE).status_code == 201
    # What waits is counted once a second and not for each job.
    with django_assert_num_queries(4):
        assert api.post("jobs/", ONE).status_code == 201


def test_a_key_of_this_api_survives_json(api: Api) -> None:
    answer = api.raw("jobs/", json.dumps(ONE), Idempotency_Key='"quoted/and,listed"')
    assert answer.status_code == 201
    assert Job.objects.get().idempotency_key == '"quoted/and,listed"'
