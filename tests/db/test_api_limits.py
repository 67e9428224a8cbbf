"""429: who presents wrong keys without end, and whose jobs are too many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from jobs import conf, lifecycle
from jobs.api import quota, throttle
from jobs.models import Job
from jobs.states import ActorKind
from jobs.values import Actor
from tests.api import BASE, Api, problem
from tests.conftest import UserFactory
from tests.verbs import HANDLER, submit

pytestmark = pytest.mark.django_db

KeyFactory = Callable[..., str]
ONE = {"handler": HANDLER}
LIMIT = 5


@pytest.fixture(autouse=True)
def _limit(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(auth_failures_limit=LIMIT, auth_failures_window_seconds=3600)


def ask(key: str, address: str = "192.0.2.1", **headers: str) -> Any:
    sent = {"Authorization": f"Bearer {key}", **headers}
    return Client().get(BASE + "job-types/", headers=sent, REMOTE_ADDR=address)


def wrong(number: int) -> str:
    """Keys that begin differently, as a guesser's do."""
    return f"ilk_{number:06d}{'x' * 37}"


def guess(count: int = LIMIT, address: str = "192.0.2.1", **headers: str) -> None:
    for number in range(count):
        problem(ask(wrong(number), address, **headers), 401, "invalid_key")


# ------------------------------------------------------------------------------------ wrong keys


@pytest.mark.parametrize("with_redis", [True, False])
def test_guessing_ends_in_429(with_redis: bool, request: pytest.FixtureRequest) -> None:
    if with_redis:
        request.getfixturevalue("redis_cache")
    guess()
    with CaptureQueriesContext(connection) as queries:
        answer = ask(wrong(99))
    problem(answer, 429, "too_many_failures")
    assert int(answer["Retry-After"]) > 0
    # The database is spared from now on.
    assert len(queries) == 0
    problem(ask("no key at all"), 429, "too_many_failures")
    problem(ask(wrong(99), "192.0.2.2"), 401, "invalid_key")


def test_a_window_ends(monkeypatch: pytest.MonkeyPatch, jobs_settings: Callable[..., None]) -> None:
    jobs_settings(auth_failures_window_seconds=60)
    now = 100.0
    monkeypatch.setattr("jobs.api.throttle.time.monotonic", lambda: now)
    guess()
    now += 20
    assert int(ask(wrong(7))["Retry-After"]) == 40
    now += 40
    problem(ask(wrong(7)), 401, "invalid_key")


def test_processes_count_together(redis_cache: redis.Redis) -> None:
    guess()
    # Another process, which remembers nothing of this.
    throttle.forget()
    problem(ask(wrong(98)), 401, "invalid_key")
    problem(ask(wrong(99)), 429, "too_many_failures")
    names = redis_cache.keys(f"{conf.get().cache_prefix}:f:*")
    assert names
    assert all(redis_cache.pttl(name) > 0 for name in names)
    assert not any(b"xxxxxxx" in name for name in names)


def test_the_beginning_of_a_key_is_counted_wherever_it_comes_from() -> None:
    same = "ilk_abcdef"
    for number in range(LIMIT):
        problem(ask(f"{same}{number:037d}", f"198.51.100.{number}"), 401, "invalid_key")
    problem(ask(f"{same}{99:037d}", "203.0.113.1"), 429, "too_many_failures")
    problem(ask(wrong(1), "203.0.113.1"), 401, "invalid_key")


def test_who_holds_a_key_is_not_locked_out_by_a_neighbour(
    user_factory: UserFactory, key_factory: KeyFactory
) -> None:
    key, newcomer = key_factory(user_factory()), key_factory(user_factory())
    assert ask(key).status_code == 200
    guess()
    assert ask(key).status_code == 200
    problem(ask(wrong(99)), 429, "too_many_failures")
    # A key that this process has never seen is not told from a guess.
    problem(ask(newcomer), 429, "too_many_failures")
    assert ask(newcomer, "192.0.2.9").status_code == 200


def test_health_tells_a_guesser_nothing_more(
    user_factory: UserFactory, key_factory: KeyFactory
) -> None:
    staff = key_factory(user_factory(staff=True))
    guess()
    with CaptureQueriesContext(connection) as queries:
        answer = Client().get(
            "/health/ready?verbose",
            headers={"Authorization": f"Bearer {staff}"},
            REMOTE_ADDR="192.0.2.1",
        )
    assert (answer.status_code, answer.content) == (200, b"ready")
    assert not [one for one in queries if "apikey" in one["sql"]]


def test_the_limit_can_be_switched_off(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(auth_failures_limit=None)
    guess(LIMIT * 3)


@pytest.mark.parametrize(
    ("proxies", "forwarded", "counted"),
    [
        (0, "203.0.113.7", "192.0.2.1"),
        (0, None, "192.0.2.1"),
        (1, "203.0.113.7", "203.0.113.7"),
        (1, "10.0.0.1, 203.0.113.7", "203.0.113.7"),
        (1, "  203.0.113.7  ", "203.0.113.7"),
        (2, "10.0.0.1, 203.0.113.7, 198.51.100.2", "203.0.113.7"),
        (2, "198.51.100.2", "192.0.2.1"),
        (1, None, "unknown"),
        (1, "x" * 5000, "unknown"),
        (1, "203.0.113.7:4711", "unknown"),
        (1, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        (1, "::ffff:203.0.113.7", "203.0.113.7"),
    ],
)
def test_whom_the_address_is_taken_from(
    proxies: int, forwarded: str | None, counted: str, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(trusted_proxies=proxies)
    meta = {"REMOTE_ADDR": "192.0.2.1"}
    if forwarded is not None:
        meta["HTTP_X_FORWARDED_FOR"] = forwarded
    assert throttle.address_of(meta) == counted


@pytest.mark.parametrize("proxies", [0, 1])
def test_a_forged_header_gives_no_fresh_start(
    proxies: int, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(trusted_proxies=proxies)
    for number in range(LIMIT):
        # The last entry is the proxy's own; everything left of it is the client's word.
        forged = f"10.0.0.{number}" + (", 203.0.113.7" if proxies else "")
        problem(ask(wrong(number), X_Forwarded_For=forged), 401, "invalid_key")
    forged = "10.9.9.9" + (", 203.0.113.7" if proxies else "")
    problem(ask(wrong(99), X_Forwarded_For=forged), 429, "too_many_failures")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_MOST", 10)
    for number in range(50):
        ask(wrong(number), f"198.51.100.{number}")
    assert len(throttle._windows._values) == 10


# --------------------------------------------------------------------------------- too many jobs


@pytest.fixture
def api(user_factory: UserFactory, key_factory: KeyFactory) -> Api:
    return Api(key_factory(user_factory()))


def refused(answer: Any) -> None:
    problem(answer, 429, "quota_exceeded")
    assert int(answer["Retry-After"]) > 0


def test_an_owner_may_have_so_many_waiting_jobs_and_others_do_not_mind(
    api: Api,
    user_factory: UserFactory,
    key_factory: KeyFactory,
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(pending_limit_per_owner=3)
    assert [api.post("jobs/", ONE).status_code for _ in range(3)] == [201] * 3
    refused(api.post("jobs/", ONE))
    assert Job.objects.count() == 3
    assert Api(key_factory(user_factory())).post("jobs/", ONE).status_code == 201


def test_many_at_once_count_all_and_are_accepted_whole_or_not(
    api: Api, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(pending_limit_per_owner=10)
    assert api.post("jobs/bulk/", {"jobs": [ONE] * 6}).status_code == 201
    refused(api.post("jobs/bulk/", {"jobs": [ONE] * 5}))
    assert Job.objects.count() == 6
    assert api.post("jobs/bulk/", {"jobs": [ONE] * 4}).status_code == 201


def test_what_waits_no_longer_makes_room(api: Api, jobs_settings: Callable[..., None]) -> None:
    jobs_settings(pending_limit_per_owner=1)
    job_id = api.post("jobs/", {**ONE, "delay_seconds": 3600}).json()["id"]
    refused(api.post("jobs/", ONE))
    assert api.post(f"jobs/{job_id}/cancel/").status_code == 200
    assert api.post("jobs/", ONE).status_code == 201


def test_a_repetition_is_answered_by_its_job(api: Api, jobs_settings: Callable[..., None]) -> None:
    jobs_settings(pending_limit_per_owner=2)
    body = {"jobs": [ONE, ONE]}
    first = api.post("jobs/bulk/", body, Idempotency_Key="k")
    again = api.post("jobs/bulk/", body, Idempotency_Key="k")
    assert (first.status_code, again.status_code) == (201, 200)
    assert [one["id"] for one in first.json()["jobs"]] == [
        one["id"] for one in again.json()["jobs"]
    ]
    refused(api.post("jobs/", ONE, Idempotency_Key="other"))


def test_code_of_the_project_is_trusted(
    user_factory: UserFactory, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(pending_limit_per_owner=1)
    owner = user_factory()
    submit(3, owner_id=owner.pk)
    lifecycle.submit([], actor=Actor(ActorKind.USER, str(owner.pk)))
    assert Job.objects.count() == 3


def test_the_count_is_believed_for_a_moment_only(
    user_factory: UserFactory,
    jobs_settings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs_settings(pending_limit_per_owner=1000)
    owner = user_factory()
    now = 100.0
    monkeypatch.setattr("jobs.api.quota.time.monotonic", lambda: now)

    def queries_of(count: int) -> int:
        with CaptureQueriesContext(connection) as queries:
            quota.require(owner.pk, count, None)
        return len(queries)

    assert [queries_of(100) for _ in range(5)] == [1, 0, 0, 0, 0]
    # Near the limit it is counted each time.
    assert [queries_of(460) for _ in range(3)] == [1, 1, 1]
    assert queries_of(1) == 0
    now += 1.1
    assert queries_of(1) == 1


def test_the_count_reads_no_more_than_its_index(
    user_factory: UserFactory, django_db_setup: None
) -> None:
    owner = user_factory()
    submit(2000, owner_id=owner.pk)
    submit(2000, owner_id=user_factory().pk)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE jobs_job")
        parameters = {"owner": owner.pk, "most": 100}
        cursor.execute(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {quota._COUNT}", parameters)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "jobs_job_owned_pending" in plan
    assert "Seq Scan" not in plan
    assert "rows=100" in plan
