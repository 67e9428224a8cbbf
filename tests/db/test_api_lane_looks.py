"""Threads that look into Redis at the same moment share the look, and each gets its own answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from jobs import cache
from jobs.api import plain
from tests.conftest import JobFactory, UserFactory
from tests.db.conftest import PrivateRedis
from tests.lane import KeyFactory, World, code_of
from tests.rivals import PATIENCE_SECONDS, Rival, until
from tests.wsgi import Answer, ask

pytestmark = pytest.mark.django_db(transaction=True)


class Gate:
    """``cache.fetch``, whose first call waits until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Sequence[str]] = []
        self._opened = threading.Event()
        self._fetch = cache.fetch
        monkeypatch.setattr(cache, "fetch", self)

    def __call__(self, names: Sequence[str]) -> list[Any] | None:
        self.calls.append(names)
        if len(self.calls) == 1:
            assert self._opened.wait(PATIENCE_SECONDS)
        return self._fetch(names)

    def opened(self, asking: Sequence[Callable[[], Answer]]) -> list[Answer]:
        """What all get: the first is under way, and the others wait, when it opens."""
        first, *others = asking
        rivals = [Rival(first, connects=False)]
        until(lambda: self.calls)
        rivals += [Rival(other, connects=False) for other in others]
        until(lambda: len(plain._looks._waiting) == len(others))
        self._opened.set()
        return [rival.answer() for rival in rivals]


def test_looks_of_the_same_moment_share_a_round_trip(
    world: World,
    user_factory: UserFactory,
    key_factory: KeyFactory,
    job_factory: JobFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each gets its own answer, hit or miss, and nobody what is another's."""
    stranger = user_factory()
    key = key_factory(stranger)
    [theirs] = job_factory(owner_id=stranger.pk)
    nothing = uuid4()
    cases = [
        (world.key, world.job.id),
        (key, theirs.id),
        (world.key, theirs.id),
        (key, nothing),
        (world.key, world.job.id),
        (key, theirs.id),
    ]

    def asking(key: str, job_id: UUID) -> Callable[[], Answer]:
        environ = {"HTTP_AUTHORIZATION": f"Bearer {key}"}
        return lambda: ask(world.lane, world.path(job_id), **world.environ(environ))

    wanted = [
        world.both(world.path(job_id), HTTP_AUTHORIZATION=f"Bearer {key}")[0]
        for key, job_id in cases
    ]
    assert [code_of(answer) for answer in wanted] == [200, 200, 404, 404, 200, 200]
    before = world.behind.count
    gate = Gate(monkeypatch)
    assert gate.opened([asking(*case) for case in cases]) == wanted
    assert world.behind.count == before + 2
    assert [len(names) for names in gate.calls[:2]] == [2, 2 * (len(cases) - 1)]


def test_a_redis_that_freezes_delays_all_who_look_once(
    world: World,
    private_redis: PrivateRedis,
    jobs_settings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs_settings(cache_url=private_redis.url, cache_timeout_seconds=0.5, cache_retry_seconds=30)
    wanted = world.by_lane()
    gate = Gate(monkeypatch)
    private_redis.freeze()
    begun = time.monotonic()
    answers = gate.opened([lambda: ask(world.lane, world.path(), **world.environ({}))] * 12)
    assert answers == [wanted] * 12
    # One bounded wait for all twelve.
    assert 0.5 <= time.monotonic() - begun < 4
    private_redis.thaw()
