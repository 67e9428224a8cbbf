"""Somebody writes into Redis: never code, never another owner's data, and nothing that lasts."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from django.contrib.auth.models import User

from jobs import conf, keys, seal
from jobs.models import ApiKey, Job, Scope
from tests.api import Api, problem
from tests.conftest import JobFactory, UserFactory
from tests.verbs import HANDLER

pytestmark = pytest.mark.django_db

KeyFactory = Callable[..., str]
ONE = {"handler": HANDLER}


def _status(api: Api, job_id: UUID) -> Any:
    return api.get(f"jobs/{job_id}/status/")


def _fill(api: Api, client: redis.Redis, job: Job) -> str:
    assert _status(api, job.id).status_code == 200
    name = f"{conf.get().cache_prefix}:s:{job.id}"
    assert client.exists(name)
    return name


@pytest.mark.parametrize(
    "value",
    [
        b"", b"\x00" * 100, b"1.0", b"1.0:", b"1.0:7:nobody:{}", pickle.dumps({"a": 1}),
        b"99999999999999999999.0:1:x:{}", b"1.0:x:y:{}", b"-1.-1:1:1:{}", b"\xff\xfe", b"lease:",
        b"x" * 5_000_000,
    ],
    ids=range(12),
)  # fmt: skip
def test_foreign_bytes_are_a_miss(
    redis_cache: redis.Redis, api: Api, owner: User, job_factory: JobFactory, value: bytes
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    name = _fill(api, redis_cache, job)
    redis_cache.set(name, value)
    answer = _status(api, job.id)
    assert (answer.status_code, answer.json()["id"]) == (200, str(job.id))
    many = api.post("jobs/status/", {"ids": [str(job.id)]})
    assert [one["id"] for one in many.json()["statuses"]] == [str(job.id)]


@pytest.mark.parametrize("kind", ["list", "hash", "number"])
def test_a_value_of_another_kind_is_a_miss(
    redis_cache: redis.Redis, api: Api, owner: User, job_factory: JobFactory, kind: str
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    name = _fill(api, redis_cache, job)
    redis_cache.delete(name)
    if kind == "list":
        redis_cache.rpush(name, "x")
    elif kind == "hash":
        redis_cache.hset(name, "x", "y")
    else:
        redis_cache.set(name, 5)
    assert _status(api, job.id).status_code == 200


def test_another_owners_copy_is_never_shown(
    redis_cache: redis.Redis,
    api: Api,
    owner: User,
    user_factory: UserFactory,
    key_factory: KeyFactory,
    job_factory: JobFactory,
) -> None:
    """Somebody with Redis puts one job's copy under another's name, or changes its owner."""
    other = user_factory()
    theirs = Api(key_factory(other))
    [mine], [secret] = job_factory(owner_id=owner.pk), job_factory(owner_id=other.pk)
    name, hidden = _fill(api, redis_cache, mine), _fill(theirs, redis_cache, secret)
    copy = redis_cache.get(hidden)
    assert isinstance(copy, bytes)
    redis_cache.set(name, copy)
    assert _status(api, mine.id).json()["id"] == str(mine.id)
    problem(_status(api, secret.id), 404, "not_found")
    renamed = copy.replace(str(secret.id).encode(), str(mine.id).encode(), 1)
    redis_cache.set(name, renamed)
    assert _status(api, mine.id).json()["id"] == str(mine.id)


def test_a_forged_copy_is_not_believed(
    redis_cache: redis.Redis, api: Api, owner: User, job_factory: JobFactory
) -> None:
    """Without the platform's own key nobody can make a copy that readers are shown."""
    [job] = job_factory(owner_id=owner.pk)
    name = _fill(api, redis_cache, job)
    forged = {"id": str(job.id), "state": "COMPLETED"}
    head = f"7.0:{owner.pk}:{job.id}:{'0' * seal.LENGTH}:"
    redis_cache.set(name, head.encode() + json.dumps(forged).encode(), px=60_000)
    assert _status(api, job.id).json()["state"] == "PENDING"
    job.refresh_from_db()
    assert job.version == 1


@pytest.mark.parametrize(
    "value",
    [
        b"null", b"[]", b'["x", 1, true, ["read"]]', pickle.dumps((1, 2, 3, 4)), b"\xff", b"{",
        json.dumps([str(uuid4()), 1, True, ["rule the world"]]).encode(),
    ],
    ids=range(7),
)  # fmt: skip
def test_a_broken_principal_is_looked_up_anew(
    redis_cache: redis.Redis, owner: User, key_factory: KeyFactory, value: bytes
) -> None:
    secret = key_factory(owner, Scope.READ)
    api = Api(secret)
    assert api.get("jobs/").status_code == 200
    digest = ApiKey.digest_of(secret)
    redis_cache.set(f"{conf.get().cache_prefix}:k:{digest}", value)
    assert api.get("jobs/").status_code == 200
    problem(api.post("jobs/", ONE), 403, "missing_scope")
    found = keys.look_up(secret)
    assert found is not None
    assert (found.user_id, found.is_staff) == (owner.pk, False)
