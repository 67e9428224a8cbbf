"""Status after an outage of Redis: what it still holds is compared with the row before it is shown.

One process stands for the one that noticed the outage; the clock is moved instead of waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis
from django.test import Client

from jobs import cache, conf, lifecycle, status, status_reader
from jobs.states import JobEvent
from jobs.status import Copy
from tests.verbs import USER, claim, finish, statements, watched

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_cache")]

Wait = Callable[[float], None]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch, jobs_settings: Callable[..., None]) -> Wait:
    """Moves this process's clock on. Copies live for longer than all need to notice an outage."""
    jobs_settings(status_ttl_seconds=4 * all_have_noticed())
    clock = time.monotonic
    waited = 0.0

    def wait(seconds: float) -> None:
        nonlocal waited
        waited += seconds

    monkeypatch.setattr(time, "monotonic", lambda: clock() + waited)
    # A connection from a moment that has not come yet would outlive failures of other tests.
    monkeypatch.setattr(cache, "_line", cache._Line())
    return wait


def outage() -> None:
    """Redis fails, and answers again."""
    cache.breaker.trip(0.0)
    cache.ask(lambda r: r.ping())
    assert cache.breaker.answers_since > cache.breaker.failed_at


def all_have_noticed() -> float:
    """Seconds after which no writer leaves Redis alone any more."""
    settings = conf.get()
    return settings.cache_retry_seconds + 2 * settings.cache_timeout_seconds + 0.1


@pytest.mark.parametrize("many", [False, True])
def test_old_copies_are_not_believed(many: bool) -> None:
    """The news of a commit was lost with Redis, and others were shown the row meanwhile."""
    [job] = watched()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "ask", lambda *_, **__: None)
        lifecycle.cancel([job.id], actor=USER)
    outage()
    assert status.read([job.id])[job.id].rank == (1, 0)

    copies = status_reader.many([job.id]) if many else {job.id: status_reader.one(job.id)}

    found = copies[job.id]
    assert found is not None
    assert found.rank == (2, 0)
    assert status.read([job.id])[job.id].rank == (2, 0)


def _health_says(staff: Client) -> str:
    said: str = staff.get("/health/ready?verbose").json()["cache"]
    return said


def test_a_process_that_has_just_begun_believes_nothing_older(
    wait: Wait, admin_client: Client
) -> None:
    """The outage may have been over when it began."""
    [job] = watched()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "ask", lambda *_, **__: None)
        lifecycle.cancel([job.id], actor=USER)
    cache.breaker.doubt_the_past()
    assert _health_says(admin_client) == "back, not trusted yet"
    found = status_reader.one(job.id)
    assert found is not None
    assert found.rank == (2, 0)
    wait(all_have_noticed())
    assert _health_says(admin_client) == "ok"


def test_what_was_under_way_when_redis_failed_is_not_believed(wait: Wait) -> None:
    """A command that the network held back is carried out when Redis answers again, and what it
    writes lives from then on."""
    [job] = watched()
    cache.breaker.trip(0.0)
    wait(conf.get().status_ttl_seconds)
    cache.ask(lambda r: r.ping())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "ask", lambda *_, **__: None)
        lifecycle.cancel([job.id], actor=USER)
    assert status.read([job.id])[job.id].rank == (1, 0)
    found = status_reader.one(job.id)
    assert found is not None
    assert found.rank == (2, 0)


@pytest.mark.parametrize("question", ["type", "number", "python"])
def test_a_foreign_value_is_no_outage(question: str, redis_cache: redis.Redis) -> None:
    redis_cache.rpush("list", b"x")
    redis_cache.set("text", b"x")
    asked: dict[str, Callable[[redis.Redis], object]] = {
        "type": lambda r: r.get("list"),
        "number": lambda r: r.incr("text"),
        "python": lambda _: int("x"),
    }
    assert cache.ask(asked[question]) is None
    assert cache.breaker.failed_at == float("-inf")


@pytest.mark.parametrize(
    "error",
    [
        redis.OutOfMemoryError("command not allowed"),
        redis.ReadOnlyError("You can't write against a read only replica."),
        redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        redis.ResponseError("Command # 1 (SET x) of pipeline caused error: BUSY script"),
        redis.ConnectionError("gone"),
    ],
)
def test_trouble_of_the_server_is_one(error: Exception) -> None:
    def fail(_: redis.Redis) -> None:
        raise error

    assert cache.ask(fail) is None
    assert cache.breaker.failed_at > 0


def test_a_copy_that_was_compared_with_its_row_is_believed_again(wait: Wait) -> None:
    [job] = watched()
    outage()
    wait(all_have_noticed())
    with statements() as sql:
        first = status_reader.one(job.id)
    assert len(sql) == 1
    with statements() as sql:
        assert status_reader.one(job.id) == first
        assert status_reader.many([job.id]) == {job.id: first}
    assert sql == []


def test_a_copy_compared_too_early_is_compared_again(wait: Wait) -> None:
    """A writer that leaves Redis alone for a while yet would not have told what it commits."""
    [job] = watched()
    outage()
    assert status_reader.one(job.id) is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status, "update", lambda *_, **__: None)
        lifecycle.cancel([job.id], actor=USER)
    wait(all_have_noticed())
    copy = status_reader.one(job.id)
    assert copy is not None
    assert copy.rank == (2, 0)


def test_a_comparison_before_the_next_outage_counts_for_nothing(wait: Wait) -> None:
    [job] = watched()
    outage()
    wait(all_have_noticed())
    assert status_reader.one(job.id) is not None
    outage()
    wait(all_have_noticed())
    with statements() as sql:
        assert status_reader.one(job.id) is not None
    assert len(sql) == 1


def test_many_readers_of_an_old_copy_share_one_comparison(wait: Wait) -> None:
    [job] = watched()
    outage()
    wait(all_have_noticed())
    copies: list[Copy | None] = []
    with statements() as sql:
        copies += [status_reader.one(job.id) for _ in range(20)]
    assert len(sql) == 1
    assert len(set(copies)) == 1


def test_copies_are_believed_once_the_old_ones_have_expired(wait: Wait) -> None:
    [job] = watched()
    outage()
    wait(conf.get().status_ttl_seconds + 1)
    with statements() as sql:
        assert status_reader.one(job.id) is not None
    assert sql == []


def test_the_end_is_believed_at_any_time() -> None:
    [job] = watched()
    finish(claim([job]), JobEvent.SUCCEED, result={"state": "PENDING"})
    outage()
    with statements() as sql:
        copy = status_reader.one(job.id)
    assert copy is not None
    assert sql == []
