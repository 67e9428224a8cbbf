"""Copies of jobs that can never change again: written without a look at what is there."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import redis

from jobs import cache, conf, status
from jobs.states import JobState
from jobs.values import StatusView
from tests.verbs import a_view


def completed(view: StatusView) -> StatusView:
    return view._replace(state=JobState.COMPLETED, version=view.version + 1)


def shown(*views: StatusView) -> list[tuple[int, int] | None]:
    copies = status.read([view.job_id for view in views])
    found = [copies.get(view.job_id) for view in views]
    return [copy and copy.rank for copy in found]


@pytest.mark.usefixtures("redis_cache")
def test_jobs_that_end_and_jobs_that_move_are_told_together() -> None:
    moving, ending = a_view(), a_view()
    status.reserve([moving.job_id], "t")
    status.fill([moving], "t")
    status.update([completed(ending), moving._replace(version=3)])
    assert shown(ending, moving) == [(2, 0), (3, 0)]


def test_what_never_changes_replaces_whatever_is_there(redis_cache: redis.Redis) -> None:
    views = [completed(a_view()) for _ in range(3)]
    first, second, _ = (status.name_of(view.job_id) for view in views)
    redis_cache.rpush(first, b"not a string")
    redis_cache.set(second, b"99.0:not ours")
    status.update(views)
    assert shown(*views) == [(2, 0)] * 3
    assert cache.breaker.failed_at == float("-inf")


def test_copies_that_are_made_together_do_not_end_together(redis_cache: redis.Redis) -> None:
    views = [completed(a_view()) for _ in range(10)]
    status.update(views)
    lives: list[Any] = [redis_cache.pttl(status.name_of(view.job_id)) for view in views]
    longest = conf.get().status_final_ttl_seconds * 1000
    assert all(0.89 * longest < life <= longest for life in lives)
    assert all(before - after > 0.005 * longest for before, after in pairwise(lives))


def test_each_change_is_told_to_those_who_wait(redis_cache: Any) -> None:
    views = [completed(a_view(version=version)) for version in (1, 7)]
    with redis_cache.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(*(status.channel_of(view.job_id) for view in views))
        for _ in views:
            pubsub.get_message(timeout=5)
        status.update(views)
        heard = [pubsub.get_message(timeout=5) for _ in views]
    assert [message and message["data"] for message in heard] == [b"2.0", b"8.0"]


def test_forgotten_scripts_are_told_again_and_the_relay_only_once(redis_cache: Any) -> None:
    moving, ending = a_view(), a_view()
    status.reserve([moving.job_id], "t")
    status.fill([moving], "t")
    redis_cache.script_flush()
    with redis_cache.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(status.wake_channel())
        pubsub.get_message(timeout=5)
        status.update([completed(ending), moving._replace(version=3)], wake=True)
        assert shown(ending, moving) == [(2, 0), (3, 0)]
        # What Redis tells after this, it tells behind a second wake-up.
        redis_cache.publish(status.wake_channel(), b"last")
        heard = [pubsub.get_message(timeout=5) for _ in range(2)]
    assert [message and message["data"] for message in heard] == [b"1", b"last"]
