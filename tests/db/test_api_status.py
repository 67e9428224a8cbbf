"""The status of jobs: from Redis without a query, else from PostgreSQL, never backwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import pytest
import redis
from django.contrib.auth.models import User
from django.db import connection
from pytest_django import DjangoAssertNumQueries

from jobs import conf, lifecycle, status, status_reader
from jobs.models import Job
from jobs.querysets import read_views
from jobs.states import JobEvent, JobState
from jobs.status import Copy
from jobs.values import Beat, StatusView
from tests.api import Api, problem
from tests.conftest import JobFactory, UserFactory
from tests.verbs import USER, claim, finish

pytestmark = pytest.mark.django_db


def copies(job: Job) -> dict[UUID, Copy]:
    return status.read([job.id])


def truth(job: Job) -> Copy:
    [view] = read_views([job.id], conf.get().inline_result_limit_bytes)
    return status.render(view)


# --------------------------------------------------------------------------------- from the cache


def test_a_warm_status_costs_no_query(
    redis_cache: redis.Redis,
    api: Api,
    owner: User,
    job_factory: JobFactory,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    # Cold: the key, and the row.
    with django_assert_num_queries(2):
        first = api.get(f"jobs/{job.id}/status/")
    with django_assert_num_queries(0):
        second = api.get(f"jobs/{job.id}/status/")
    assert first.status_code == second.status_code == 200
    assert first.content == second.content == truth(job).body
    assert second["Content-Type"] == "application/json"
    assert second["Cache-Control"] == "private, no-cache"
    assert second["ETag"] == '"1.0"'


@pytest.mark.django_db(transaction=True)
def test_the_status_shows_progress_and_result(
    redis_cache: redis.Redis, api: Api, owner: User, job_factory: JobFactory
) -> None:
    jobs = job_factory(owner_id=owner.pk)
    path = f"jobs/{jobs[0].id}/status/"
    attempts = claim(jobs)
    lifecycle.heartbeat([Beat(attempts[0].job_id, attempts[0].token, 0.5, "half")])
    found = api.get(path).json()
    assert found["state"] == "RUNNING"
    assert found["progress"] == {"fraction": 0.5, "message": "half"}
    finish(attempts, JobEvent.SUCCEED, result={"answer": 42})
    found = api.get(path).json()
    assert (found["state"], found["version"], found["attempt"]) == ("COMPLETED", 3, 1)
    assert found["result"] == {"answer": 42}
    assert found["links"]["result"] == f"/api/v1/jobs/{jobs[0].id}/result/"


def test_a_large_result_is_a_link(
    api: Api, owner: User, job_factory: JobFactory, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(inline_result_limit_bytes=5)
    [job] = job_factory(JobState.COMPLETED, owner_id=owner.pk)
    found = api.get(f"jobs/{job.id}/status/").json()
    assert found["has_result"]
    assert found["result"] is None
    assert api.client.get(found["links"]["result"]).status_code == 401
    assert api.get(f"jobs/{job.id}/result/").json() == {"answer": 42}


@pytest.mark.parametrize("reachable", [True, False])
def test_without_a_copy_the_answer_is_the_same(
    reachable: bool,
    redis_cache: redis.Redis,
    api: Api,
    owner: User,
    job_factory: JobFactory,
    jobs_settings: Callable[..., None],
) -> None:
    [job] = job_factory(JobState.COMPLETED, owner_id=owner.pk)
    path = f"jobs/{job.id}/status/"
    warm = api.get(path)
    assert copies(job)
    redis_cache.flushdb()
    if not reachable:
        jobs_settings(cache_url="redis://127.0.0.1:1/0")
    cold = api.get(path)
    assert (cold.status_code, cold.content, cold["ETag"]) == (200, warm.content, warm["ETag"])
    assert bool(copies(job)) is reachable


def test_a_miss_does_not_overwrite_what_was_committed_meanwhile(
    redis_cache: redis.Redis,
    api: Api,
    owner: User,
    job_factory: JobFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [job] = job_factory(JobState.FAILED, owner_id=owner.pk)
    redis_cache.flushdb()

    def slow(ids: list[UUID], limit: int) -> list[StatusView]:
        views = read_views(ids, limit)
        lifecycle.reopen([job.id], actor=USER)
        status.update(read_views([job.id], 1000))
        return views

    monkeypatch.setattr(status_reader, "read_views", slow)
    assert api.get(f"jobs/{job.id}/status/").json()["version"] == 3
    assert not copies(job)
    monkeypatch.undo()
    assert api.get(f"jobs/{job.id}/status/").json()["version"] == 4


@pytest.mark.parametrize("many", [False, True])
def test_what_redis_missed_while_it_was_away_is_not_shown_afterwards(
    many: bool,
    redis_cache: redis.Redis,
    api: Api,
    owner: User,
    job_factory: JobFactory,
    jobs_settings: Callable[..., None],
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    path = f"jobs/{job.id}/status/"

    def version() -> int:
        if many:
            found = api.post("jobs/status/", {"ids": [str(job.id)]}).json()["statuses"]
            return int(found[0]["version"])
        return int(api.get(path).json()["version"])

    assert version() == 1
    url = conf.get().cache_url
    jobs_settings(cache_url="")
    finish(claim([job]), JobEvent.FAIL)
    assert version() == 3
    jobs_settings(cache_url=url)
    assert copies(job)[job.id].version == 1
    assert version() == 3
    assert copies(job)[job.id].version == 3
    with django_assert_num_queries(0):
        assert version() == 3


# ----------------------------------------------------------------------------------------- 304


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ('"1.0"', 304),
        ('W/"1.0"', 304),
        ('"7.7", W/"1.0"', 304),
        ("*", 304),
        ('"0.9"', 200),
        ('"abc"', 200),
        ("1.0", 200),
        ("x" * 5000, 200),
        ('"99999999999999999999.1"', 200),
    ],
)
def test_what_the_client_has_is_not_sent_again(
    header: str, code: int, redis_cache: redis.Redis, api: Api, owner: User, job_factory: JobFactory
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    for _ in ("cold", "warm"):
        answer = api.get(f"jobs/{job.id}/status/", If_None_Match=header)
        assert answer.status_code == code
        assert answer["ETag"] == '"1.0"'
        assert bool(answer.content) is (code == 200)


def test_a_client_that_has_seen_more_than_the_copy_gets_the_row(
    redis_cache: redis.Redis,
    api: Api,
    owner: User,
    job_factory: JobFactory,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    path = f"jobs/{job.id}/status/"
    api.get(path)
    old = redis_cache.get(f"{conf.get().cache_prefix}:s:{job.id}")
    finish(claim([job]), JobEvent.FAIL)
    assert isinstance(old, bytes)
    # As if the news of two commits had been lost on their way.
    redis_cache.set(f"{conf.get().cache_prefix}:s:{job.id}", old)
    assert api.get(path)["ETag"] == '"1.0"'
    with django_assert_num_queries(1):
        answer = api.get(path, If_None_Match='"2.0"')
    assert (answer.status_code, answer["ETag"]) == (200, '"3.0"')
    with django_assert_num_queries(0):
        assert api.get(path, If_None_Match='"3.0"').status_code == 304


# ----------------------------------------------------------------------------------------- wait


def test_waiting_ends_with_the_time(
    redis_cache: redis.Redis, api: Api, owner: User, job_factory: JobFactory
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    begin = time.monotonic()
    assert api.get(f"jobs/{job.id}/status/?wait=0.3", If_None_Match='"1.0"').status_code == 304
    assert api.get(f"jobs/{job.id}/status/?wait=0.3").status_code == 200
    assert time.monotonic() - begin > 0.6


def test_waiting_is_over_at_once_where_there_is_news_already(
    redis_cache: redis.Redis, api: Api, owner: User, job_factory: JobFactory
) -> None:
    [job] = job_factory(JobState.FAILED, owner_id=owner.pk)
    begin = time.monotonic()
    assert api.get(f"jobs/{job.id}/status/?wait=20", If_None_Match='"1.0"').status_code == 200
    # Ended: nothing more is to come by itself.
    assert api.get(f"jobs/{job.id}/status/?wait=20").status_code == 200
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("wait", ["-1", "soon", "nan", "inf", "1&wait=2"])
def test_a_wait_that_is_no_time_is_refused(
    wait: str, api: Api, owner: User, job_factory: JobFactory
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    problem(api.get(f"jobs/{job.id}/status/?wait={wait}"), 400, "invalid_request")


def test_without_a_free_slot_the_answer_comes_at_once(
    redis_cache: redis.Redis,
    api: Api,
    owner: User,
    job_factory: JobFactory,
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(wait_slots=0)
    [job] = job_factory(owner_id=owner.pk)
    begin = time.monotonic()
    assert api.get(f"jobs/{job.id}/status/?wait=20").status_code == 200
    assert time.monotonic() - begin < 10


@pytest.fixture
def background() -> Iterator[Callable[[Callable[[], None]], threading.Thread]]:
    """Runs a function in a thread, which is joined after the test."""
    threads: list[threading.Thread] = []

    def start(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            finally:
                connection.close()

        thread = threading.Thread(target=run)
        thread.start()
        threads.append(thread)
        return thread

    yield start
    for thread in threads:
        thread.join()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("reachable", [True, False])
def test_news_ends_the_waiting(
    reachable: bool,
    redis_cache: redis.Redis,
    owner: User,
    api: Api,
    job_factory: JobFactory,
    jobs_settings: Callable[..., None],
    background: Callable[[Callable[[], None]], threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not reachable:
        jobs_settings(cache_url="")
    [job] = job_factory(owner_id=owner.pk)
    waiting = threading.Event()
    enter = status.Watch.__enter__

    def entered(watch: status.Watch) -> status.Watch:
        answer = enter(watch)
        waiting.set()
        return answer

    monkeypatch.setattr(status.Watch, "__enter__", entered)
    # With Redis only the news itself can end the waiting in time.
    monkeypatch.setattr(status_reader, "LOOK_AGAIN_SECONDS", 60)

    def cancel() -> None:
        waiting.wait(10)
        lifecycle.cancel([job.id], actor=USER)

    background(cancel)
    begin = time.monotonic()
    answer = api.get(f"jobs/{job.id}/status/?wait=25", If_None_Match='"1.0"')
    assert answer.json()["state"] == "CANCELLED"
    assert time.monotonic() - begin < 10


# --------------------------------------------------------------------------------- single flight


@pytest.mark.django_db(transaction=True)
def test_many_misses_at_once_share_queries(
    redis_cache: redis.Redis,
    owner: User,
    job_factory: JobFactory,
    background: Callable[[Callable[[], None]], threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    redis_cache.flushdb()
    calls: list[float] = []

    def counted(ids: list[UUID], limit: int) -> list[StatusView]:
        calls.append(time.monotonic())
        time.sleep(0.2)
        return read_views(ids, limit)

    monkeypatch.setattr(status_reader, "read_views", counted)
    found: list[Copy | None] = []
    threads = [background(lambda: found.append(status_reader.one(job.id))) for _ in range(12)]
    for thread in threads:
        thread.join()
    assert {copy.body for copy in found if copy} == {truth(job).body}
    assert len(found) == 12
    assert len(calls) <= 2


@pytest.mark.django_db(transaction=True)
def test_nobody_joins_a_query_that_has_begun(
    owner: User,
    job_factory: JobFactory,
    background: Callable[[Callable[[], None]], threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    has_read, go_on = threading.Event(), threading.Event()

    def held(ids: list[UUID], limit: int) -> list[StatusView]:
        views = read_views(ids, limit)
        if not has_read.is_set():
            has_read.set()
            go_on.wait(10)
        return views

    monkeypatch.setattr(status_reader, "read_views", held)
    early: list[Copy | None] = []
    late: list[Copy | None] = []
    background(lambda: early.append(status_reader.one(job.id)))
    has_read.wait(10)
    lifecycle.cancel([job.id], actor=USER)
    thread = background(lambda: late.append(status_reader.one(job.id)))
    time.sleep(0.1)
    go_on.set()
    thread.join()
    assert late[0] is not None
    assert late[0].version == 2


# ------------------------------------------------------------------------------------------ many


def test_many_warm_statuses_cost_no_query(
    redis_cache: redis.Redis,
    api: Api,
    owner: User,
    job_factory: JobFactory,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    jobs = job_factory(count=30, owner_id=owner.pk)
    ids = [str(job.id) for job in jobs]
    with django_assert_num_queries(2):
        cold = api.post("jobs/status/", {"ids": ids})
    with django_assert_num_queries(0):
        warm = api.post("jobs/status/", {"ids": [*reversed(ids), ids[0]]})
    assert [one["id"] for one in cold.json()["statuses"]] == ids
    assert [one["id"] for one in warm.json()["statuses"]] == ids[::-1]
    redis_cache.delete(*(f"{conf.get().cache_prefix}:s:{name}" for name in ids[:10]))
    with django_assert_num_queries(1):
        mixed = api.post("jobs/status/", {"ids": ids})
    assert mixed.content == cold.content


@pytest.mark.parametrize("warm", [True, False])
def test_other_owners_jobs_are_missing(
    warm: bool,
    redis_cache: redis.Redis,
    api: Api,
    owner: User,
    user_factory: UserFactory,
    job_factory: JobFactory,
) -> None:
    [mine] = job_factory(owner_id=owner.pk)
    [foreign] = job_factory(owner_id=user_factory().pk)
    [nobodys] = job_factory()
    unknown = uuid4()
    if warm:
        status_reader.many([mine.id, foreign.id, nobodys.id])
    ids = [str(one) for one in (foreign.id, mine.id, unknown, nobodys.id)]
    found = api.post("jobs/status/", {"ids": ids}).json()
    assert [one["id"] for one in found["statuses"]] == [str(mine.id)]
    assert found["missing"] == [str(foreign.id), str(unknown), str(nobodys.id)]


def test_wrong_ids_are_refused(api: Api, jobs_settings: Callable[..., None]) -> None:
    jobs_settings(status_bulk_limit=2)
    three = {"ids": [str(uuid4()) for _ in range(3)]}
    found = problem(api.post("jobs/status/", three), 400, "invalid_request")
    assert found["errors"][0]["code"] == "too_many"
    found = problem(api.post("jobs/status/", {"ids": [str(uuid4()), "x"]}), 400, "invalid_request")
    assert (found["errors"][0]["path"], found["errors"][0]["index"]) == ("ids", 1)
    problem(api.post("jobs/status/", {"ids": []}), 400, "invalid_request")
    problem(api.post("jobs/status/", {}), 400, "invalid_request")
