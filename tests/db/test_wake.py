"""What the relay hears: that there is something to publish, and which job if it comes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import redis

from jobs import cache, conf, lifecycle, status, wake
from jobs.doorbells import foretold_in
from jobs.states import JobEvent
from jobs.values import Foretold, Submission
from jobs.wake import WakeUp
from tests.db.conftest import cut
from tests.verbs import HANDLER, claim, finish, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_cache")]

PATIENCE_SECONDS = 20.0


@pytest.fixture
def listener(jobs_settings: Callable[..., None]) -> Iterator[WakeUp]:
    """It listens already, and knows of the others. Of tests that run beside this one it hears
    nothing: the databases of a Redis share their channels. Each submit is told of at once."""
    jobs_settings(cache_prefix=f"wake-{uuid4().hex}", relay_round_seconds=0.0)
    wake_up = WakeUp()
    assert wake_up.wait(0.01) is None
    yield wake_up
    wake_up.close()


def test_a_lone_job_is_foretold(listener: WakeUp) -> None:
    """Before it is there and after: what has come is heard together, as the last of it knows."""
    [job] = submit()
    assert listener.wait(PATIENCE_SECONDS) == Foretold(job.id, HANDLER, "default")
    assert listener.wait(0.01) is None


def test_it_is_foretold_before_it_is_there(listener: WakeUp) -> None:
    soon = Foretold(uuid4(), HANDLER, "default", is_there=False)
    status.wake(soon)
    assert listener.wait(PATIENCE_SECONDS) == soon
    status.wake(soon._replace(is_there=True))
    assert listener.wait(PATIENCE_SECONDS) == soon._replace(is_there=True)


@pytest.mark.parametrize(
    "wishes",
    [
        pytest.param([Submission(HANDLER)] * 2, id="several"),
        pytest.param([Submission(HANDLER, delay_seconds=0.5)], id="not due"),
    ],
)
def test_others_only_wake(listener: WakeUp, wishes: list[Submission]) -> None:
    lifecycle.submit(wishes)
    assert listener.wait(PATIENCE_SECONDS) is None
    # The wake-up came, and was the only one.
    assert listener._heard(0.01) is None
    status.wake()
    assert listener._heard(PATIENCE_SECONDS) == b"1"


def test_a_job_that_waits_again_only_wakes(listener: WakeUp) -> None:
    attempts = claim(submit())
    assert listener.wait(PATIENCE_SECONDS) is not None
    finish(attempts, JobEvent.RETRY)
    assert listener._heard(PATIENCE_SECONDS) == b"1"


def test_of_several_jobs_none_is_foretold(listener: WakeUp) -> None:
    submit()
    submit()
    assert listener.wait(PATIENCE_SECONDS) is None
    assert listener._heard(0.01) is None


def test_those_that_soon_follow_are_told_together(
    listener: WakeUp, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(relay_round_seconds=1.0)
    first, *_ = [submit()[0].id for _ in range(3)]
    for is_there in False, True:
        foretold = Foretold(first, HANDLER, "default", is_there)
        assert foretold_in(listener._heard(PATIENCE_SECONDS)) == foretold
    assert listener._heard(PATIENCE_SECONDS) == b"1"
    assert listener._heard(0.3) is None


def test_one_of_several_relays_foretells_nothing(
    listener: WakeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them would ring."""
    other = WakeUp()
    other.wait(0.01)
    monkeypatch.setattr(wake, "COUNT_SECONDS", 0.0)
    submit()
    assert listener.wait(PATIENCE_SECONDS) is None
    other.close()
    while listener.wait(0.01) is None:
        submit()


def test_one_of_several_relays_sleeps_until_the_job_is_there(
    listener: WakeUp, monkeypatch: pytest.MonkeyPatch, redis_cache: redis.Redis
) -> None:
    """Before, there is nothing to look at, and it was not asked to ring."""
    monkeypatch.setattr(listener, "_is_alone", False)
    heard = listener._heard
    said: list[bytes | None] = []

    def hear(seconds: float) -> bytes | None:
        said.append(heard(seconds))
        if len(said) == 2:
            status.wake(soon._replace(is_there=True))
        return said[-1]

    monkeypatch.setattr(listener, "_heard", hear)
    soon = Foretold(uuid4(), HANDLER, "default", is_there=False)
    status.wake(soon)
    assert listener.wait(PATIENCE_SECONDS) is None
    assert [foretold_in(one) for one in said if one] == [soon, soon._replace(is_there=True)]


def test_what_is_not_ours_only_wakes(listener: WakeUp, redis_cache: redis.Redis) -> None:
    redis_cache.publish(status.wake_channel(), b'["x","y","z"]')
    assert listener.wait(PATIENCE_SECONDS) is None


def test_a_subscription_that_is_cut_is_opened_again(
    listener: WakeUp, redis_cache: redis.Redis
) -> None:
    cut(redis_cache, listener._pubsub.connection)
    assert listener.wait(PATIENCE_SECONDS) is None
    assert listener.wait(0.01) is None
    submit()
    assert listener.wait(PATIENCE_SECONDS) is not None


def test_who_may_not_count_relays_foretells_nothing(
    redis_cache: redis.Redis, jobs_settings: Callable[..., None]
) -> None:
    """With rules of an earlier release, which are no outage of Redis."""
    name = f"wake-{uuid4().hex}"
    rules = ["on", ">secret", "~*", "&*", "+@all", "-pubsub"]
    administer: Any = redis_cache.execute_command
    administer("ACL", "SETUSER", name, *rules)
    url = urlsplit(conf.get().cache_url)
    jobs_settings(
        cache_url=url._replace(netloc=f"{name}:secret@{url.hostname}:{url.port}").geturl(),
        cache_timeout_seconds=5.0,
        relay_round_seconds=0.0,
    )
    listener = WakeUp()
    assert listener.wait(0.01) is None
    assert not cache.breaker.is_open()
    submit()
    assert listener.wait(PATIENCE_SECONDS) is None
    submit()
    assert foretold_in(listener._heard(PATIENCE_SECONDS)) is not None
    listener.close()
    administer("ACL", "DELUSER", name)
