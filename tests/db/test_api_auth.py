"""Keys, scopes, sessions, and what strangers are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import redis
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from jobs import keys
from jobs.models import ApiKey, Job, Scope
from jobs.states import JobState
from tests.api import BASE, Api, problem
from tests.conftest import JobFactory, UserFactory
from tests.verbs import HANDLER

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer ilk_short",
        "Bearer ilk_" + "x" * 43,
        "Bearer two parts",
        "Bearer ilk_\udcff\xff\xfe".encode("utf-8", "surrogateescape").decode("latin-1"),
        "Bearer ilk_" + "é" * 40,
        "Bearer ilk_" + "x" * 10_000,
        "Basic YWRtaW46YWRtaW4=",
        "ilk_" + "x" * 43,
        "",
    ],
)
def test_what_is_no_key_is_refused(header: str) -> None:
    answer = Client().get(BASE + "jobs/", HTTP_AUTHORIZATION=header)
    problem(answer, 401, "invalid_key")
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_without_a_key_the_way_to_authenticate_is_named() -> None:
    answer = Api().get("jobs/")
    problem(answer, 401, "not_authenticated")
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_a_key_in_the_query_string_counts_for_nothing(
    user_factory: UserFactory, key_factory: Callable[..., str]
) -> None:
    key = key_factory(user_factory())
    problem(Api().get(f"jobs/?token={key}&api_key={key}"), 401, "not_authenticated")


def test_a_revoked_key_is_refused_at_once(
    redis_cache: redis.Redis, user_factory: UserFactory, key_factory: Callable[..., str]
) -> None:
    api = Api(key_factory(user_factory()))
    assert api.get("jobs/").status_code == 200
    keys.revoke(ApiKey.objects.values_list("id", flat=True))
    problem(api.get("jobs/"), 401, "invalid_key")


@pytest.mark.parametrize("how", ["deactivated", "deleted"])
def test_the_key_of_a_user_who_is_gone_is_refused(
    how: str, user_factory: UserFactory, key_factory: Callable[..., str]
) -> None:
    user = user_factory()
    api = Api(key_factory(user))
    assert api.get("jobs/").status_code == 200
    if how == "deleted":
        user.delete()
    else:
        User.objects.filter(pk=user.pk).update(is_active=False)
    problem(api.get("jobs/"), 401, "invalid_key")


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (Scope.READ, {"list", "statuses"}),
        (Scope.SUBMIT, {"submit", "bulk"}),
        (Scope.OPERATE, {"cancel"}),
    ],
)
def test_a_key_may_do_what_its_scopes_say(
    scope: Scope, allowed: set[str], user_factory: UserFactory, key_factory: Callable[..., str]
) -> None:
    api = Api(key_factory(user_factory(), scope))
    one = {"handler": HANDLER}
    answers = {
        "list": api.get("jobs/"),
        "statuses": api.post("jobs/status/", {"ids": [str(uuid4())]}),
        "submit": api.post("jobs/", one),
        "bulk": api.post("jobs/bulk/", {"jobs": [one]}),
        "cancel": api.post("jobs/cancel/", {"ids": [str(uuid4())]}),
    }
    refused = {name for name, answer in answers.items() if answer.status_code == 403}
    assert refused == set(answers) - allowed
    for name in refused:
        assert str(problem(answers[name], 403, "missing_scope")["detail"])


def test_a_warm_key_costs_no_query(
    redis_cache: redis.Redis,
    user_factory: UserFactory,
    key_factory: Callable[..., str],
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    api = Api(key_factory(user_factory()))
    with django_assert_num_queries(1):
        assert api.get("job-types/").status_code == 200
    with django_assert_num_queries(0):
        assert api.get("job-types/").status_code == 200


def test_a_browser_needs_the_csrf_token_to_change_something(user_factory: UserFactory) -> None:
    user = user_factory()
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    assert browser.get(BASE + "jobs/").status_code == 200
    one: dict[str, Any] = {"handler": HANDLER}
    answer = browser.post(BASE + "jobs/", one, content_type="application/json")
    problem(answer, 403, "permission_denied")
    trusting = Client()
    trusting.force_login(user)
    answer = trusting.post(BASE + "jobs/", one, content_type="application/json")
    assert answer.status_code == 201
    assert Job.objects.get().owner_id == user.pk


# Everything that takes a job's id, with the scope of a full key.
_READS = ("", "status/", "result/", "transitions/", "log/", "artifacts/", "artifacts/x.svg/")
_WRITES = ("cancel/", "retry/")


@pytest.mark.parametrize("cache", ["cold", "warm"])
@pytest.mark.parametrize("path", [*_READS, *_WRITES])
def test_a_strangers_job_looks_like_no_job(
    path: str,
    cache: str,
    redis_cache: redis.Redis,
    user_factory: UserFactory,
    key_factory: Callable[..., str],
    job_factory: JobFactory,
) -> None:
    owner = user_factory()
    [job] = job_factory(JobState.FAILED, owner_id=owner.pk)
    if cache == "warm":
        assert Api(key_factory(owner)).get(f"jobs/{job.id}/status/").status_code == 200
    stranger = Api(key_factory(user_factory(staff=True)))
    call = stranger.post if path in _WRITES else stranger.get
    # One request id for all, so that nothing but the id may differ.
    answers = [
        call(f"jobs/{name}/{path}", X_Request_ID="same")
        for name in (job.id, uuid4(), "no-id", "9" * 40, "..", f"{{{job.id}}}", job.id.hex)
    ]
    problem(answers[0], 404, "not_found")
    assert {answer.content for answer in answers} == {answers[0].content}
    assert {tuple(sorted(answer.headers.items())) for answer in answers} == {
        tuple(sorted(answers[0].headers.items()))
    }
    job.refresh_from_db()
    assert job.version == 3
