"""News that wait for a moment: told once, by a thread, unless newer ones overtake them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import pytest

from jobs import announcing
from jobs.announcing import Announcer
from jobs.values import StatusView
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
