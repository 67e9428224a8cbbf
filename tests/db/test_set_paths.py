"""Claim and success in one statement each do what the graph of django-fsm does, job by job."""

from __future__ import annotations

import uuid
from typing import Any
from uuid import UUID

import pytest
from django_fsm import can_proceed

from jobs import conf, events, lifecycle
from jobs.models import Job
from jobs.querysets import read_views
from jobs.states import ActorKind, JobEvent, JobState
from jobs.values import Actor, Attempt, Beat, Doorbell, Outcome
from tests.conftest import JobFactory, UserFactory
from tests.verbs import HANDLER, USER, WORKER, Facts, claim, finish, history, submit

pytestmark = pytest.mark.django_db

ACTOR = Actor(ActorKind.WORKER, WORKER)
#: What a step writes beside what ``as_write`` says, and what differs between two jobs anyway.
ASIDE = {"id", "lease_seconds", "due_in_seconds", "lease_token"}


def decided(job: Job) -> dict[str, Any]:
    return {name: value for name, value in job.as_write().items() if name not in ASIDE}


def fresh(job_id: UUID) -> Job:
    job: Job = Job.objects.get(id=job_id)
    return job


def an_attempt(job: Job, token: UUID) -> Attempt:
    [view] = read_views([job.id], 4096)
    return Attempt(view, token, {})


@pytest.mark.parametrize("state", JobState)
def test_a_claim_is_legal_where_the_graph_says_so(state: JobState, job_factory: JobFactory) -> None:
    [job] = job_factory(state)
    legal = can_proceed(job.claim)
    before = history(job.id)
    taken = lifecycle.claim([Doorbell(job.id, job.version)], worker=WORKER, handlers=[HANDLER])
    assert bool(taken) is legal
    assert history(job.id) == [*before, *(["claim"] if legal else [])]
    if legal:
        job.claim(ACTOR, taken[0].token, conf.get().lease_seconds)
    assert decided(fresh(job.id)) == decided(job)
    assert fresh(job.id).lease_token == job.lease_token


@pytest.mark.parametrize("state", JobState)
def test_a_success_is_legal_where_the_graph_says_so(
    state: JobState, job_factory: JobFactory
) -> None:
    [job] = job_factory(state)
    legal = can_proceed(job.succeed)
    before = history(job.id)
    outcome = Outcome(an_attempt(job, job.lease_token or uuid.uuid4()), JobEvent.SUCCEED)
    [settled] = lifecycle.finish([outcome], worker=WORKER)
    assert settled.fenced is not legal
    assert history(job.id) == [*before, *(["succeed"] if legal else [])]
    if legal:
        job.succeed(ACTOR)
    assert decided(fresh(job.id)) == decided(job)


def test_both_ways_to_record_a_success_leave_the_same_row() -> None:
    """An outcome with a neighbour that failed takes the way of all events."""
    alone, beside, failing = claim(submit(3))
    lifecycle.cancel([alone.job_id, beside.job_id], actor=Actor(ActorKind.SYSTEM, "test"))
    lifecycle.finish([Outcome(alone, JobEvent.SUCCEED, result={"n": [1]})], worker=WORKER)
    mixed = [
        Outcome(beside, JobEvent.SUCCEED, result={"n": [1]}),
        Outcome(failing, JobEvent.FAIL, reason="no"),
    ]
    lifecycle.finish(mixed, worker=WORKER)
    one, other = fresh(alone.job_id), fresh(beside.job_id)
    own = {"id", "submitted_at", "due_at", "started_at", "finished_at", "changed_at", "audit_hash"}
    own |= {"cancel_requested_at"}
    for field in Job._meta.concrete_fields:
        if field.attname not in own:
            assert getattr(one, field.attname) == getattr(other, field.attname), field.attname
    assert one.cancel_requested_at is not None
    assert other.cancel_requested_at is not None
    assert history(one.id) == history(other.id)


def test_a_stale_token_completes_nothing() -> None:
    attempts = claim(submit(2))
    wrong = attempts[0]._replace(token=uuid.uuid4())
    outcomes = [Outcome(wrong, JobEvent.SUCCEED), Outcome(attempts[1], JobEvent.SUCCEED)]
    settled = lifecycle.finish(outcomes, worker=WORKER)
    assert [one.fenced for one in settled] == [True, False]
    assert [fresh(a.job_id).state for a in attempts] == [JobState.RUNNING, JobState.COMPLETED]


@pytest.mark.django_db(transaction=True)
def test_the_views_of_the_functions_are_those_of_every_other_read(
    facts: Facts, user_factory: UserFactory
) -> None:
    """Their columns stand in the functions once more, in an order that nothing else would check."""
    [job] = submit(1, max_attempts=7, owner_id=user_factory().pk)
    finish(claim([job]), JobEvent.RETRY)
    facts.all.clear()
    [attempt] = claim([fresh(job.id)])
    after_claim = read_views([job.id], 4096)
    lifecycle.heartbeat([Beat(job.id, attempt.token, 0.5, "half")])
    lifecycle.cancel([job.id], actor=USER)
    # What the guard lets anybody change by hand, without a transition.
    Job.objects.filter(id=job.id).update(queue="moved", max_attempts=9, due_at=job.submitted_at)
    finish([attempt], JobEvent.SUCCEED, result={"n": [1]})
    after_success = read_views([job.id], 4096)
    told = [list(fact.views) for fact in facts.of(events.Transitioned)]
    assert [told[0], told[-1]] == [after_claim, after_success]
