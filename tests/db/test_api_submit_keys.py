"""Unique and idempotency keys over HTTP, where a job that stands answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobs.api import quota
from jobs.models import Job
from jobs.states import JobEvent
from tests.api import Api, problem
from tests.conftest import UserFactory
from tests.verbs import HANDLER, claim, finish

pytestmark = pytest.mark.django_db

ONE = {"handler": HANDLER, "unique_key": "u"}


@pytest.fixture
def new_api(user_factory: UserFactory, key_factory: Callable[..., str]) -> Callable[[], Api]:
    """Each call speaks for another owner."""
    return lambda: Api(key_factory(user_factory()))


def test_another_owners_unique_key_answers_nobody_else(new_api: Callable[[], Api]) -> None:
    mine, theirs = new_api(), new_api()
    first = theirs.post("jobs/", ONE).json()
    answer = mine.post("jobs/", ONE)
    assert answer.status_code == 201
    assert answer.json()["id"] != first["id"]
    assert mine.get(f"jobs/{answer.json()['id']}/").status_code == 200
    assert mine.post("jobs/", ONE).json()["id"] == answer.json()["id"]
    problem(mine.get(f"jobs/{first['id']}/"), 404, "not_found")


def test_a_standing_jobs_answer_is_kept_and_found_by_its_key(new_api: Callable[[], Api]) -> None:
    api = new_api()
    standing = api.post("jobs/", ONE).json()["id"]
    assert api.post("jobs/", ONE, Idempotency_Key="k").json()["id"] == standing
    finish(claim(Job.objects.all()), JobEvent.SUCCEED)
    again = api.post("jobs/", ONE, Idempotency_Key="k")
    assert (again.status_code, again.json()["id"]) == (200, standing)
    problem(
        api.post("jobs/", {**ONE, "priority": 5}, Idempotency_Key="k"), 422, "idempotency_conflict"
    )
    stranger = new_api()
    stranger.post("jobs/", ONE)
    found = [who.get("jobs/?idempotency_key=k").json()["results"] for who in (api, stranger)]
    assert [[one["id"] for one in results] for results in found] == [[standing], []]


def test_a_set_with_answers_of_standing_jobs_repeats_as_a_whole(
    new_api: Callable[[], Api], jobs_settings: Callable[..., None]
) -> None:
    api = new_api()
    standing = api.post("jobs/", ONE).json()["id"]
    body = {"jobs": [ONE, {"handler": HANDLER}, {**ONE, "unique_key": "v"}, ONE]}
    first = api.post("jobs/bulk/", body, Idempotency_Key="k").json()["jobs"]
    assert [one["created"] for one in first] == [False, True, True, False]
    assert first[0]["id"] == first[3]["id"] == standing
    jobs_settings(pending_limit_per_owner=1)
    quota.forget()
    problem(api.post("jobs/bulk/", body, Idempotency_Key="l"), 429, "quota_exceeded")
    finish(claim(Job.objects.filter(id=standing)), JobEvent.SUCCEED)
    again = api.post("jobs/bulk/", body, Idempotency_Key="k")
    assert again.status_code == 200
    assert [one["id"] for one in again.json()["jobs"]] == [one["id"] for one in first]
    # One more job in the set is another request, whatever its first jobs are.
    longer = {"jobs": [*body["jobs"], ONE]}
    problem(api.post("jobs/bulk/", longer, Idempotency_Key="k"), 422, "idempotency_conflict")
