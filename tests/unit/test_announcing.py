"""News that wait for a moment: told once and by a thread, unless newer ones overtake them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from uuid import uuid4

import pytest

from jobs import announcing
from jobs.announcing import Announcer, Ringer
from jobs.values import Born, StatusView
from tests.verbs import a_view

PATIENCE_SECONDS = 20.0


class Listener:
    def __init__(self) -> None:
        self.told: list[StatusView] = []
        self.called = threading.Semaphore(0)
        self.fails = False

    def __call__(self, views: Sequence[StatusView]) -> None:
        self.told += views
        self.called.release()
        if self.fails:
            raise RuntimeError("bug in the cache")

    def wait(self) -> None:
        assert self.called.acquire(timeout=PATIENCE_SECONDS)


@pytest.fixture
def listener() -> Listener:
    return Listener()


def test_what_nothing_overtakes_is_told_together(listener: Listener) -> None:
    views = [a_view(), a_view()]
    Announcer(listener).add(views)
    listener.wait()
    assert listener.told == views


def test_what_newer_news_overtake_is_not_told(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "DELAY_SECONDS", 0.2)
    announcer = Announcer(listener)
    short, long, last = a_view(), a_view(), a_view()
    announcer.add([short, long])
    announcer.overtake([short, a_view()])
    listener.wait()
    announcer.add([last])
    listener.wait()
    assert listener.told == [long, last]


def test_a_failure_is_logged_and_keeps_nothing_from_being_told(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    listener.fails = True
    announcer = Announcer(listener)
    for _ in range(2):
        announcer.add([a_view()])
        listener.wait()
    assert len(listener.told) == 2
    assert "bug in the cache" in caplog.text


def test_a_child_tells_nothing_of_its_parents(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "DELAY_SECONDS", 0.2)
    announcer = Announcer(listener)
    theirs, own = a_view(), a_view()
    announcer.add([theirs])
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    announcer.add([own])
    listener.wait()
    assert listener.told == [own]


# ------------------------------------------------------------------------------- submits that ring


class Relay:
    """Keeps what it was told, and by which thread."""

    def __init__(self) -> None:
        self.told: list[Sequence[Born]] = []
        self.threads: list[str] = []
        self.called = threading.Semaphore(0)
        self.fails = False

    def __call__(self, jobs: Sequence[Born]) -> None:
        self.told.append(jobs)
        self.threads.append(threading.current_thread().name)
        self.called.release()
        if self.fails:
            raise RuntimeError("bug in the cache")

    def wait(self, calls: int = 1) -> None:
        for _ in range(calls):
            assert self.called.acquire(timeout=PATIENCE_SECONDS)


@pytest.fixture
def relay() -> Relay:
    return Relay()


def a_birth() -> list[Born]:
    return [Born(uuid4(), None, "noop", "default")]


def test_a_submit_after_a_pause_rings_at_once(relay: Relay) -> None:
    first, second = a_birth(), a_birth()
    ringer = Ringer(relay, lambda: 0.0)
    ringer.ring(first)
    ringer.ring(second)
    assert relay.told == [first, second]
    assert set(relay.threads) == {threading.current_thread().name}


def test_it_is_ready_unless_it_has_just_rung(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(announcing, "time", SimpleNamespace(monotonic=lambda: now))
    ringer = Ringer(relay, lambda: 60.0)
    assert ringer.is_ready()
    ringer.ring(a_birth())
    assert not ringer.is_ready()
    now += 60
    assert ringer.is_ready()


def test_a_child_is_ready_whatever_its_parent_did(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    ringer = Ringer(relay, lambda: 60.0)
    ringer.ring(a_birth())
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    assert ringer.is_ready()


def test_those_that_soon_follow_ring_once_and_together(relay: Relay) -> None:
    first = a_birth()
    ringer = Ringer(relay, lambda: 0.2)
    ringer.ring(first)
    for _ in range(5):
        ringer.ring(a_birth())
    assert relay.told == [first]
    relay.wait(2)
    assert relay.told == [first, ()]
    assert relay.threads[1] == "jobs-ringer"


def test_there_is_quiet_also_after_those_that_rang_together(relay: Relay) -> None:
    ringer = Ringer(relay, lambda: 0.2)
    ringer.ring(a_birth())
    ringer.ring(a_birth())
    relay.wait(2)
    ringer.ring(a_birth())
    assert len(relay.told) == 2
    relay.wait()
    assert relay.told[1:] == [(), ()]


def test_what_waits_may_be_told_before_its_time(relay: Relay) -> None:
    ringer = Ringer(relay, lambda: 60.0)
    ringer.ring(a_birth())
    ringer.flush()
    assert len(relay.told) == 1
    ringer.ring(a_birth())
    ringer.flush()
    ringer.flush()
    assert relay.told[1:] == [()]


def test_what_waits_goes_with_the_next_that_rings_at_once(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now, sleep=time.sleep)
    monkeypatch.setattr(announcing, "time", clock)
    ringer = Ringer(relay, lambda: 60.0)
    first, waits, last = a_birth(), a_birth(), a_birth()
    ringer.ring(first)
    ringer.ring(waits)
    now += 60
    ringer.ring(last)
    ringer.flush()
    assert relay.told == [first, last]


def test_a_process_that_exits_tells_what_waits() -> None:
    """Of its own, and not of its parent's."""
    code = """
import os
from jobs.announcing import Ringer

parent = os.getpid()
ringer = Ringer(lambda jobs: print(os.getpid() == parent, *jobs, flush=True), lambda: 60.0)
ringer.ring(["first"])
ringer.ring(["later"])
for jobs in ["own"], []:
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    if jobs:
        ringer.ring(jobs)
    break
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True first", "False own", "True"]


def test_bells_that_fail_keep_none_from_ringing(
    relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    relay.fails = True
    ringer = Ringer(relay, lambda: 0.05)
    with pytest.raises(RuntimeError, match="bug in the cache"):
        ringer.ring(a_birth())
    relay.wait()
    for _ in range(2):
        ringer.ring(a_birth())
        relay.wait()
    assert relay.told[1:] == [(), ()]
    assert "bug in the cache" in caplog.text
