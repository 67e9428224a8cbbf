"""A sign of life renews the lease and nothing else; who lost the lease is told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from django.db import connection

from jobs import events, lifecycle
from jobs.models import Job, JobLogLine
from jobs.values import Beat, LogLine, Pulse
from tests.verbs import USER, Facts, claim, history, lapse, statements, submit

pytestmark = pytest.mark.django_db

LINE = LogLine(datetime(2026, 1, 1, tzinfo=UTC), "info", "step 3")


def held(count: int = 1) -> list[Beat]:
    return [Beat(attempt.job_id, attempt.token) for attempt in claim(submit(count))]


def test_a_beat_renews_the_lease(jobs_settings: Callable[..., None]) -> None:
    [beat] = held()
    lapse(Job.objects.all())
    jobs_settings(lease_seconds=900)
    assert lifecycle.heartbeat([beat]) == [Pulse(beat.job_id, held=True, cancel_requested=False)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT lease_until > now() + interval '890 s' FROM jobs_job")
        assert cursor.fetchall() == [(True,)]


def test_a_beat_is_no_transition() -> None:
    [beat] = held()
    lifecycle.heartbeat([beat._replace(fraction=0.5)])
    assert history(beat.job_id) == ["submit", "claim"]
    assert Job.objects.get().version == 2


def test_progress_is_stored_and_counted() -> None:
    [beat] = held()
    lifecycle.heartbeat([beat._replace(fraction=0.5, message="half\x00")])
    lifecycle.heartbeat([beat])
    job = Job.objects.get()
    assert (job.progress, job.progress_message, job.progress_seq) == (0.5, "half", 1)
    lifecycle.heartbeat([beat._replace(fraction=0.0, message="")])
    job = Job.objects.get()
    assert (job.progress, job.progress_message, job.progress_seq) == (0, "", 2)


def test_lines_are_stored_with_the_beat() -> None:
    [beat] = held()
    lifecycle.heartbeat([beat._replace(lines=(LINE, LINE))])
    kept = JobLogLine.objects.filter(job_id=beat.job_id, attempt=1, level="info", at=LINE.at)
    assert kept.count() == 2


def test_a_cancel_request_comes_back_with_the_pulse() -> None:
    [beat] = held()
    lifecycle.cancel([beat.job_id], actor=USER)
    assert lifecycle.heartbeat([beat]) == [Pulse(beat.job_id, held=True, cancel_requested=True)]


def test_who_lost_the_lease_renews_and_stores_nothing() -> None:
    [beat] = held()
    lapse(Job.objects.all())
    lifecycle.rescue(limit=1, actor_id="r")
    late = beat._replace(fraction=0.9, lines=(LINE,))
    nothing = Pulse(beat.job_id, held=False, cancel_requested=False)
    assert lifecycle.heartbeat([late]) == [nothing]
    claim(Job.objects.all(), "worker:2")
    before = Job.objects.values().get()
    assert lifecycle.heartbeat([late]) == [nothing]
    assert Job.objects.values().get() == before
    assert JobLogLine.objects.count() == 0


def test_answers_come_in_the_order_given() -> None:
    beats = held(3)
    beats[1] = Beat(beats[1].job_id, uuid4())
    pulses = lifecycle.heartbeat(list(reversed(beats)))
    assert [pulse.job_id for pulse in pulses] == [beat.job_id for beat in reversed(beats)]
    assert [pulse.held for pulse in pulses] == [True, False, True]


@pytest.mark.parametrize("count", [1, 100])
def test_the_number_of_statements_does_not_grow(count: int) -> None:
    beats = [beat._replace(fraction=0.1, lines=(LINE,)) for beat in held(count)]
    with statements() as found:
        lifecycle.heartbeat(beats)
    assert len(found) == 2
    with statements() as found:
        assert lifecycle.heartbeat([]) == []
    assert found == []


@pytest.mark.django_db(transaction=True)
def test_only_progress_is_told(facts: Facts) -> None:
    first, second = held(2)
    lifecycle.heartbeat([first._replace(fraction=0.25), second])
    [told] = facts.of(events.Progressed)
    [view] = told.views
    assert (view.job_id, view.progress.fraction, view.rank) == (first.job_id, 0.25, (2, 1))
