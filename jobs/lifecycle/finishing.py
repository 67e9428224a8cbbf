"""The verb finish: the holder says how its attempt ended, and a stale holder is refused."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db import connection

from jobs import conf, events, jsontext, policy, transactions
from jobs.errors import IllegalTransition
from jobs.lifecycle.writing import (
    array_of,
    call,
    edge_of,
    ids_of,
    json_array_of,
    store_lines,
    write,
)
from jobs.models import AuditEntry, Job, JobArtifact
from jobs.states import ActorKind, JobEvent, JobState
from jobs.values import Actor, Attempt, Outcome, Progress, Settled, StatusView

log = logging.getLogger("jobs.lifecycle")


def finish(outcomes: Sequence[Outcome], *, worker: str) -> list[Settled]:
    """Carry out succeed, retry, fail, release or cancel for many attempts, in the order given.

    Each job is written only while the attempt's token is still the job's own. A stale holder
    changes nothing and is told so (``fenced``), unless this very outcome was already recorded by a
    commit whose answer was lost.

    All share one transaction, except outcomes with ``writes``: each of these has one of its own, so
    that a write that raises undoes nothing but its own job's completion. It is then answered with
    the ``error`` and still held. Raises what the database raises when it is away.
    """
    plain = [outcome for outcome in outcomes if not outcome.writes]
    if len(plain) == len(outcomes):
        return _finish(outcomes, worker) if outcomes else []
    answers = {one.job_id: one for one in (_finish(plain, worker) if plain else [])}
    for outcome in outcomes:
        if outcome.writes:
            answers[outcome.attempt.job_id] = _finish_with_writes(outcome, worker)
    return [answers[outcome.attempt.job_id] for outcome in outcomes]


def _finish(outcomes: Sequence[Outcome], worker: str) -> list[Settled]:
    actor = Actor(ActorKind.WORKER, worker)
    if all(_is_simple(outcome) for outcome in outcomes):

        def succeed() -> list[Settled]:
            return _succeed(outcomes, actor)

        return transactions.run(succeed, single=True)

    by_id = {outcome.attempt.job_id: outcome for outcome in outcomes}

    def work() -> list[Settled]:
        jobs = {job.id: job for job in Job.objects.locked(by_id)}
        moved: dict[JobEvent, list[Job]] = defaultdict(list)
        for job_id, outcome in by_id.items():
            job = jobs.get(job_id)
            if job is not None and job.lease_token == outcome.attempt.token:
                moved[_apply(job, outcome, actor)].append(job)
        written = {job.id: event for event, group in moved.items() for job in group}
        results = {o.attempt.job_id: o.result for o in outcomes if o.attempt.job_id in written}
        for event, group in moved.items():
            write(event, group, results)
        kept = [by_id[job_id] for job_id in written]
        _store_artifacts(o for o in kept if written[o.attempt.job_id] is JobEvent.SUCCEED)
        store_lines((o.attempt.job_id, o.attempt.attempt, o.lines) for o in kept)
        for outcome in kept:
            _carry_out_writes(outcome)
        stale = [o.attempt for o in outcomes if o.attempt.job_id not in written]
        recorded = _recorded(stale) if stale else {}
        return [_settled(outcome, written, recorded, worker) for outcome in outcomes]

    return transactions.run(work)


def _is_simple(outcome: Outcome) -> bool:
    """Whether completing the job is all that there is to write."""
    more = outcome.writes or outcome.artifacts or outcome.lines
    return outcome.event is JobEvent.SUCCEED and not more


def _succeed(outcomes: Sequence[Outcome], actor: Actor) -> list[Settled]:
    by_hex = {outcome.attempt.view.job_id.hex: outcome for outcome in outcomes}
    # Sorted, because rows are locked in this order.
    ids = sorted(by_hex)
    parameters = {
        "ids": array_of(ids),
        "tokens": ids_of(by_hex[name].attempt.token for name in ids),
        "results": json_array_of(by_hex[name].result for name in ids),
        "inline_limit": conf.get().inline_result_limit_bytes,
        **edge_of(JobEvent.SUCCEED, actor),
    }
    views = [
        _completed(by_hex[written].attempt.view, rest)
        for written, *rest in call("jobs_succeed_v3", parameters)
    ]
    if views:
        events.tell_after_commit(events.Transitioned(JobEvent.SUCCEED, tuple(views)))
    if len(views) == len(outcomes):
        return [Settled(o.attempt.view.job_id, o.event, fenced=False) for o in outcomes]
    written = dict.fromkeys((view.job_id for view in views), JobEvent.SUCCEED)
    stale = [o.attempt for o in outcomes if o.attempt.job_id not in written]
    recorded = _recorded(stale) if stale else {}
    return [_settled(outcome, written, recorded, actor.id) for outcome in outcomes]


def _completed(claimed: StatusView, row: Sequence[Any]) -> StatusView:
    """The view of a job that was claimed as ``claimed``, with what the completion says of it."""
    queue, version, seq, most, message, asked, due_at, finished_at, has_result, result = row
    return StatusView(
        claimed.job_id,
        claimed.owner_id,
        claimed.handler,
        queue,
        JobState.COMPLETED,
        version,
        seq,
        claimed.attempt,
        claimed.failed_attempts,
        claimed.lost_attempts,
        most,
        Progress(1.0, message),
        "",
        asked,
        claimed.submitted_at,
        due_at,
        claimed.started_at,
        finished_at,
        has_result,
        None if result is None else jsontext.loads(result),
    )


class _WriteFailed(Exception):
    """Rolls the completion back; carries what the write raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__()


def _finish_with_writes(outcome: Outcome, worker: str) -> Settled:
    try:
        [settled] = _finish([outcome], worker)
    except _WriteFailed as failed:
        attempt = outcome.attempt
        return Settled(attempt.job_id, outcome.event, fenced=False, error=failed.error)
    except transactions.AWAY:
        raise
    except Exception:
        # A hook that a write has left with ``transaction.on_commit`` can raise after the commit.
        [settled] = _finish([outcome._replace(writes=())], worker)
        log.exception("job %s: raised after its completion", outcome.attempt.job_id)
    return settled


def _carry_out_writes(outcome: Outcome) -> None:
    """Run the writes in the transaction that has just moved the job, under its row's lock."""
    if not outcome.writes:
        return
    try:
        for write_ in outcome.writes:
            write_()
    except BaseException as error:
        if transactions.is_away(error) and not connection.closed_in_transaction:
            raise
        raise _WriteFailed(error) from error
    _require_unbroken(outcome.attempt)


def _require_unbroken(attempt: Attempt) -> None:
    """Raise unless what was written is still to be committed.

    A write can swallow an error, after which PostgreSQL answers COMMIT with a silent rollback, or
    end the transaction with SQL of its own. The job would count as completed, and be told so,
    without being it.
    """
    entries = AuditEntry.objects.filter(
        job_id=attempt.job_id, token=attempt.token, event=JobEvent.SUCCEED
    ).extra(where=["txid = pg_current_xact_id()::text::bigint"])
    try:
        whole = connection.in_atomic_block and entries.exists()
    except Exception as error:
        if transactions.is_away(error) and not connection.closed_in_transaction:
            raise
        raise _WriteFailed(_broken()) from error
    if not whole:
        raise _WriteFailed(_broken())


def _broken() -> RuntimeError:
    return RuntimeError("a completion write has broken off the transaction that it ran in")


def _apply(job: Job, outcome: Outcome, actor: Actor) -> JobEvent:
    event = outcome.event
    if job.cancel_requested_at is not None and event in (JobEvent.RETRY, JobEvent.RELEASE):
        event = JobEvent.CANCEL
    reason = policy.clipped(outcome.reason)
    if event is JobEvent.SUCCEED:
        job.succeed(actor)
    elif event is JobEvent.RETRY:
        job.retry(actor, reason, outcome.delay_seconds)
    elif event is JobEvent.FAIL:
        job.fail(actor, reason)
    elif event is JobEvent.RELEASE:
        job.release(actor, reason)
    elif event is JobEvent.CANCEL:
        job.cancel(actor, reason)
    else:
        raise IllegalTransition(f"{event} does not finish an attempt")
    return event


def _recorded(attempts: Sequence[Attempt]) -> dict[tuple[UUID, UUID | None], JobEvent]:
    """How these attempts were ended by their holders, where they were: by job and token."""
    entries = AuditEntry.objects.filter(
        job_id__in=[attempt.job_id for attempt in attempts],
        token__in=[attempt.token for attempt in attempts],
        actor_kind=ActorKind.WORKER,
    ).exclude(event=JobEvent.CLAIM)
    found = entries.values_list("job_id", "token", "event")
    return {(job_id, token): JobEvent(event) for job_id, token, event in found}


def _settled(
    outcome: Outcome,
    written: dict[UUID, JobEvent],
    recorded: dict[tuple[UUID, UUID | None], JobEvent],
    worker: str,
) -> Settled:
    attempt = outcome.attempt
    event = written.get(attempt.job_id) or recorded.get((attempt.job_id, attempt.token))
    if event is None:
        fact = events.Fenced(attempt.job_id, attempt.token, outcome.event, worker)
        events.tell_after_commit(fact)
    return Settled(attempt.job_id, event or outcome.event, fenced=event is None)


def _store_artifacts(outcomes: Iterable[Outcome]) -> None:
    JobArtifact.objects.bulk_create(
        JobArtifact(
            job_id=outcome.attempt.job_id,
            token=outcome.attempt.token,
            name=artifact.name,
            media_type=artifact.media_type,
            size_bytes=artifact.size_bytes,
            sha256=artifact.sha256,
            file=artifact.file,
        )
        for outcome in outcomes
        for artifact in outcome.artifacts
    )
