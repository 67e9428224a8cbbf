"""Facts reach every subscriber, and no subscriber can harm another."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from uuid import uuid4

import pytest

from jobs import events, observers
from jobs.states import JobEvent
from jobs.values import Born
from tests.verbs import a_view

FACT = events.Fenced(uuid4(), uuid4(), JobEvent.SUCCEED, "w")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = list(events._subscribers)
    yield
    events._subscribers[:] = before


def test_a_failing_subscriber_is_logged_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[events.Fact] = []

    def broken(fact: events.Fact) -> None:
        raise OSError("no disk")

    events.subscribe(broken)
    events.subscribe(heard.append)
    events.tell(FACT)
    assert heard == [FACT]
    assert "broken" in caplog.text
    assert "no disk" in caplog.text


def test_subscribing_twice_is_once() -> None:
    heard: list[events.Fact] = []
    hear = heard.append
    events.subscribe(hear)
    events.subscribe(hear)
    events.tell(FACT)
    assert heard == [FACT]
    events.unsubscribe(hear)
    events.tell(FACT)
    assert heard == [FACT]


def test_the_app_subscribes_its_own_observers() -> None:
    assert observers.keep_log in events._subscribers
    assert observers.keep_status in events._subscribers


def test_the_log_has_one_line_per_transition(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="jobs")
    view = a_view(version=4)
    observers.keep_log(events.Transitioned(JobEvent.RETRY, (view,)))
    observers.keep_log(events.Submitted((Born(view.job_id, None, "h", "default"),)))
    observers.keep_log(FACT)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert lines[0].startswith(f"retry job={view.job_id} ")
    assert "version=4" in lines[0]
    assert lines[1].startswith(f"submit job={view.job_id}")
    assert lines[2].startswith(f"fenced job={FACT.job_id}")
    assert [record.levelname for record in caplog.records] == ["INFO", "DEBUG", "WARNING"]
