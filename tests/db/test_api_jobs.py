"""Lists, one job, its history, and the verbs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from pytest_django import DjangoAssertNumQueries

from jobs import client, lifecycle, registry
from jobs.errors import InvalidPayload
from jobs.models import AuditEntry, Job
from jobs.states import ActorKind, JobEvent, JobState
from jobs.values import Beat, LogLine, Submission
from tests.api import Api, problem
from tests.conftest import JobFactory, UserFactory
from tests.verbs import HANDLER, claim, finish

pytestmark = pytest.mark.django_db


def ids_of(answer: Any) -> list[str]:
    return [row["id"] for row in answer.json()["results"]]


# -------------------------------------------------------------------------------------------- list


def test_a_list_is_read_page_by_page_newest_first(
    api: Api,
    owner: User,
    user_factory: UserFactory,
    job_factory: JobFactory,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    jobs = job_factory(count=5, owner_id=owner.pk)
    job_factory(owner_id=user_factory().pk)
    job_factory()
    expected = [str(job.id) for job in reversed(jobs)]
    with django_assert_num_queries(2):
        first = api.get("jobs/?limit=2")
    assert ids_of(first) == expected[:2]
    # New jobs do not shift the pages that follow.
    job_factory(owner_id=owner.pk)
    second = api.get(first.json()["next"].removeprefix("/api/v1/"))
    assert ids_of(second) == expected[2:4]
    third = api.get(second.json()["next"].removeprefix("/api/v1/"))
    assert ids_of(third) == expected[4:]
    assert third.json()["next"] is None


def test_the_list_says_what_the_status_says(api: Api, owner: User, job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.COMPLETED, owner_id=owner.pk, idempotency_key="k", tenant="t")
    status = api.get(f"jobs/{job.id}/status/").json()
    [row] = api.get("jobs/").json()["results"]
    shared = set(status) & set(row) - {"links"}
    assert {name: row[name] for name in shared} == {name: status[name] for name in shared}
    assert set(status) - shared == {"result", "links"}
    assert (row["idempotency_key"], row["tenant"], row["unique_key"]) == ("k", "t", None)
    for name in ("self", "status", "transitions", "log", "artifacts", "result"):
        assert api.get(row["links"][name].removeprefix("/api/v1/")).status_code == 200


def test_filters_narrow_the_list(api: Api, owner: User, job_factory: JobFactory) -> None:
    [failed] = job_factory(JobState.FAILED, owner_id=owner.pk, tenant="a")
    [done] = job_factory(JobState.COMPLETED, owner_id=owner.pk, tenant="b")
    [noop] = job_factory(owner_id=owner.pk, handler="noop", idempotency_key="a,b c")
    hour = timedelta(hours=1)
    past, future = (quote((datetime.now(UTC) + d).isoformat()) for d in (-hour, hour))
    cases = {
        "state=FAILED": [failed],
        "state=FAILED,COMPLETED": [done, failed],
        "state=FAILED&state=COMPLETED": [done, failed],
        "handler=noop": [noop],
        "queue=default": [noop, done, failed],
        "queue=other": [],
        "tenant=a": [failed],
        "tenant=": [noop],
        "tenant=%25%25%25%25": [],
        "idempotency_key=a%2Cb+c": [noop],
        f"submitted_after={past}": [noop, done, failed],
        f"submitted_after={future}": [],
        f"submitted_before={past}": [],
        f"submitted_after={past}&submitted_before={future}&state=PENDING": [noop],
        "limit=100000": [noop, done, failed],
    }
    for query, jobs in cases.items():
        assert ids_of(api.get(f"jobs/?{query}")) == [str(job.id) for job in jobs], query


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("state=DONE", "state.0"),
        ("status=FAILED", "status"),
        ("search=%25%25", "search"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=%C3%A9", "cursor"),
        ("cursor=AAAA", "cursor"),
        ("submitted_after=yesterday", "submitted_after"),
        ("tenant=%00", "tenant"),
        ("format=xml", "format"),
    ],
)
def test_a_wrong_filter_is_named(api: Api, query: str, path: str) -> None:
    answer = api.get(f"jobs/?{query}")
    assert answer.status_code == 400
    assert [error["path"] for error in answer.json()["errors"]] == [path]


# ------------------------------------------------------------------------------------- one job


def test_a_job_is_shown_whole(
    api: Api,
    owner: User,
    job_factory: JobFactory,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    [job] = job_factory(
        JobState.COMPLETED, owner_id=owner.pk, handler="noop", payload={"sleep_seconds": 1}
    )
    with django_assert_num_queries(3):
        found = api.get(f"jobs/{job.id}/").json()
    assert found["payload"] == {"sleep_seconds": 1}
    assert found["result"] == {"answer": 42}
    assert found["artifacts"] == []
    assert found["state"] == "COMPLETED"
    assert api.get(f"jobs/{str(job.id).upper()}/").json() == found


def test_a_job_without_a_result_has_none_to_read(
    api: Api, owner: User, job_factory: JobFactory
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    problem(api.get(f"jobs/{job.id}/result/"), 404, "no_result")
    assert api.get(f"jobs/{job.id}/").json()["result"] is None


def test_audit_entries_are_listed_oldest_first(
    api: Api,
    owner: User,
    job_factory: JobFactory,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    [job] = job_factory(JobState.FAILED, owner_id=owner.pk)
    api.post(f"jobs/{job.id}/retry/", {"reason": "once more"})
    with django_assert_num_queries(3):
        entries = api.get(f"jobs/{job.id}/transitions/").json()["results"]
    assert [(e["version"], e["from_state"], e["to_state"], e["event"]) for e in entries] == [
        (1, None, "PENDING", "submit"),
        (2, "PENDING", "RUNNING", "claim"),
        (3, "RUNNING", "FAILED", "fail"),
        (4, "FAILED", "PENDING", "reopen"),
    ]
    assert entries[3]["actor"] == {"kind": "user", "id": str(owner.pk)}
    assert entries[3]["reason"] == "once more"
    assert "token" not in entries[1]
    page = api.get(f"jobs/{job.id}/transitions/?limit=3").json()
    rest = api.get(page["next"].removeprefix("/api/v1/")).json()
    assert page["results"] + rest["results"] == entries
    assert rest["next"] is None


def test_the_log_can_be_followed(api: Api, owner: User, job_factory: JobFactory) -> None:
    jobs = job_factory(owner_id=owner.pk)
    [attempt] = claim(jobs)
    lines = tuple(LogLine(datetime.now(UTC), "info", f"line {n}") for n in range(5))
    lifecycle.heartbeat([Beat(attempt.job_id, attempt.token, lines=lines)])
    path = f"jobs/{jobs[0].id}/log/"
    found = api.get(path).json()["results"]
    assert [line["message"] for line in found] == [f"line {n}" for n in range(5)]
    assert set(found[0]) == {"id", "attempt", "at", "level", "message"}
    assert api.get(f"{path}?after={found[-1]['id']}").json() == {"results": [], "next": None}
    page = api.get(f"{path}?after={found[0]['id']}&limit=2").json()
    assert page["results"] == found[1:3]
    assert api.get(page["next"].removeprefix("/api/v1/")).json()["results"] == found[3:]
    problem(api.get(f"{path}?after={2**63}"), 400, "invalid_request")
    problem(api.get(f"{path}?after=-1"), 400, "invalid_request")


# ------------------------------------------------------------------------------------------ verbs


def test_a_waiting_job_is_cancelled_with_a_reason(
    api: Api,
    owner: User,
    job_factory: JobFactory,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    # The key, the owner, the locked row, the write, and a savepoint around the two.
    with django_assert_num_queries(6):
        answer = api.post(f"jobs/{job.id}/cancel/", {"reason": "not needed"})
    said = {"id": str(job.id), "state": "CANCELLED", "version": 2, "event": "cancel"}
    assert (answer.status_code, answer.json()) == (200, said)
    entry = AuditEntry.objects.get(job_id=job.id, version=2)
    assert (entry.actor_kind, entry.actor_id) == (ActorKind.USER, str(owner.pk))
    assert entry.reason == "not needed"
    again = api.raw(f"jobs/{job.id}/cancel/", "")
    assert again.json() == {**said, "event": None}


def test_a_running_job_is_asked_to_stop(api: Api, owner: User, job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.RUNNING, owner_id=owner.pk)
    said = api.post(f"jobs/{job.id}/cancel/").json()
    assert (said["state"], said["event"]) == ("RUNNING", "request_cancel")
    assert api.get(f"jobs/{job.id}/status/").json()["cancel_requested"]


def test_what_is_completed_stays_so(api: Api, owner: User, job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.COMPLETED, owner_id=owner.pk)
    for verb in ("cancel", "retry"):
        found = problem(api.post(f"jobs/{job.id}/{verb}/"), 409, "illegal_transition")
        assert str(job.id) in found["detail"]
    assert AuditEntry.objects.filter(job_id=job.id).count() == 3


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_an_ended_job_is_retried(
    state: JobState, api: Api, owner: User, job_factory: JobFactory
) -> None:
    [job] = job_factory(state, owner_id=owner.pk)
    said = api.post(f"jobs/{job.id}/retry/").json()
    assert (said["state"], said["event"]) == ("PENDING", "reopen")
    assert api.post(f"jobs/{job.id}/retry/").json()["event"] is None


@pytest.mark.parametrize(
    "body", [{"reason": 5}, {"reason": "a\x00b"}, {"why": "x"}, {"reason": "x" * 2001}]
)
def test_a_wrong_reason_is_refused(
    body: dict[str, Any], api: Api, owner: User, job_factory: JobFactory
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    problem(api.post(f"jobs/{job.id}/cancel/", body), 400, "invalid_request")


def test_many_are_cancelled_and_retried_in_the_order_asked(
    api: Api,
    owner: User,
    job_factory: JobFactory,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    jobs = job_factory(count=20, owner_id=owner.pk)
    ids = [str(job.id) for job in reversed(jobs)]
    with django_assert_num_queries(6):
        answer = api.post("jobs/cancel/", {"ids": [*ids, ids[0]], "reason": "all of them"})
    assert [(one["id"], one["state"]) for one in answer.json()["jobs"]] == [
        (name, "CANCELLED") for name in ids
    ]
    answer = api.post("jobs/retry/", {"ids": ids})
    assert {one["state"] for one in answer.json()["jobs"]} == {"PENDING"}


def test_many_are_refused_as_a_whole(
    api: Api, owner: User, user_factory: UserFactory, job_factory: JobFactory
) -> None:
    [mine] = job_factory(owner_id=owner.pk)
    [foreign] = job_factory(owner_id=user_factory().pk)
    [done] = job_factory(JobState.COMPLETED, owner_id=owner.pk)
    unknown = uuid4()
    ids = [str(foreign.id), str(mine.id), str(unknown)]
    found = problem(api.post("jobs/cancel/", {"ids": ids}), 404, "not_found")
    assert [error["index"] for error in found["errors"]] == [0, 2]
    assert str(unknown) in found["errors"][1]["message"]
    problem(
        api.post("jobs/cancel/", {"ids": [str(mine.id), str(done.id)]}), 409, "illegal_transition"
    )
    problem(api.post("jobs/cancel/", {"ids": []}), 400, "invalid_request")
    problem(api.post("jobs/cancel/", {"ids": ["x"]}), 400, "invalid_request")
    mine.refresh_from_db()
    assert mine.state == JobState.PENDING


def test_too_many_ids_are_refused(api: Api, jobs_settings: Callable[..., None]) -> None:
    jobs_settings(bulk_limit=2)
    ids = [str(uuid4()) for _ in range(3)]
    found = problem(api.post("jobs/retry/", {"ids": ids}), 400, "invalid_request")
    assert found["errors"][0]["code"] == "too_many"


# --------------------------------------------------------------------------------------- job types


def test_job_types_are_listed_with_their_schema(api: Api) -> None:
    found = {one["name"]: one for one in api.get("job-types/").json()["results"]}
    assert set(found) == set(registry.names())
    assert found["noop"]["payload_schema"] == registry.get("noop").schema()
    assert found["noop"]["queue"] == "default"
    assert found["profile"]["timeout_seconds"] == 3600
    assert api.get("job-types/profile/").json() == found["profile"]
    problem(api.get("job-types/os.system/"), 404, "not_found")
    problem(api.get("job-types/a/b/"), 404, "not_found")


# ---------------------------------------------------------------------------------- from Python


def test_jobs_are_submitted_and_watched_from_python(owner: User) -> None:
    accepted = client.submit(HANDLER, owner=owner, priority=3, idempotency_key="k")
    assert client.submit(HANDLER, owner=owner.pk, priority=3, idempotency_key="k").created is False
    [job] = Job.objects.all()
    assert (job.id, job.priority, job.owner_id) == (accepted.job_id, 3, owner.pk)
    assert AuditEntry.objects.get().actor_id == str(owner.pk)
    finish(claim([job]), JobEvent.SUCCEED, result=[1])
    unknown = uuid4()
    found = client.status([job.id, unknown])
    assert set(found) == {job.id}
    assert (found[job.id]["state"], found[job.id]["result"]) == ("COMPLETED", [1])
    with pytest.raises(InvalidPayload, match=r"\[1\].payload.nonsense"):
        client.submit_many([Submission(HANDLER), Submission(HANDLER, {"nonsense": 1})])
    client.submit("noop")
    assert AuditEntry.objects.latest("at").actor_kind == ActorKind.SYSTEM
