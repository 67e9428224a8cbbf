"""API keys: shown once, stored hashed, and gone soon after their revocation."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis
from django.db.models.functions import Now

from jobs import conf, keys
from jobs.keys import Principal
from jobs.models import ApiKey, Scope
from tests.conftest import UserFactory
from tests.verbs import statements

pytestmark = pytest.mark.django_db

KeyFactory = Callable[..., str]


def test_a_key_speaks_for_its_owner_and_no_more(
    user_factory: UserFactory, key_factory: KeyFactory
) -> None:
    user = user_factory(staff=True)
    secret = key_factory(user, Scope.READ, Scope.SUBMIT)
    assert keys.look_up(secret) == Principal(
        ApiKey.objects.get().id, user.pk, True, frozenset({Scope.READ, Scope.SUBMIT})
    )


def test_the_secret_is_nowhere_stored(user_factory: UserFactory, key_factory: KeyFactory) -> None:
    secret = key_factory(user_factory())
    [row] = ApiKey.objects.values()
    assert secret.startswith("ilk_")
    assert len(secret) > 40
    assert secret not in json.dumps(row, default=str)
    assert row["hint"] == secret[:10]


def test_two_keys_differ(user_factory: UserFactory, key_factory: KeyFactory) -> None:
    user = user_factory()
    assert key_factory(user) != key_factory(user)


@pytest.mark.parametrize(
    "secret", ["", "ilk_", "ilk_unknown", "nonsense", "ilk_" + "x" * 300, "ilk_\x00", "Ilk_é"]
)
def test_what_is_no_key_is_nobody(secret: str) -> None:
    assert keys.look_up(secret) is None


def test_a_string_that_cannot_be_a_key_costs_no_query() -> None:
    with statements() as found:
        keys.look_up("basic auth")
        keys.look_up("ilk_" + "x" * 300)
    assert found == []


def test_expired_keys_and_disabled_owners_are_nobody(
    user_factory: UserFactory, key_factory: KeyFactory
) -> None:
    user = user_factory()
    old, young = key_factory(user), key_factory(user, name="young")
    ApiKey.objects.exclude(name="young").update(expires_at=Now() - timedelta(seconds=1))
    ApiKey.objects.filter(name="young").update(expires_at=Now() + timedelta(days=1))
    assert keys.look_up(old) is None
    assert keys.look_up(young) is not None
    user.is_active = False
    user.save()
    assert keys.look_up(young) is None


def test_revoking_counts_only_once(user_factory: UserFactory, key_factory: KeyFactory) -> None:
    secrets = [key_factory(user_factory()) for _ in range(3)]
    ids = list(ApiKey.objects.values_list("id", flat=True))
    assert keys.revoke(ids) == 3
    assert keys.revoke(ids) == 0
    assert [keys.look_up(secret) for secret in secrets] == [None] * 3


def copy_of_a_key(client: redis.Redis) -> bytes:
    """The name of the one copy that this test has made."""
    [name] = client.keys(f"{conf.get().cache_prefix}:k:*")
    assert isinstance(name, bytes)
    return name


def test_a_known_key_costs_no_query(
    redis_cache: redis.Redis, user_factory: UserFactory, key_factory: KeyFactory
) -> None:
    secret = key_factory(user_factory(), Scope.OPERATE)
    first = keys.look_up(secret)
    with statements() as found:
        assert keys.look_up(secret) == first
    assert found == []
    name = copy_of_a_key(redis_cache)
    assert secret not in name.decode()
    assert 0 < redis_cache.pttl(name) <= 5000


def test_a_revocation_takes_effect_at_once(
    redis_cache: redis.Redis, user_factory: UserFactory, key_factory: KeyFactory
) -> None:
    secret = key_factory(user_factory())
    assert keys.look_up(secret) is not None
    keys.revoke([ApiKey.objects.get().id])
    assert redis_cache.keys(f"{conf.get().cache_prefix}:*") == []
    assert keys.look_up(secret) is None


def test_an_unknown_key_is_not_remembered(redis_cache: redis.Redis) -> None:
    keys.look_up("ilk_unknown")
    assert redis_cache.keys(f"{conf.get().cache_prefix}:*") == []


@pytest.mark.parametrize(
    "broken",
    [b"", b"{}", b"[1,2,3,4]", b"[]", b"\xff\xfe", b'["x", 1, true, ["rule"]]', b"null", b"7"],
)
def test_a_broken_copy_is_read_anew(
    redis_cache: redis.Redis,
    user_factory: UserFactory,
    key_factory: KeyFactory,
    jobs_settings: Callable[..., None],
    broken: bytes,
) -> None:
    jobs_settings(api_key_ttl_seconds=600)
    secret = key_factory(user_factory(), Scope.READ)
    first = keys.look_up(secret)
    redis_cache.set(copy_of_a_key(redis_cache), broken)
    assert keys.look_up(secret) == first
    with statements() as found:
        assert keys.look_up(secret) == first
    assert found == []


def test_a_copy_under_the_name_of_another_key_is_nobodys(
    redis_cache: redis.Redis, user_factory: UserFactory, key_factory: KeyFactory
) -> None:
    """Redis may say anything, but not who asks."""
    powerful = key_factory(user_factory(staff=True), Scope.OPERATE)
    keys.look_up(powerful)
    copied = redis_cache.get(copy_of_a_key(redis_cache))
    redis_cache.flushdb()
    secret = key_factory(user_factory(), Scope.READ)
    first = keys.look_up(secret)
    assert copied is not None
    redis_cache.set(copy_of_a_key(redis_cache), copied)
    assert keys.look_up(secret) == first


def test_a_key_works_without_redis(
    user_factory: UserFactory,
    key_factory: KeyFactory,
    jobs_settings: Callable[..., None],
) -> None:
    secret = key_factory(user_factory())
    jobs_settings(cache_url="redis://127.0.0.1:1/0")
    assert keys.look_up(secret) is not None
