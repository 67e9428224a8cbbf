"""The reader's copy on a real Redis: it may be missing, late or broken, never behind."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jobs import cache, conf, events, lifecycle, observers, status, status_reader
from jobs.models import Job
from jobs.states import JobEvent, JobState
from jobs.status import Copy
from jobs.values import Progress, StatusView
from tests.db.conftest import PrivateRedis
from tests.marks import until
from tests.verbs import USER, a_view, claim, finish, statements, submit, watched

Rank = tuple[int, int]


def shown(job_id: UUID) -> Rank | None:
    """The rank that a reader gets from Redis now."""
    copy = status.read([job_id]).get(job_id)
    return None if copy is None else copy.rank


def key(client: redis.Redis) -> bytes:
    [name] = client.keys(f"{conf.get().cache_prefix}:s:*")
    assert isinstance(name, bytes)
    return name


def filled(view: StatusView) -> StatusView:
    """The view, as the copy that readers have."""
    status.reserve([view.job_id], "t0")
    status.fill([view], "t0")
    assert shown(view.job_id) == view.rank
    return view


# ------------------------------------------------------------------------------- fill and update


@pytest.mark.usefixtures("redis_cache")
def test_a_copy_is_what_the_database_would_say() -> None:
    view = filled(a_view(version=3, seq=2)._replace(owner_id=7, progress=Progress(0.5, "half é")))
    copy = status.read([view.job_id])[view.job_id]
    assert copy == status.render(view)
    assert (copy.owner_id, copy.rank, copy.etag) == (7, (3, 2), '"3.2"')
    assert json.loads(copy.body)["progress"] == {"fraction": 0.5, "message": "half é"}


@pytest.mark.usefixtures("redis_cache")
def test_many_copies_come_in_one_answer_without_the_unknown() -> None:
    views = [filled(a_view()) for _ in range(3)]
    stranger = uuid4()
    found = status.read([views[2].job_id, stranger, views[0].job_id])
    assert set(found) == {views[2].job_id, views[0].job_id}
    assert status.read([]) == {}


@pytest.mark.usefixtures("redis_cache")
def test_a_fill_without_a_lease_is_refused() -> None:
    view = a_view()
    status.fill([view], "nobody")
    assert shown(view.job_id) is None


@pytest.mark.usefixtures("redis_cache")
def test_a_fill_under_somebody_elses_lease_is_refused() -> None:
    view = a_view()
    status.reserve([view.job_id], "first")
    status.reserve([view.job_id], "second")
    status.fill([view], "second")
    assert shown(view.job_id) is None
    status.fill([view], "first")
    assert shown(view.job_id) == (1, 0)


def test_a_late_fill_after_an_update_is_refused(redis_cache: redis.Redis) -> None:
    old = a_view()
    status.reserve([old.job_id], "slow reader")
    status.update([old._replace(version=2)])
    status.fill([old], "slow reader")
    assert shown(old.job_id) is None
    assert redis_cache.keys(f"{conf.get().cache_prefix}:*") == []


def test_a_late_fill_after_an_eviction_is_refused(redis_cache: redis.Redis) -> None:
    old = a_view()
    status.reserve([old.job_id], "slow reader")
    status.update([old._replace(version=2)])
    filled(old._replace(version=2))
    redis_cache.delete(key(redis_cache))
    status.fill([old], "slow reader")
    assert shown(old.job_id) is None


def test_a_reader_that_holds_no_lease_raises_the_bar(redis_cache: redis.Redis) -> None:
    """The update is still on its way when a second reader is shown the new row."""
    old = a_view()
    new = old._replace(version=2)
    status.reserve([old.job_id], "slow reader")
    status.reserve([old.job_id], "quick reader")
    status.fill([new], "quick reader")
    status.fill([old], "slow reader")
    assert shown(old.job_id) is None
    status.fill([new], "slow reader")
    assert shown(old.job_id) is None, "the lease ended with the refused fill"
    assert redis_cache.keys(f"{conf.get().cache_prefix}:*") == []


@pytest.mark.usefixtures("redis_cache")
def test_the_bar_is_no_obstacle_to_the_same_news() -> None:
    view = a_view(version=2, seq=5)
    status.reserve([view.job_id], "first")
    status.fill([view], "second")
    status.fill([view._replace(progress_seq=3)], "third")
    status.fill([view], "first")
    assert shown(view.job_id) == (2, 5)


@pytest.mark.usefixtures("redis_cache")
def test_a_reader_brings_an_older_copy_forward() -> None:
    old = filled(a_view(version=2))
    status.fill([old._replace(version=3)], "no lease")
    assert shown(old.job_id) == (3, 0)
    status.fill([old], "no lease")
    assert shown(old.job_id) == (3, 0)


@pytest.mark.usefixtures("redis_cache")
@pytest.mark.parametrize(
    ("version", "seq", "after"),
    [
        (6, 0, (6, 0)),
        (5, 4, (5, 4)),
        (5, 3, (5, 3)),
        (5, 2, (5, 3)),
        (4, 9, (5, 3)),
        (10, 0, (10, 0)),
    ],
)
def test_an_update_replaces_only_a_lower_rank(version: int, seq: int, after: Rank) -> None:
    view = filled(a_view(version=5, seq=3))
    status.update([view._replace(version=version, progress_seq=seq)])
    assert shown(view.job_id) == after


@pytest.mark.usefixtures("redis_cache")
@pytest.mark.parametrize("state", list(JobState))
def test_an_update_creates_nothing_but_what_can_never_change(state: JobState) -> None:
    view = a_view(state, version=4)
    status.update([view])
    assert shown(view.job_id) == ((4, 0) if state is JobState.COMPLETED else None)


@pytest.mark.usefixtures("redis_cache")
def test_what_can_never_change_overrules_a_lease() -> None:
    old = a_view()
    done = old._replace(state=JobState.COMPLETED, version=3)
    status.reserve([old.job_id], "slow reader")
    status.update([done])
    status.fill([old], "slow reader")
    assert shown(old.job_id) == (3, 0)


@pytest.mark.usefixtures("redis_cache")
def test_a_lease_does_not_displace_a_copy() -> None:
    view = filled(a_view(version=2))
    status.reserve([view.job_id], "late")
    assert shown(view.job_id) == (2, 0)


def test_copies_and_leases_end_by_themselves(
    redis_cache: redis.Redis, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(status_fill_seconds=7, status_ttl_seconds=100, status_final_ttl_seconds=1000)
    view = a_view()
    status.reserve([view.job_id], "t")
    assert 6000 < redis_cache.pttl(key(redis_cache)) <= 7000
    status.fill([view._replace(version=2)], "somebody else")
    assert 0 < redis_cache.pttl(key(redis_cache)) <= 7000
    status.update([view])
    filled(view)
    assert 80_000 < redis_cache.pttl(key(redis_cache)) <= 100_000
    status.update([view._replace(state=JobState.COMPLETED, version=3)])
    assert 800_000 < redis_cache.pttl(key(redis_cache)) <= 1_000_000


# ----------------------------------------------------------------------------------- broken bytes


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x",
        b"lease:",
        b"1.0",
        b"1.0::",
        b"a.b:7:%s:{}",
        b"1:7:%s:{}",
        b"1.0:x:%s:{}",
        b"1.0:7:%s:[]",
        b"1.0:7:00000000-0000-0000-0000-000000000000:{}",
        b"\xff\xfe\x00",
    ],
)
def test_broken_or_foreign_bytes_are_a_miss(redis_cache: redis.Redis, value: bytes) -> None:
    view = filled(a_view())
    name = key(redis_cache)
    redis_cache.set(name, value.replace(b"%s", str(view.job_id).encode()))
    assert shown(view.job_id) is None
    status.update([view._replace(version=2)])
    assert shown(view.job_id) in {None, (2, 0)}


def test_a_value_of_another_type_is_a_miss(redis_cache: redis.Redis) -> None:
    view = filled(a_view())
    name = key(redis_cache)
    redis_cache.delete(name)
    redis_cache.rpush(name, b"1.0:7:x:{}")
    assert shown(view.job_id) is None


@pytest.mark.parametrize("place", [0, 2, 4])
def test_one_broken_key_keeps_no_news_from_the_others(
    redis_cache: redis.Redis, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    views = [filled(a_view()) for _ in range(5)]
    name = f"{conf.get().cache_prefix}:s:{views[place].job_id}"
    redis_cache.delete(name)
    redis_cache.rpush(name, b"not a string")
    status.update([view._replace(version=2) for view in views])
    assert "WRONGTYPE" in caplog.text
    assert not redis_cache.exists(name)
    assert cache.breaker.failed_at == float("-inf")
    others = [view.job_id for view in views if view is not views[place]]
    assert [shown(job_id) for job_id in others] == [(2, 0)] * 4


def test_many_are_written_in_portions_each_under_its_own_key(
    redis_cache: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "_AT_ONCE", 3)
    views = [a_view(version=number) for number in range(1, 9)]
    status.reserve([view.job_id for view in views], "t0")
    status.fill(views, "t0")
    assert [shown(view.job_id) for view in views] == [view.rank for view in views]
    status.update(
        [view._replace(version=view.version + number % 2) for number, view in enumerate(views)]
    )
    assert [shown(view.job_id) for view in views] == [
        (view.version + number % 2, 0) for number, view in enumerate(views)
    ]


def test_the_copy_of_another_job_is_never_shown(redis_cache: redis.Redis) -> None:
    mine, theirs = filled(a_view()._replace(owner_id=1)), a_view()
    value = redis_cache.get(key(redis_cache))
    assert isinstance(value, bytes)
    redis_cache.set(f"{conf.get().cache_prefix}:s:{theirs.job_id}", value)
    assert shown(theirs.job_id) is None
    assert shown(mine.job_id) == (1, 0)


@pytest.mark.parametrize("place", ["rank", "owner", "body", "seal"])
def test_a_forged_copy_is_a_miss(redis_cache: redis.Redis, place: str) -> None:
    """Somebody with access to Redis changes one thing, and everything else still fits."""
    view = filled(a_view()._replace(owner_id=1))
    name = key(redis_cache)
    value = redis_cache.get(name)
    assert isinstance(value, bytes)
    rank, owner, job_id, mark, body = value.split(b":", 4)
    parts = {"rank": rank, "owner": owner, "id": job_id, "seal": mark, "body": body}
    parts |= {
        "rank": {"rank": b"9.9"},
        "owner": {"owner": b"2"},
        "body": {"body": body.replace(b"PENDING", b"RUNNING")},
        "seal": {"seal": b"0" * len(mark)},
    }[place]
    redis_cache.set(name, b":".join(parts.values()))
    assert shown(view.job_id) is None


# ----------------------------------------------------------------------- any order of everything

#: Readers begin and move more often than the job does, or nothing would overlap.
NAMES = [
    *["begin"] * 4,
    *["advance"] * 10,
    *["commit", "progress", "complete", "evict", "deliver", "deliver", "lose"],
]
STEPS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 2)), min_size=12, max_size=40)


@dataclass
class Reader:
    """A request for the status, stopped between any two of its steps."""

    token: str
    floor: Rank
    view: StatusView | None = None
    reserved: bool = False


class World:
    """One job: its true row, updates on their way, and readers half way through."""

    def __init__(self) -> None:
        self.truth = a_view()
        self.underway: list[StatusView] = []
        self.readers: list[Reader] = []
        self.seen: Rank = (0, 0)

    def step(self, name: str, index: int) -> None:
        getattr(self, name)(index)

    def commit(self, _: int) -> None:
        self._write(version=self.truth.version + 1)

    def progress(self, _: int) -> None:
        self._write(progress_seq=self.truth.progress_seq + 1)

    def complete(self, _: int) -> None:
        self._write(version=self.truth.version + 1, state=JobState.COMPLETED)

    def _write(self, **changes: Any) -> None:
        if not self.truth.is_immutable:
            self.truth = self.truth._replace(**changes)
            self.underway.append(self.truth)

    def deliver(self, index: int) -> None:
        if index < len(self.underway):
            status.update([self.underway.pop(index)])

    def lose(self, index: int) -> None:
        if index < len(self.underway):
            self.underway.pop(index)

    def evict(self, _: int) -> None:
        cache.client().flushdb()

    def begin(self, _: int) -> None:
        reader = Reader(uuid4().hex, self.seen)
        copy = status.read([self.truth.job_id]).get(self.truth.job_id)
        if copy is None:
            self.readers.append(reader)
        else:
            self._answer(reader, copy)

    def advance(self, index: int) -> None:
        if index >= len(self.readers):
            return
        reader = self.readers[index]
        if not reader.reserved:
            status.reserve([self.truth.job_id], reader.token)
            reader.reserved = True
        elif reader.view is None:
            reader.view = self.truth
        else:
            status.fill([reader.view], reader.token)
            self.readers.pop(index)
            self._answer(reader, status.render(reader.view))

    def _answer(self, reader: Reader, copy: Copy) -> None:
        assert copy.rank >= reader.floor, "a later reader was shown less"
        assert copy.rank <= self.truth.rank
        self.seen = max(self.seen, copy.rank)


@hypothesis_settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_no_later_reader_is_shown_less(
    redis_cache: redis.Redis, steps: list[tuple[str, int]]
) -> None:
    redis_cache.flushdb()
    world = World()
    for name, index in steps:
        world.step(name, index)
    world.begin(0)


# ---------------------------------------------------------------------------- from verbs to readers


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis_cache")
def test_every_step_of_a_job_reaches_its_readers() -> None:
    [job] = watched()
    assert shown(job.id) == (1, 0)
    [attempt] = claim([job])
    until(lambda: shown(job.id) == (2, 0), 10)
    lifecycle.cancel([job.id], actor=USER)
    finish([attempt], JobEvent.SUCCEED, result={"n": 1})
    with statements() as found:
        copy = status_reader.one(job.id)
    assert found == []
    assert copy is not None
    body = json.loads(copy.body)
    assert (body["state"], body["version"], body["result"]) == ("COMPLETED", 4, {"n": 1})


def test_a_redis_that_has_forgotten_the_scripts_is_told_them_again(
    redis_cache: redis.Redis,
) -> None:
    view = filled(a_view())
    redis_cache.script_flush()
    status.update([view._replace(version=2)], wake=True)
    assert shown(view.job_id) == (2, 0)
    status.update([view._replace(version=3)])
    assert shown(view.job_id) == (3, 0)
    assert cache.breaker.failed_at == float("-inf")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis_cache")
def test_many_that_move_lose_their_copies_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "MOVING_COPIES_AT_ONCE", 2)
    jobs = watched(3)
    ids = [job.id for job in jobs]
    assert set(status.read(ids)) == set(ids)
    attempts = claim(jobs)
    until(lambda: status.read(ids) == {}, 10)
    first = status_reader.one(ids[0])
    assert first is not None
    assert first.rank == shown(ids[0]) == (2, 0)
    finish(attempts, JobEvent.SUCCEED)
    assert [shown(job_id) for job_id in ids] == [(3, 0)] * 3


@pytest.mark.usefixtures("redis_cache")
@pytest.mark.parametrize(
    ("version", "seq", "after"),
    [(2, 0, (2, 5)), (2, 5, (2, 5)), (2, 6, None), (3, 0, None), (1, 9, (2, 5))],
)
def test_an_update_without_a_copy_deletes_only_a_lower_rank(
    version: int, seq: int, after: Rank | None
) -> None:
    view = filled(a_view(version=2, seq=5))
    newer = view._replace(version=version, progress_seq=seq)
    status.update([newer], moving=False)
    assert shown(view.job_id) == after
    status.fill([view], "t0")
    assert shown(view.job_id) == after


@pytest.mark.django_db(transaction=True)
def test_after_a_flush_the_first_reader_fills_for_all(redis_cache: redis.Redis) -> None:
    [job] = submit()
    claim([job])
    redis_cache.flushall()
    with statements() as found:
        first = status_reader.one(job.id)
        second = status_reader.one(job.id)
    assert len(found) == 1
    assert first == second
    assert first is not None
    assert first.rank == (2, 0)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis_cache")
def test_a_submit_leaves_its_copies_to_the_readers() -> None:
    [job] = submit()
    claim([job])
    assert status.read([job.id]) == {}
    first = status_reader.one(job.id)
    assert first is not None
    assert first.rank == shown(job.id) == (2, 0)


@pytest.mark.usefixtures("redis_cache")
@pytest.mark.parametrize(
    "view",
    [
        a_view(),
        a_view()._replace(
            result={"a": [1, None, "ü"]}, has_result=True, started_at=a_view().due_at
        ),
        a_view()._replace(reason='say "no" \\ \n\x00\ud800', cancel_requested=True, owner_id=3),
        a_view()._replace(handler="é", queue='"', progress=Progress(1, "\u2028")),
    ],
)
def test_a_copy_is_the_json_that_it_stands_for(view: StatusView) -> None:
    text = status.render(view).body.decode()
    body = json.loads(text)
    assert text == json.dumps(body, separators=(",", ":"))
    assert {**body, "progress": None, "links": None} == {
        **{name: getattr(view, name) for name in body if hasattr(view, name)},
        "id": str(view.job_id),
        "submitted_at": view.submitted_at.isoformat(),
        "due_at": view.due_at.isoformat(),
        "started_at": view.started_at and view.started_at.isoformat(),
        "progress": None,
        "links": None,
    }
    assert body["progress"] == view.progress._asdict()
    assert set(body["links"]) == {"self", *(["result"] if view.has_result else [])}


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis_cache")
def test_a_submit_rings_the_relay_twice_and_a_retry_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever was submitted before.
    monkeypatch.setattr(observers._ringer, "_quiet_until", float("-inf"))
    client: Any = cache.waiting_client(5)
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(status.wake_channel())
        while not pubsub.subscribed:
            pubsub.get_message(timeout=1)
        pubsub.get_message(timeout=1)
        attempts = claim(submit())
        for _ in range(2):
            assert pubsub.get_message(timeout=5) is not None
        finish(attempts, JobEvent.RETRY)
        assert pubsub.get_message(timeout=5) is not None
        assert pubsub.get_message(timeout=0.05) is None
    client.close()


@pytest.mark.usefixtures("redis_cache")
def test_a_watch_hears_of_the_next_change() -> None:
    view = a_view()
    with status.Watch(view.job_id) as watch:
        assert watch.works
        assert not watch.wait(0.02)
        threading.Timer(0.05, lambda: status.update([view._replace(version=2)])).start()
        assert watch.wait(10)


@pytest.mark.usefixtures("redis_cache")
def test_a_watch_hears_what_happened_after_it_was_opened() -> None:
    view = a_view()
    with status.Watch(view.job_id) as watch:
        status.update([view._replace(version=2)])
        assert watch.wait(10)


# --------------------------------------------------------------------------------- without Redis


def test_without_redis_nothing_is_asked_and_nothing_breaks() -> None:
    view = a_view()
    status.reserve([view.job_id], "t")
    status.fill([view], "t")
    status.wake()
    status.update([view], wake=True)
    assert status.read([view.job_id]) == {}
    with status.Watch(view.job_id) as watch:
        assert not watch.works
        assert not watch.wait(0.01)


def test_a_redis_that_is_gone_is_left_alone_for_a_while(
    jobs_settings: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    jobs_settings(cache_url="redis://127.0.0.1:1/0", cache_retry_seconds=60)
    asked = []

    def question(client: redis.Redis) -> Any:
        asked.append(1)
        return client.ping()

    assert [cache.ask(question) for _ in range(50)] == [None] * 50
    assert len(asked) == 1
    assert len(caplog.records) == 1
    assert cache.breaker.is_open()


def test_the_breaker_closes_again(
    redis_cache: redis.Redis, jobs_settings: Callable[..., None]
) -> None:
    good = conf.get().cache_url
    jobs_settings(cache_url="redis://127.0.0.1:1/0", cache_retry_seconds=0.05)
    assert cache.ask(lambda client: client.ping()) is None
    jobs_settings(cache_url=good)
    deadline = time.monotonic() + 10
    while cache.breaker.is_open():
        assert time.monotonic() < deadline
    assert cache.ask(lambda client: client.ping()) is True


@pytest.mark.django_db(transaction=True)
def test_a_frozen_redis_delays_readers_by_one_bound(
    private_redis: PrivateRedis, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(cache_url=private_redis.url, cache_timeout_seconds=0.2, cache_retry_seconds=30)
    jobs = watched(20)
    assert len(status.read([job.id for job in jobs])) == 20
    private_redis.freeze()
    begun = time.monotonic()
    copies = [status_reader.one(job.id) for job in jobs]
    lifecycle.cancel([jobs[0].id], actor=USER)
    took = time.monotonic() - begun
    assert all(copy is not None and copy.rank == (1, 0) for copy in copies)
    assert Job.objects.get(id=jobs[0].id).state == JobState.CANCELLED
    # One bounded wait (0.2 s), not forty; the rest is what a slow machine needs for the queries.
    assert took < 5
    assert cache.breaker.is_open()
    private_redis.thaw()
    cache.breaker.forget()
    assert status_reader.one(jobs[1].id) is not None


def test_an_observer_that_fails_harms_no_verb(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("bug in the cache")

    monkeypatch.setattr(status, "update", broken)
    events.tell(events.Progressed((a_view(),)))
    assert "bug in the cache" in caplog.text
