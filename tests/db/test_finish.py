"""Finishing an attempt: by its holder only, once, with everything that belongs to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from jobs import events, lifecycle
from jobs.errors import IllegalTransition
from jobs.models import AuditEntry, Job, JobArtifact, JobLogLine, OutboxEntry
from jobs.querysets import read_views
from jobs.states import JobEvent, JobState
from jobs.values import Artifact, Attempt, LogLine, Outcome, Settled
from tests.verbs import (
    USER,
    WORKER,
    Facts,
    claim,
    entry,
    finish,
    history,
    lapse,
    lost_answer,
    statements,
    submit,
)

pytestmark = pytest.mark.django_db

ARTIFACT = Artifact("a.txt", "text/plain", 1, "c" * 64, "artifacts/a.txt")

TARGETS = {
    JobEvent.SUCCEED: JobState.COMPLETED,
    JobEvent.RETRY: JobState.PENDING,
    JobEvent.FAIL: JobState.FAILED,
    JobEvent.RELEASE: JobState.PENDING,
    JobEvent.CANCEL: JobState.CANCELLED,
}


def running(count: int = 1, **fields: Any) -> list[Attempt]:
    return claim(submit(count, **fields))


def settle(*outcomes: Outcome) -> list[Settled]:
    return lifecycle.finish(outcomes, worker=WORKER)


def everything(attempt: Attempt) -> tuple[Any, ...]:
    """All that the database says of a job."""
    return (
        Job.objects.filter(id=attempt.job_id).values().get(),
        list(AuditEntry.objects.filter(job_id=attempt.job_id).order_by("version").values()),
        list(OutboxEntry.objects.filter(job_id=attempt.job_id).order_by("id").values()),
        list(JobArtifact.objects.filter(job_id=attempt.job_id).values()),
        list(JobLogLine.objects.filter(job_id=attempt.job_id).values()),
    )


@pytest.mark.parametrize(("event", "target"), list(TARGETS.items()))
def test_each_end_is_written_and_audited(event: JobEvent, target: JobState) -> None:
    [attempt] = running()
    answer = settle(Outcome(attempt, event, reason="because"))
    assert answer == [Settled(attempt.job_id, event, fenced=False)]
    job = Job.objects.get(id=attempt.job_id)
    assert (job.state, job.version, job.attempt) == (target, 3, 1)
    assert job.lease_token is job.lease_until is None
    assert (job.finished_at is None) == (target is JobState.PENDING)
    found = entry(job.id)
    assert (found.version, found.from_state, found.to_state) == (3, "RUNNING", target)
    assert (found.event, found.actor_kind, found.actor_id) == (event, "worker", WORKER)
    assert found.reason == ("" if event is JobEvent.SUCCEED else "because")
    assert (found.attempt, found.token) == (1, attempt.token)


@pytest.mark.parametrize(("event", "target"), list(TARGETS.items()))
def test_the_outbox_rings_for_what_waits_again_and_for_nothing_else(
    event: JobEvent, target: JobState
) -> None:
    [attempt] = running()
    finish([attempt], event, delay_seconds=0)
    rows = OutboxEntry.objects.filter(job_id=attempt.job_id, job_version=3)
    assert rows.count() == (1 if target is JobState.PENDING else 0)


@pytest.mark.parametrize(
    ("event", "failed", "lost"),
    [
        (JobEvent.SUCCEED, 0, 0),
        (JobEvent.RETRY, 1, 0),
        (JobEvent.FAIL, 1, 0),
        (JobEvent.RELEASE, 0, 0),
        (JobEvent.CANCEL, 0, 0),
    ],
)
def test_only_failures_are_charged(event: JobEvent, failed: int, lost: int) -> None:
    [attempt] = running()
    finish([attempt], event)
    job = Job.objects.get(id=attempt.job_id)
    assert (job.failed_attempts, job.lost_attempts) == (failed, lost)


def test_a_retry_is_due_after_its_delay() -> None:
    [attempt] = running()
    finish([attempt], JobEvent.RETRY, delay_seconds=500)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT j.due_at - a.at, o.due_at = j.due_at FROM jobs_job j"
            " JOIN jobs_auditentry a ON a.job_id = j.id AND a.version = 3"
            " JOIN jobs_outboxentry o ON o.job_id = j.id AND o.job_version = 3"
        )
        [[delay, same]] = cursor.fetchall()
    assert abs(delay.total_seconds() - 500) < 1
    assert same


def test_a_released_job_is_due_at_once_and_claimed_anew() -> None:
    [attempt] = running()
    finish([attempt], JobEvent.RELEASE)
    [again] = claim(Job.objects.all())
    assert (again.attempt, again.failed_attempts) == (2, 0)
    assert again.token != attempt.token


@pytest.mark.parametrize("result", [None, 0, False, "", "Grüße", [1, {"a": None}], {"n": 1.5}])
def test_a_result_comes_back_the_same(result: Any) -> None:
    [attempt] = running()
    finish([attempt], JobEvent.SUCCEED, result=result)
    job = Job.objects.get(id=attempt.job_id)
    assert job.result == result
    assert job.progress == 1
    [view] = read_views([attempt.job_id], 4096)
    assert (view.result, view.has_result) == (result, result is not None)


def test_a_large_result_does_not_ride_along_with_the_status() -> None:
    [attempt] = running()
    finish([attempt], JobEvent.SUCCEED, result="x" * 5000)
    [view] = read_views([attempt.job_id], 4096)
    assert view.has_result
    assert view.result is None


def test_artifacts_and_lines_are_written_with_the_completion() -> None:
    [attempt] = running()
    artifact = Artifact("plot.svg", "image/svg+xml", 10, "ab" * 32, "artifacts/x/plot.svg")
    line = LogLine(datetime(2026, 1, 1, tzinfo=UTC), "warning", "12 rows skipped")
    finish([attempt], JobEvent.SUCCEED, artifacts=(artifact,), lines=(line,))
    kept = JobArtifact.objects.get(job_id=attempt.job_id)
    assert (kept.name, kept.media_type, kept.size_bytes) == ("plot.svg", "image/svg+xml", 10)
    assert (kept.sha256, kept.file, kept.token) == (artifact.sha256, artifact.file, attempt.token)
    logged = JobLogLine.objects.get(job_id=attempt.job_id)
    assert (logged.attempt, logged.level, logged.message) == (1, "warning", "12 rows skipped")
    assert logged.at == line.at


@pytest.mark.parametrize("event", [JobEvent.RETRY, JobEvent.FAIL, JobEvent.CANCEL])
def test_an_attempt_that_fails_leaves_its_lines_but_no_artifact(event: JobEvent) -> None:
    [attempt] = running()
    artifact = Artifact("a", "b", 1, "c", "d")
    line = LogLine(datetime(2026, 1, 1, tzinfo=UTC), "error", "boom")
    finish([attempt], event, artifacts=(artifact,), lines=(line,))
    assert JobArtifact.objects.count() == 0
    assert JobLogLine.objects.count() == 1


def test_reasons_are_made_fit_for_the_database() -> None:
    [attempt] = running()
    finish([attempt], JobEvent.FAIL, reason="a\x00b\ud800" + "x" * 5000)
    job = Job.objects.get(id=attempt.job_id)
    assert job.reason.startswith("ab?xxx")
    assert len(job.reason) == 2000
    assert entry(job.id).reason == job.reason


# ------------------------------------------------------------------------------------ the fence


@pytest.mark.parametrize("event", list(TARGETS))
def test_a_stale_token_changes_nothing_and_is_told(
    event: JobEvent, facts: Facts, django_capture_on_commit_callbacks: Any
) -> None:
    [attempt] = running()
    lapse(Job.objects.all())
    lifecycle.rescue(limit=10, actor_id="r")
    [present] = claim(Job.objects.all(), "worker:2")
    before = everything(attempt)
    with django_capture_on_commit_callbacks(execute=True):
        answer = settle(Outcome(attempt, event, result="late", artifacts=(ARTIFACT,)))
    assert answer == [Settled(attempt.job_id, event, fenced=True)]
    assert everything(attempt) == before
    [fenced] = facts.of(events.Fenced)
    assert (fenced.job_id, fenced.token, fenced.event) == (attempt.job_id, attempt.token, event)
    assert fenced.worker == WORKER
    assert settle(Outcome(present, event)) == [Settled(attempt.job_id, event, fenced=False)]


def test_a_forged_token_is_fenced() -> None:
    [attempt] = running()
    before = everything(attempt)
    assert settle(Outcome(attempt._replace(token=uuid4()), JobEvent.SUCCEED))[0].fenced
    assert everything(attempt) == before


def test_a_rescued_job_that_nobody_took_is_fenced_too() -> None:
    [attempt] = running()
    lapse(Job.objects.all())
    lifecycle.rescue(limit=10, actor_id="r")
    assert settle(Outcome(attempt, JobEvent.SUCCEED))[0].fenced
    assert Job.objects.get().state == JobState.PENDING


def test_a_lapsed_lease_that_nobody_ended_still_counts() -> None:
    [attempt] = running()
    lapse(Job.objects.all())
    assert not settle(Outcome(attempt, JobEvent.SUCCEED))[0].fenced


def test_a_job_that_is_gone_is_fenced() -> None:
    [attempt] = running()
    assert settle(
        Outcome(attempt._replace(view=attempt.view._replace(job_id=uuid4())), JobEvent.SUCCEED)
    )[0].fenced


def test_stale_and_valid_outcomes_are_told_apart_in_one_call() -> None:
    attempts = running(4)
    outcomes = [
        Outcome(attempts[0], JobEvent.SUCCEED, result=1),
        Outcome(attempts[1]._replace(token=uuid4()), JobEvent.SUCCEED, result=2),
        Outcome(attempts[2], JobEvent.RETRY, delay_seconds=9),
        Outcome(attempts[3], JobEvent.FAIL, reason="no"),
    ]
    answers = settle(*reversed(outcomes))
    assert [one.job_id for one in answers] == [a.job_id for a in reversed(attempts)]
    assert [one.fenced for one in answers] == [False, False, True, False]
    states = dict(Job.objects.values_list("id", "state"))
    assert [states[a.job_id] for a in attempts] == ["COMPLETED", "RUNNING", "PENDING", "FAILED"]


# --------------------------------------------------------------------------------- asked to cancel


@pytest.mark.parametrize(
    ("event", "becomes"),
    [
        (JobEvent.RETRY, JobEvent.CANCEL),
        (JobEvent.RELEASE, JobEvent.CANCEL),
        (JobEvent.CANCEL, JobEvent.CANCEL),
        (JobEvent.SUCCEED, JobEvent.SUCCEED),
        (JobEvent.FAIL, JobEvent.FAIL),
    ],
)
def test_nothing_waits_again_once_a_cancel_was_asked_for(
    event: JobEvent, becomes: JobEvent
) -> None:
    [attempt] = running()
    lifecycle.cancel([attempt.job_id], actor=USER)
    assert settle(Outcome(attempt, event)) == [Settled(attempt.job_id, becomes, fenced=False)]
    assert history(attempt.job_id) == ["submit", "claim", "request_cancel", becomes]
    assert Job.objects.get().state == TARGETS[becomes]


@pytest.mark.parametrize("event", [JobEvent.SUBMIT, JobEvent.CLAIM, JobEvent.REOPEN])
def test_other_events_do_not_finish_an_attempt(event: JobEvent) -> None:
    [attempt] = running()
    with pytest.raises(IllegalTransition):
        settle(Outcome(attempt, event))


# ------------------------------------------------------------------------------- cost and crashes


@pytest.mark.parametrize("count", [1, 100])
def test_the_number_of_statements_does_not_grow(count: int) -> None:
    attempts = running(count)
    line = LogLine(datetime(2026, 1, 1, tzinfo=UTC), "info", "x")
    artifact = Artifact("a", "b", 1, "c", "d")
    outcomes = [
        Outcome(a, JobEvent.SUCCEED, artifacts=(artifact,), lines=(line,)) for a in attempts
    ]
    with statements() as found:
        settle(*outcomes)
    assert len(found) == 4, found


def test_many_stale_outcomes_cost_no_more_statements_than_one() -> None:
    attempts = [attempt._replace(token=uuid4()) for attempt in running(50)]
    with statements() as found:
        settle(*(Outcome(attempt, JobEvent.SUCCEED) for attempt in attempts))
    assert len(found) <= 2, f"{len(found)} statements"


@pytest.mark.django_db(transaction=True)
def test_a_finish_whose_answer_was_lost_is_recognised(facts: Facts) -> None:
    attempts = running(2)
    with lost_answer():
        answers = settle(*(Outcome(a, JobEvent.SUCCEED, result=1) for a in attempts))
    assert [one.fenced for one in answers] == [False, False]
    assert {tuple(history(a.job_id)) for a in attempts} == {("submit", "claim", "succeed")}
    assert facts.of(events.Fenced) == []


@pytest.mark.django_db(transaction=True)
def test_finishing_twice_is_recorded_once_and_not_called_fenced() -> None:
    [attempt] = running()
    first = settle(Outcome(attempt, JobEvent.RETRY))
    second = settle(Outcome(attempt, JobEvent.RETRY))
    assert first == second
    assert history(attempt.job_id) == ["submit", "claim", "retry"]


@pytest.mark.django_db(transaction=True)
def test_job_audit_and_outbox_share_one_transaction() -> None:
    attempts = running(3)
    finish(attempts, JobEvent.RETRY)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT j.xmin::text::bigint, a.xmin::text::bigint, o.xmin::text::bigint,"
            " a.txid & (2^32 - 1)::bigint FROM jobs_job j"
            " JOIN jobs_auditentry a ON a.job_id = j.id AND a.version = j.version"
            " JOIN jobs_outboxentry o ON o.job_id = j.id AND o.job_version = j.version"
        )
        rows = cursor.fetchall()
    assert len(rows) == 3
    assert len({value for row in rows for value in row}) == 1
