"""Whole lives: what the audit, the outbox and the invariants say after many steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from pytest_django import DjangoCaptureOnCommitCallbacks

from jobs import events, lifecycle, testing, transactions
from jobs.errors import IllegalTransition
from jobs.models import AuditEntry, Job, OutboxEntry
from jobs.states import ActorKind, JobEvent, JobState, is_legal
from jobs.values import Outcome
from tests.verbs import (
    USER,
    Facts,
    claim,
    doorbells,
    entry,
    history,
    lapse,
    lost_answer,
    rolled_back,
    submit,
)

pytestmark = pytest.mark.django_db

STEPS = ("claim", "succeed", "retry", "fail", "release", "cancel", "reopen", "lapse", "stale")


class Life:
    """Takes steps on jobs through the verbs; a step that is illegal now is refused and skipped."""

    def __init__(self, count: int) -> None:
        self.ids = [job.id for job in submit(count)]
        self.attempts: dict[Any, Any] = {}

    def step(self, name: str, index: int) -> None:
        job = Job.objects.get(id=self.ids[index])
        try:
            getattr(self, name)(job)
        except IllegalTransition:
            return

    def claim(self, job: Job) -> None:
        for attempt in claim([job]):
            self.attempts[job.id] = attempt

    def _finish(self, job: Job, event: JobEvent) -> None:
        if job.id in self.attempts:
            outcome = Outcome(self.attempts[job.id], event)
            lifecycle.finish([outcome], worker="w")

    def succeed(self, job: Job) -> None:
        self._finish(job, JobEvent.SUCCEED)

    def retry(self, job: Job) -> None:
        self._finish(job, JobEvent.RETRY)

    def fail(self, job: Job) -> None:
        self._finish(job, JobEvent.FAIL)

    def release(self, job: Job) -> None:
        self._finish(job, JobEvent.RELEASE)

    def stale(self, job: Job) -> None:
        """The holder died, another took over, and the first comes back."""
        if job.state == JobState.RUNNING:
            old = self.attempts[job.id]
            self.lapse(job)
            self.claim(Job.objects.get(id=job.id))
            lifecycle.finish([Outcome(old, JobEvent.SUCCEED)], worker="zombie")

    def cancel(self, job: Job) -> None:
        lifecycle.cancel([job.id], actor=USER)

    def reopen(self, job: Job) -> None:
        lifecycle.reopen([job.id], actor=USER)

    def lapse(self, job: Job) -> None:
        lapse([job])
        lifecycle.rescue(limit=10, actor_id="r")


def check_invariants(job: Job) -> None:
    entries = list(AuditEntry.objects.filter(job_id=job.id).order_by("version"))
    assert [e.version for e in entries] == list(range(1, job.version + 1))
    before: JobState | None = None
    tokens = []
    for e in entries:
        assert e.from_state == before
        assert is_legal(before, JobState(e.to_state), JobEvent(e.event), ActorKind(e.actor_kind))
        if e.event == JobEvent.CLAIM:
            tokens.append(e.token)
        elif e.from_state == JobState.RUNNING:
            assert e.token == tokens[-1]
        assert e.attempt == len(tokens)
        before = JobState(e.to_state)
    assert len(set(tokens)) == len(tokens)
    assert [e.at for e in entries] == sorted(e.at for e in entries)
    last = entries[-1]
    assert (last.to_state, last.attempt) == (job.state, job.attempt)
    assert (job.event, job.actor_kind, job.reason) == (last.event, last.actor_kind, last.reason)
    assert sum(e.to_state == JobState.COMPLETED for e in entries) <= 1
    rung = sorted(bell.version for bell in doorbells() if bell.job_id == job.id)
    assert rung == [e.version for e in entries if e.to_state == JobState.PENDING]


class AnyLife(TestCase):
    """Whatever happens in whatever order, the history is whole and legal."""

    @hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
    @given(
        steps=st.lists(
            st.tuples(st.sampled_from(STEPS), st.integers(0, 1)), min_size=1, max_size=15
        )
    )
    def test_invariants(self, steps: list[tuple[str, int]]) -> None:
        life = Life(2)
        for name, index in steps:
            life.step(name, index)
        for job in Job.objects.filter(id__in=life.ids):
            check_invariants(job)


def test_a_birth_is_audited_column_by_column() -> None:
    [job] = submit()
    found = entry(job.id, 1)
    assert (found.from_state, found.to_state, found.event) == (None, "PENDING", "submit")
    assert (found.actor_kind, found.actor_id, found.reason) == ("system", "", "")
    assert (found.attempt, found.token) == (0, None)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()::text::bigint")
        assert cursor.fetchone() == (found.txid,)
    row = OutboxEntry.objects.get(job_id=job.id)
    assert (row.job_version, row.handler, row.queue) == (1, job.handler, job.queue)
    assert (row.priority, row.due_at, row.tries, row.rearms) == (0, job.due_at, 0, 0)
    assert row.published_at is row.taken_until is None


def test_the_outbox_row_carries_what_the_relay_needs(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(queues=("default", "slow"))
    [job] = submit(queue="slow", priority=6, delay_seconds=30)
    row = OutboxEntry.objects.get(job_id=job.id)
    assert (row.queue, row.priority, row.due_at) == ("slow", 6, job.due_at)


@pytest.mark.django_db(transaction=True)
def test_every_verb_tells_after_its_commit(facts: Facts) -> None:
    [job] = submit()
    testing.run_inline()
    assert [type(fact).__name__ for fact in facts.all] == [
        "Submitted",
        "Transitioned",
        "Transitioned",
    ]
    told = facts.of(events.Transitioned)
    assert [fact.event for fact in told] == [JobEvent.CLAIM, JobEvent.SUCCEED]
    assert [view.version for fact in told for view in fact.views] == [2, 3]
    assert told[1].views[0].finished_at == Job.objects.get(id=job.id).finished_at


def test_a_rolled_back_verb_tells_nothing(
    facts: Facts, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    [job] = submit()
    with django_capture_on_commit_callbacks(execute=True), rolled_back():
        claim([job])
        lifecycle.cancel([job.id], actor=USER)
    assert facts.all == []
    assert history(job.id) == ["submit"]


@pytest.mark.django_db(transaction=True)
def test_a_submit_whose_answer_was_lost_is_recognised(facts: Facts) -> None:
    with lost_answer():
        jobs = submit(3)
    assert Job.objects.count() == 3
    assert {tuple(history(job.id)) for job in jobs} == {("submit",)}


# ------------------------------------------------------------------------------- transactions.run


@pytest.mark.django_db(transaction=True)
def test_a_verb_that_deadlocked_is_run_again_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jobs.transactions.time.sleep", lambda _: None)
    tries = []

    def work() -> int:
        tries.append(connection.in_atomic_block)
        if len(tries) < transactions.TRIES:
            with connection.cursor() as cursor:
                cursor.execute("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$")
        return len(tries)

    assert transactions.run(work) == transactions.TRIES
    assert tries == [True] * transactions.TRIES


@pytest.mark.django_db(transaction=True)
def test_trying_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.transactions.time.sleep", lambda _: None)
    tries = []

    def work() -> None:
        tries.append(1)
        raise OperationalError("gone")

    with pytest.raises(OperationalError, match="gone"):
        transactions.run(work)
    assert len(tries) == transactions.TRIES


@pytest.mark.django_db(transaction=True)
def test_a_statement_that_can_never_succeed_is_not_repeated() -> None:
    tries = []

    def work() -> None:
        tries.append(1)
        with connection.cursor() as cursor:
            cursor.execute("DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$")

    with pytest.raises(OperationalError):
        transactions.run(work)
    assert len(tries) == 1


def test_in_the_callers_transaction_only_a_changed_premise_is_tried_again() -> None:
    tries: list[str] = []

    def work(error: Exception) -> Callable[[], int]:
        def run() -> int:
            tries.append(type(error).__name__)
            if len(tries) % 2:
                raise error
            return len(tries)

        return run

    with transaction.atomic():
        assert transactions.run(work(transactions.TryAgain("moved"))) == 2
        with pytest.raises(OperationalError):
            transactions.run(work(OperationalError("gone")))
    assert tries == ["TryAgain", "TryAgain", "OperationalError"]


@pytest.mark.django_db(transaction=True)
def test_a_backend_that_is_ended_from_outside_costs_nothing() -> None:
    [job] = submit()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [pid] = cursor.fetchone()
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    finally:
        other.close()
    assert len(claim([job])) == 1
    assert history(job.id) == ["submit", "claim"]
