"""COMMIT succeeds, and its answer never arrives: every verb, run again, recognises its own work."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import OperationalError

from jobs import lifecycle
from jobs.executor import Executor
from jobs.models import AuditEntry, Job, JobLogLine, OutboxEntry
from jobs.states import JobEvent, JobState
from jobs.values import Beat, Doorbell, LogLine, Outcome, Submission
from tests.concurrency.attempts import run
from tests.verbs import (
    HANDLER,
    USER,
    WORKER,
    claim,
    history,
    lapse,
    lost_answer,
    lost_answers,
    submit,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quick")]


def test_submit() -> None:
    with lost_answer():
        [accepted] = lifecycle.submit([Submission(HANDLER, {"value": 1})])
    assert accepted.created
    assert history(accepted.job_id) == ["submit"]
    assert Job.objects.count() == OutboxEntry.objects.count() == 1


def test_claim() -> None:
    jobs = submit(2)
    with lost_answer():
        attempts = claim(jobs)
    tokens = dict(Job.objects.values_list("id", "lease_token"))
    assert {attempt.job_id: attempt.token for attempt in attempts} == tokens
    assert [history(job.id) for job in jobs] == [["submit", "claim"]] * 2


def test_a_claim_whose_every_answer_is_lost_is_still_found_later() -> None:
    """More often than one call of the verb tries: the executor waits, and asks with the same
    tokens."""
    [job] = submit()
    with lost_answers(6) as lost:
        claimed = lifecycle.Claim([Doorbell(job.id, 1)], worker=WORKER, handlers=[HANDLER])
        with pytest.raises(OperationalError):
            claimed()
        [attempt] = claimed()
    assert len(lost) == 6
    assert attempt.token == Job.objects.get().lease_token
    assert history(job.id) == ["submit", "claim"]


def test_a_whole_attempt_whose_answers_are_lost() -> None:
    [job] = submit(payload={"value": 7})
    with lost_answers(12) as lost:
        [settled] = run(job, executor=Executor(WORKER))
    assert len(lost) == 12
    assert (settled.event, settled.fenced) == (JobEvent.SUCCEED, False)
    assert history(job.id) == ["submit", "claim", "succeed"]
    assert Job.objects.get().result == 7


@pytest.mark.parametrize(
    "event", [JobEvent.SUCCEED, JobEvent.RETRY, JobEvent.FAIL, JobEvent.RELEASE]
)
def test_finish(event: JobEvent) -> None:
    [attempt] = claim(submit())
    with lost_answer():
        [settled] = lifecycle.finish([Outcome(attempt, event)], worker=WORKER)
    assert (settled.event, settled.fenced) == (event, False)
    assert history(attempt.job_id) == ["submit", "claim", str(event)]


def test_cancel() -> None:
    waiting, running = submit(2)
    claim([running])
    with lost_answer():
        answers = lifecycle.cancel([waiting.id, running.id], actor=USER)
    assert {one.job_id: one.state for one in answers} == {
        waiting.id: JobState.CANCELLED,
        running.id: JobState.RUNNING,
    }
    assert history(waiting.id) == ["submit", "cancel"]
    assert history(running.id) == ["submit", "claim", "request_cancel"]


def test_reopen() -> None:
    [job] = submit()
    lifecycle.cancel([job.id], actor=USER)
    with lost_answer():
        [answer] = lifecycle.reopen([job.id], actor=USER)
    assert answer.state is JobState.PENDING
    assert history(job.id) == ["submit", "cancel", "reopen"]
    assert OutboxEntry.objects.filter(job_version=3).count() == 1


def test_heartbeat() -> None:
    [attempt] = claim(submit())
    lines = tuple(LogLine(datetime.now(UTC), "info", text) for text in ("one", "two", "two"))
    with lost_answer():
        [pulse] = lifecycle.heartbeat([Beat(attempt.job_id, attempt.token, lines=lines)])
    assert pulse.held
    assert list(JobLogLine.objects.order_by("id").values_list("message", flat=True)) == [
        "one",
        "two",
        "two",
    ], "stored once"


def test_lines_of_a_beat_that_failed_altogether_are_not_doubled_by_the_next() -> None:
    [attempt] = claim(submit())
    beat = Beat(attempt.job_id, attempt.token, lines=(LogLine(datetime.now(UTC), "info", "once"),))
    with lost_answers(4), pytest.raises(OperationalError):
        lifecycle.heartbeat([beat])
    later = LogLine(datetime.now(UTC), "info", "later")
    lifecycle.heartbeat(
        [Beat(beat.job_id, beat.token, lines=(*beat.lines, later), lines_repeat=True)]
    )
    messages = JobLogLine.objects.order_by("id").values_list("message", flat=True)
    assert list(messages) == ["once", "later"]


def test_rescue() -> None:
    jobs = submit(3)
    claim(jobs)
    lapse(jobs)
    with lost_answer():
        lifecycle.rescue(limit=10, actor_id="r")
    assert [history(job.id) for job in jobs] == [["submit", "claim", "rescue"]] * 3
    assert set(Job.objects.values_list("lost_attempts", flat=True)) == {1}


def test_doubt() -> None:
    jobs: list[Any] = submit(2)
    claim(jobs)
    with lost_answer():
        assert lifecycle.doubt([Doorbell(job.id, 1) for job in jobs]) == 2
    assert AuditEntry.objects.count() == 4
