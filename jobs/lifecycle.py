"""The verbs: submit, claim, heartbeat, finish, cancel, reopen, rescue.

The only place that locks job rows and opens a transaction over them. Every verb takes many jobs,
one is a batch of one, and every transition goes the same way: lock the rows in id order, check the
edge (django-fsm) and the holder's token, change memory, write all rows in one statement that counts
what it changed. The database's triggers add the audit entry and the outbox row. Facts are told
after commit. Nothing here talks to the broker or to Redis.

Lock order: job rows by id, then what triggers write. A verb that loses its connection or a deadlock
is run again as a whole, which every verb survives: ids and tokens are drawn before the first try,
so a commit whose answer was lost is recognised instead of repeated.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection
from django.db.models import Q
from django_fsm import can_proceed

from jobs import conf, events, jsontext, policy, registry, sql, transactions
from jobs.errors import (
    FieldProblem,
    IdempotencyConflict,
    IllegalTransition,
    InvalidPayload,
    LeaseLost,
    SubmissionError,
)
from jobs.models import AuditEntry, Job, JobArtifact, JobLogLine, new_job_id
from jobs.querysets import VIEW_COLUMNS, view_of_row
from jobs.states import ACTIVE, FINAL, ActorKind, JobEvent, JobState
from jobs.values import (
    SYSTEM,
    Accepted,
    Actor,
    Attempt,
    Beat,
    Changed,
    Doorbell,
    LogLine,
    Outcome,
    Pulse,
    Settled,
    StatusView,
    Submission,
)

# ---------------------------------------------------------------------------------------- submit


def submit(
    submissions: Sequence[Submission], *, actor: Actor = SYSTEM, reason: str = ""
) -> list[Accepted]:
    """Accept all jobs or none, in one transaction, also inside the caller's own ``atomic()``.

    Answers in the order given. A job with a known idempotency key or an active unique key is
    answered by the existing job (``created`` is False). Needs neither the broker nor Redis.
    Raises SubmissionError (UnknownHandler, InvalidPayload or IdempotencyConflict where it is only
    that), which names the index and field of everything that is wrong.
    """
    if not submissions:
        return []
    rows = _rows(submissions)
    ticket = uuid.uuid4().hex
    if not connection.in_atomic_block:
        events.tell(events.Submitting(tuple(UUID(row["id"]) for row in rows), ticket))

    def work() -> list[Accepted]:
        parameters = {
            "rows": json.dumps(rows),
            "actor_kind": actor.kind,
            "actor_id": actor.id,
            "reason": policy.clipped(reason),
        }
        created = {view.job_id: view for view in _views("submit", parameters)}
        events.tell_after_commit(events.Submitted(tuple(created.values()), ticket))
        return _answers(rows, created)

    return transactions.run(work)


def _rows(submissions: Sequence[Submission]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    refused: list[SubmissionError] = []
    for index, submission in enumerate(submissions):
        try:
            rows.append(_row(index, submission))
        except SubmissionError as error:
            refused.append(error)
    if refused:
        kinds = {type(error) for error in refused}
        kind = kinds.pop() if len(kinds) == 1 else SubmissionError
        raise kind([problem for error in refused for problem in error.problems])
    return rows


def _row(index: int, submission: Submission) -> dict[str, Any]:
    settings = conf.get()
    spec = registry.get(submission.handler, index)
    payload = spec.normalized(submission.payload, submission.owner_id, index)
    try:
        size = len(jsontext.dumps(payload))
    except ValueError as error:
        raise InvalidPayload([FieldProblem("payload", str(error), "not_json", index)]) from error
    if size > settings.payload_limit_bytes:
        text = f"{size} bytes of JSON; at most {settings.payload_limit_bytes} are allowed"
        raise InvalidPayload([FieldProblem("payload", text, "too_large", index)])
    queue = submission.queue or spec.queue or settings.default_queue
    if queue not in settings.queues:
        text = f"no queue is called {queue!r}; known: {', '.join(settings.queues)}"
        raise InvalidPayload([FieldProblem("queue", text, "unknown", index)])
    row = {
        "owner_id": submission.owner_id,
        "handler": spec.name,
        "queue": queue,
        "priority": spec.priority if submission.priority is None else submission.priority,
        "tenant": submission.tenant,
        "unique_key": submission.unique_key,
        "idempotency_key": submission.idempotency_key,
        "payload": payload,
        "max_attempts": spec.max_attempts or settings.max_attempts
        if submission.max_attempts is None
        else submission.max_attempts,
        "due_at": submission.due_at.isoformat() if submission.due_at else None,
        "delay_seconds": submission.delay_seconds,
    }
    _check_row(row, index)
    if submission.idempotency_key is not None:
        # Of what was asked for, not of what it resolved to: a default may change meanwhile.
        asked = asdict(replace(submission, handler=spec.name, payload=payload))
        text = json.dumps(asked, sort_keys=True, default=str)
        row["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    return {"id": str(new_job_id()), **row}


def _check_row(row: dict[str, Any], index: int) -> None:
    problems = []
    if not 0 <= row["priority"] <= 9:
        problems.append(FieldProblem("priority", "must be 0 to 9", "out_of_range", index))
    if not 1 <= row["max_attempts"] <= 1000:
        problems.append(FieldProblem("max_attempts", "must be 1 to 1000", "out_of_range", index))
    if row["due_at"] is not None and row["delay_seconds"] is not None:
        text = "give due_at or delay_seconds, not both"
        problems.append(FieldProblem("due_at", text, "conflict", index))
    if not 0 <= (row["delay_seconds"] or 0) <= 366 * 86_400:
        text = "must be 0 to 366 days in seconds"
        problems.append(FieldProblem("delay_seconds", text, "out_of_range", index))
    for name in ("tenant", "unique_key", "idempotency_key"):
        if (row[name] or "") != policy.clipped(row[name] or "", 200):
            text = "must be at most 200 characters of valid Unicode without NUL"
            problems.append(FieldProblem(name, text, "too_long", index))
    if problems:
        raise InvalidPayload(problems)


def _answers(rows: list[dict[str, Any]], created: dict[UUID, StatusView]) -> list[Accepted]:
    left_out = [row for row in rows if UUID(row["id"]) not in created]
    standing = _Standing(left_out) if left_out else None
    answers = []
    for index, row in enumerate(rows):
        view = created.get(UUID(row["id"]))
        if view is not None:
            answers.append(Accepted(view.job_id, view.state, view.version, created=True))
        elif standing is not None:
            answers.append(standing.instead_of(row, index))
    return answers


class _Standing:
    """The jobs that stand where rows could not be inserted, read in at most three queries."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._by_id = self._read(Q(id__in=[row["id"] for row in rows]), "id")
        keyed = [row for row in rows if row["idempotency_key"] is not None]
        owners = Q(owner_id__in={row["owner_id"] for row in keyed} - {None})
        if any(row["owner_id"] is None for row in keyed):
            owners |= Q(owner_id=None)
        keys = Q(idempotency_key__in={row["idempotency_key"] for row in keyed})
        self._by_key = self._read(owners & keys, "owner_id", "idempotency_key") if keyed else {}
        unique = [row for row in rows if row["unique_key"] is not None]
        active = Q(
            handler__in={row["handler"] for row in unique},
            unique_key__in={row["unique_key"] for row in unique},
            state__in=list(ACTIVE),
        )
        self._by_unique_key = self._read(active, "handler", "unique_key") if unique else {}

    @staticmethod
    def _read(condition: Q, *key: str) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        fields = ("id", "state", "version", "fingerprint")
        rows = Job.objects.filter(condition).values_list(*key, *fields)
        return {row[: len(key)]: row[len(key) :] for row in rows}

    def instead_of(self, row: dict[str, Any], index: int) -> Accepted:
        """The answer to ``row``. Raises IdempotencyConflict if its key stands for another wish."""
        found = self._by_id.get((UUID(row["id"]),))
        if found is not None:
            # Our own insert, whose commit succeeded although its answer was lost.
            return Accepted(found[0], JobState(found[1]), found[2], created=True)
        found = self._by_key.get((row["owner_id"], row["idempotency_key"]))
        if found is not None and found[3] != row["fingerprint"]:
            text = f"key {row['idempotency_key']!r} was used before with another request"
            raise IdempotencyConflict([FieldProblem("idempotency_key", text, "conflict", index)])
        found = found or self._by_unique_key.get((row["handler"], row["unique_key"]))
        if found is None:
            # The unique key's holder ended between our insert and this look.
            raise transactions.TryAgain("the job with this unique key has just ended")
        return Accepted(found[0], JobState(found[1]), found[2], created=False)


# ----------------------------------------------------------------------------------------- claim


def claim(
    doorbells: Iterable[Doorbell], *, worker: str, handlers: Collection[str]
) -> list[Attempt]:
    """Take the jobs that these doorbells rightly announce; the others are left out.

    A doorbell counts only if its job is PENDING at that very version, due, and of a known handler.
    Each claim gets a fresh token and a lease on the database's clock, committed before any handler
    code can run.
    """
    versions = {bell.job_id: bell.version for bell in doorbells}
    tokens = {job_id: uuid.uuid4() for job_id in versions}
    actor = Actor(ActorKind.WORKER, worker)
    lease_seconds = conf.get().lease_seconds
    tries: list[int] = []

    def work() -> list[Attempt]:
        rows = Job.objects.announced().filter(handler__in=handlers).locked(versions, "payload")
        ours = [j for j in rows if j.state == JobState.PENDING and j.version == versions[j.id]]
        for job in ours:
            job.claim(actor, tokens[job.id], lease_seconds)
        _write(JobEvent.CLAIM, ours)
        tries.append(len(ours))
        return [_attempt(job) for job in (ours if len(tries) == 1 else _held(tokens))]

    return transactions.run(work)


def _held(tokens: dict[UUID, UUID]) -> list[Job]:
    """All claims of ours, also those of a try whose commit succeeded but whose answer was lost."""
    return list(
        Job.objects.filter(id__in=list(tokens), lease_token__in=list(tokens.values())).order_by(
            "id"
        )
    )


def _attempt(job: Job) -> Attempt:
    if job.lease_token is None:
        raise LeaseLost(f"job {job.id} is not held")
    return Attempt(
        job_id=job.id,
        version=job.version,
        attempt=job.attempt,
        failed_attempts=job.failed_attempts,
        max_attempts=job.max_attempts,
        token=job.lease_token,
        handler=job.handler,
        queue=job.queue,
        owner_id=job.owner_id,
        payload=job.payload,
    )


# ------------------------------------------------------------------------------------- heartbeat


def heartbeat(beats: Sequence[Beat]) -> list[Pulse]:
    """Renew leases by token, and store progress and log lines; answers in the order given."""
    if not beats:
        return []
    rows = [
        {
            "id": str(beat.job_id),
            "token": str(beat.token),
            "fraction": beat.fraction,
            "message": policy.clipped(beat.message, 500),
        }
        for beat in beats
    ]
    lease_seconds = conf.get().lease_seconds

    def work() -> list[Pulse]:
        parameters = {
            "rows": json.dumps(rows),
            "ids": _array(rows),
            "lease_seconds": lease_seconds,
        }
        views = {view.job_id: view for view in _views("heartbeat", parameters)}
        held = [(beat, views[beat.job_id]) for beat in beats if beat.job_id in views]
        _store_lines((view.job_id, view.attempt, beat.lines) for beat, view in held)
        shown = tuple(view for beat, view in held if beat.fraction is not None)
        if shown:
            events.tell_after_commit(events.Progressed(shown))
        return [_pulse(beat, views.get(beat.job_id)) for beat in beats]

    return transactions.run(work)


def _pulse(beat: Beat, view: StatusView | None) -> Pulse:
    return Pulse(beat.job_id, view is not None, view is not None and view.cancel_requested)


# ---------------------------------------------------------------------------------------- finish


def finish(outcomes: Sequence[Outcome], *, worker: str) -> list[Settled]:
    """Carry out succeed, retry, fail, release or cancel for many attempts in one transaction.

    Each job is written only while the attempt's token is still the job's own. A stale holder
    changes nothing and is told so (``fenced``), unless this very outcome was already recorded by a
    commit whose answer was lost.
    """
    actor = Actor(ActorKind.WORKER, worker)
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
            _write(event, group, results)
        kept = [by_id[job_id] for job_id in written]
        _store_artifacts(o for o in kept if written[o.attempt.job_id] is JobEvent.SUCCEED)
        _store_lines((o.attempt.job_id, o.attempt.attempt, o.lines) for o in kept)
        stale = [o.attempt for o in outcomes if o.attempt.job_id not in written]
        recorded = _recorded(stale) if stale else {}
        return [_settled(outcome, written, recorded, worker) for outcome in outcomes]

    return transactions.run(work)


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


def _store_lines(groups: Iterable[tuple[UUID, int, Sequence[LogLine]]]) -> None:
    JobLogLine.objects.bulk_create(
        JobLogLine(
            job_id=job_id, attempt=attempt, at=line.at, level=line.level, message=line.message
        )
        for job_id, attempt, lines in groups
        for line in lines
    )


# -------------------------------------------------------------------------------- cancel, reopen


def cancel(job_ids: Collection[UUID], *, actor: Actor, reason: str = "") -> list[Changed]:
    """Cancel what waits at once; ask the holder of what runs. Ids that do not exist are left out.

    A job that is already CANCELLED, or already asked, is left as it is (``event`` None). Raises
    IllegalTransition, and changes nothing, if a job has ended otherwise.
    """
    reason = policy.clipped(reason)

    def step(job: Job) -> JobEvent | None:
        if job.state == JobState.RUNNING:
            if job.cancel_requested_at is not None:
                return None
            job.request_cancel(actor, reason)
            return JobEvent.REQUEST_CANCEL
        if job.state == JobState.CANCELLED:
            return None
        _require(can_proceed(job.cancel), job, "cancelled")
        job.cancel(actor, reason)
        return JobEvent.CANCEL

    return _change(job_ids, step)


def reopen(job_ids: Collection[UUID], *, actor: Actor, reason: str = "") -> list[Changed]:
    """Give FAILED or CANCELLED jobs a new run with a fresh budget.

    An active job is left as it is (``event`` None). Raises IllegalTransition, and changes nothing,
    if a job is COMPLETED, which is final for ever, or another active job has its unique key.
    """
    reason = policy.clipped(reason)

    def step(job: Job) -> JobEvent | None:
        if JobState(job.state) not in FINAL:
            return None
        _require(can_proceed(job.reopen), job, "retried")
        job.reopen(actor, reason)
        return JobEvent.REOPEN

    try:
        return _change(job_ids, step)
    except IntegrityError as error:
        if "jobs_job_unique_key" not in str(error):
            raise
        raise IllegalTransition("another active job has the unique key of one of these") from error


def _change(job_ids: Collection[UUID], step: Callable[[Job], JobEvent | None]) -> list[Changed]:
    def work() -> list[Changed]:
        moved: dict[JobEvent, list[Job]] = defaultdict(list)
        answers = []
        for job in Job.objects.locked(job_ids):
            event = step(job)
            if event is not None:
                moved[event].append(job)
            answers.append(Changed(job.id, JobState(job.state), job.version, event))
        for event, group in moved.items():
            _write(event, group)
        return answers

    return transactions.run(work)


def _require(allowed: object, job: Job, verb: str) -> None:
    if not allowed:
        raise IllegalTransition(f"job {job.id} is {job.state} and cannot be {verb}")


# ---------------------------------------------------------------------------------------- rescue


def rescue(*, limit: int, actor_id: str) -> list[Settled]:
    """End up to ``limit`` attempts whose lease has lapsed: rescue, fail or cancel, as policy says.

    Rows that somebody has locked are skipped: they are being finished, or are looked at next time.
    """
    actor = Actor(ActorKind.RESCUER, actor_id)
    most = conf.get().max_lost_attempts

    def work() -> list[Settled]:
        ids = Job.objects.lapsed().order_by("id").values_list("id", flat=True)[:limit]
        lapsed = (
            Job.objects.lapsed()
            .locked(ids)
            .select_for_update(no_key=True, of=("self",), skip_locked=True)
        )
        moved: dict[JobEvent, list[Job]] = defaultdict(list)
        for job in lapsed:
            event, reason = policy.after_lapse(
                cancel_requested=job.cancel_requested_at is not None,
                lost_attempts=job.lost_attempts,
                max_lost_attempts=most,
                worker=f"worker {job.worker}",
            )
            if event is JobEvent.RESCUE:
                job.rescue(actor, reason)
            elif event is JobEvent.FAIL:
                job.fail(actor, reason, lost=True)
            else:
                job.cancel(actor, reason)
            moved[event].append(job)
        for event, group in moved.items():
            _write(event, group)
        return [Settled(j.id, event, fenced=False) for event, group in moved.items() for j in group]

    return transactions.run(work)


# ----------------------------------------------------------------------------------------- write


def _write(
    event: JobEvent, jobs: Sequence[Job], results: dict[UUID, Any] | None = None
) -> list[StatusView]:
    if not jobs:
        return []
    rows = [job.as_write() for job in jobs]
    if event is JobEvent.SUCCEED and results:
        for row, job in zip(rows, jobs, strict=True):
            row["result"] = results[job.id]
    views = _views("write_transitions", {"rows": json.dumps(rows), "ids": _array(rows)})
    if len(views) != len(jobs):
        # Only a writer that ignores our locks can cause this; the transaction rolls back whole.
        raise IllegalTransition(f"{len(jobs) - len(views)} rows moved under their locks")
    events.tell_after_commit(events.Transitioned(event, tuple(views)))
    return views


def _array(rows: Iterable[dict[str, Any]]) -> str:
    """The rows' ids as one array literal, which is cheaper to adapt and parse than a list."""
    return "{" + ",".join(row["id"] for row in rows) + "}"


def _views(statement: str, parameters: dict[str, Any]) -> list[StatusView]:
    text = sql.load(statement).replace("{view}", VIEW_COLUMNS)
    parameters["inline_limit"] = conf.get().inline_result_limit_bytes
    with connection.cursor() as cursor:
        cursor.execute(text, parameters)
        return [view_of_row(row) for row in cursor.fetchall()]
