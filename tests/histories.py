"""Databases for the verification: every kind of history by the real verbs, and ways to break it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db import connection, transaction

from jobs import lifecycle
from jobs.models import AuditEntry, Job
from jobs.states import ActorKind, JobEvent
from jobs.values import Actor, Artifact
from tests.verbs import claim, finish, lapse, submit

ADMIN = Actor(ActorKind.ADMIN, "1")
RESCUER = "scheduler:1"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# ------------------------------------------------------------------------------------- histories


def completed(**fields: Any) -> Job:
    """submit, claim, succeed: three entries."""
    [job] = submit(1, **fields)
    finish(claim([job]), JobEvent.SUCCEED, result={"answer": 42})
    return fresh(job)


def failed(**fields: Any) -> Job:
    """Failed for good, at its first attempt."""
    [job] = submit(1, max_attempts=1, **fields)
    finish(claim([job]), JobEvent.FAIL, reason="attempt 1 of 1 failed")
    return fresh(job)


def waiting(**fields: Any) -> Job:
    """PENDING, its doorbell published."""
    [job] = submit(1, **fields)
    publish()
    return job


def sharing() -> Job:
    """PENDING, and neither the first nor the only one that its published row rings for."""
    [_, job, _] = submit(3)
    publish()
    return job


def running(**fields: Any) -> Job:
    """RUNNING under a live lease."""
    [job] = submit(1, **fields)
    claim([job])
    publish()
    return fresh(job)


def rescued(job: Job) -> Job:
    """Its lease has run out and a rescuer took it back."""
    lapse([job])
    lifecycle.rescue(limit=10, actor_id=RESCUER)
    return fresh(job)


def again(job: Job) -> Job:
    """Claimed again and completed."""
    finish(claim([job]), JobEvent.SUCCEED)
    return fresh(job)


def with_artifact() -> Job:
    [job] = submit(1)
    artifact = Artifact("chart.svg", "image/svg+xml", 3, "0" * 64, "a/chart.svg")
    finish(claim([job]), JobEvent.SUCCEED, artifacts=(artifact,))
    return fresh(job)


def retried() -> Job:
    [job] = submit(1)
    finish(claim([job]), JobEvent.RETRY, reason="once more", delay_seconds=0.0)
    return again(fresh(job))


def lost_for_good() -> Job:
    """Rescued until no attempt is left, reopened, and completed then."""
    job = running()
    while job.state != "FAILED":
        job = rescued(job)
        if job.state == "PENDING":
            claim([job])
    lifecycle.reopen([job.id], actor=ADMIN, reason="try again")
    return again(fresh(job))


def released() -> Job:
    [job] = submit(1)
    finish(claim([job]), JobEvent.RELEASE, reason="worker is stopping")
    return again(fresh(job))


def cancelled_while_running(*, by_rescuer: bool) -> Job:
    [job] = submit(1)
    attempts = claim([job])
    lifecycle.cancel([job.id], actor=ADMIN, reason="not needed")
    if by_rescuer:
        return rescued(job)
    finish(attempts, JobEvent.CANCEL, reason="stopped on request")
    return fresh(job)


def by_hand() -> Job:
    """Taken by hand to FAILED, back, to CANCELLED, back, and completed by a worker."""
    [job] = submit(1)
    claim([job])
    edit = "UPDATE jobs_job SET version = version + 1, state = {} WHERE id = '" + str(job.id) + "'"
    let_go = ", lease_token = NULL, lease_until = NULL"
    for change in (
        f"'FAILED', finished_at = now(){let_go}",
        "'PENDING', finished_at = NULL",
        "'CANCELLED', finished_at = now()",
        "'PENDING', finished_at = NULL",
    ):
        run(edit.format(change))
    return again(fresh(job))


def answered(owner: User) -> list[Job]:
    """One unique key twice, and a request with a key of its own that the standing job answered."""
    [standing] = submit(1, owner_id=owner.pk, unique_key="u")
    [same] = submit(1, owner_id=owner.pk, unique_key="u", idempotency_key="v")
    assert same.id == standing.id
    return [again(standing), completed(owner_id=owner.pk, unique_key="u")]


def every_kind(owner: User) -> list[Job]:
    """One of each kind that has ended. Needs ``max_lost_attempts`` small, or takes its time."""
    user = Actor(ActorKind.USER, str(owner.pk))
    [unwanted, other] = submit(2, owner_id=owner.pk)
    lifecycle.cancel([unwanted.id], actor=user, reason="not needed")
    lifecycle.cancel([other.id], actor=user)
    lifecycle.reopen([other.id], actor=user)
    reopened = failed(owner_id=owner.pk)
    lifecycle.reopen([reopened.id], actor=user, reason="mended")
    deleted = completed()
    run("DELETE FROM jobs_job WHERE id = %s", [str(deleted.id)])
    jobs = [
        completed(owner_id=owner.pk, idempotency_key="k"),
        completed(owner_id=None, idempotency_key="k"),
        *answered(owner),
        failed(),
        with_artifact(),
        retried(),
        lost_for_good(),
        released(),
        cancelled_while_running(by_rescuer=False),
        cancelled_while_running(by_rescuer=True),
        by_hand(),
        again(fresh(other)),
        again(fresh(reopened)),
        waiting(delay_seconds=3600),
    ]
    publish()
    return [fresh(unwanted), *jobs]


# ----------------------------------------------------------------------------------------- damage


def fresh(job: Job) -> Job:
    """The job as it is now."""
    found: Job = Job.objects.get(id=job.id)
    return found


def run(statement: str, parameters: Sequence[Any] = ()) -> None:
    """One statement, as psql would run it."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)


def publish() -> None:
    """Every doorbell has been rung."""
    run("UPDATE jobs_outboxentry SET published_at = clock_timestamp() WHERE published_at IS NULL")


def damage(*statements: str) -> None:
    """Run these with all triggers off, as whoever owns the server can."""
    with transaction.atomic():
        run("SET LOCAL session_replication_role = replica")
        for statement in statements:
            run(statement)
    forget_statistics()


def forget_statistics() -> None:
    """The server's counts of updated rows begin anew, so that damage is found by its content."""
    run("SELECT pg_stat_force_next_flush()")
    run("SELECT pg_stat_reset_single_table_counters('jobs_auditentry'::regclass)")


def link(previous: bytes, entry: AuditEntry) -> bytes:
    """The hash of an entry, from the documentation of the chain and not from its SQL."""
    line = [
        str(entry.job_id),
        entry.version,
        entry.from_state,
        entry.to_state,
        entry.event,
        entry.actor_kind,
        entry.actor_id,
        entry.reason,
        entry.attempt,
        str(entry.token) if entry.token else None,
        _microseconds(entry.lease_until),
        _microseconds(entry.at),
        entry.txid,
    ]
    return hashlib.sha256(previous + json.dumps(line, ensure_ascii=False).encode()).digest()


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - EPOCH) // timedelta(microseconds=1)


def reseal(*jobs: Job) -> None:
    """Make the hash chains of these jobs right again, as a thorough forger would."""
    damage(*(statement for job in jobs for statement in _seals(job.id)))


def _seals(job_id: UUID) -> Iterable[str]:
    digest = b""
    for entry in AuditEntry.objects.filter(job_id=job_id).order_by("version"):
        digest = link(digest, entry)
        yield (
            f"UPDATE jobs_auditentry SET hash = '\\x{digest.hex()}'"
            f" WHERE job_id = '{job_id}' AND version = {entry.version}"
        )
        yield (
            f"UPDATE jobs_job SET audit_hash = '\\x{digest.hex()}', changed_at = '{entry.at}'"
            f" WHERE id = '{job_id}'"
        )


#: Finished jobs, as the verbs would have left them: three entries, one published doorbell, and an
#: idempotency key for every second job. Every second hundred was accepted together, and shares an
#: outbox row.
LOAD = """
CREATE TEMPORARY TABLE made ON COMMIT DROP AS
SELECT id, token, at, txid, first, second, jobs_audit_hash(
    second, id, 3, 'RUNNING', 'COMPLETED', 'succeed', 'worker', 'host:17/42', '', 1, token,
    at + interval '31 s', at + interval '2 s', txid + 2
) AS third, n
FROM (
    SELECT *, jobs_audit_hash(
        first, id, 2, 'PENDING', 'RUNNING', 'claim', 'worker', 'host:17/42', '', 1, token, NULL,
        at + interval '1 s', txid + 1
    ) AS second
    FROM (
        SELECT *, jobs_audit_hash(
            '', id, 1, NULL, 'PENDING', 'submit', 'system', '', '', 0, NULL, NULL, at, txid
        ) AS first
        FROM (
            SELECT gen_random_uuid() AS token, now() - n * interval '1 ms' AS at,
                1000 + CASE WHEN n / 100 %% 2 = 0 THEN n / 100 * 100 ELSE n END AS txid,
                (lpad(to_hex(1700000000000 + n), 12, '0') || '7' || substr(md5(n::text), 1, 3)
                    || '8' || substr(md5(n::text), 4, 15))::uuid AS id, n
            FROM generate_series(%(begin)s::bigint, %(end)s::bigint) AS n
        ) AS numbered
    ) AS born
) AS claimed;
INSERT INTO jobs_job (
    id, handler, queue, priority, tenant, idempotency_key, payload, state, version, attempt,
    failed_attempts, lost_attempts, max_attempts, due_at, worker, progress, progress_message,
    progress_seq, result, event, actor_kind, actor_id, reason, signed_version, submitted_at,
    started_at, finished_at, audit_hash, changed_at
)
SELECT id, 'make-invoice', 'default', 0, '', CASE WHEN n %% 2 = 0 THEN 'key-' || n END,
    '{"order_id": 123456}', 'COMPLETED', 3, 1, 0, 0, 3, at, 'host:17/42', 1, '', 2,
    '{"answer": 42}', 'succeed', 'worker', 'host:17/42', '', 3, at, at + interval '1 s',
    at + interval '2 s', third, at + interval '2 s'
FROM made ORDER BY id;
INSERT INTO jobs_idempotencykey (id, owner_id, key)
SELECT id, NULL, 'key-' || n FROM made WHERE n %% 2 = 0;
INSERT INTO jobs_auditentry (
    job_id, version, from_state, to_state, event, actor_kind, actor_id, reason, attempt, token,
    lease_until, at, txid, hash
)
SELECT id, 1, NULL, 'PENDING', 'submit', 'system', '', '', 0, NULL::uuid, NULL::timestamptz, at,
    txid, first FROM made
UNION ALL
SELECT id, 2, 'PENDING', 'RUNNING', 'claim', 'worker', 'host:17/42', '', 1, token, NULL,
    at + interval '1 s', txid + 1, second FROM made
UNION ALL
SELECT id, 3, 'RUNNING', 'COMPLETED', 'succeed', 'worker', 'host:17/42', '', 1, token,
    at + interval '31 s', at + interval '2 s', txid + 2, third FROM made;
INSERT INTO jobs_outboxentry (
    job_id, job_version, handler, queue, priority, due_at, created_at, published_at, tries, rearms
)
SELECT id, 1, 'make-invoice', 'default', 0, at, at, at + interval '10 ms', 1, 0
FROM made WHERE n / 100 %% 2 = 1;
INSERT INTO jobs_outboxentry (
    job_id, job_version, others, txid, handler, queue, priority, due_at, created_at, published_at,
    tries, rearms
)
SELECT ids[1], 1, nullif(ids[2:], '{}'), txid, 'make-invoice', 'default', 0, due, came,
    due + interval '10 ms', 1, 0
FROM (
    SELECT txid, array_agg(id ORDER BY id) AS ids, max(at) AS due, min(at) AS came
    FROM made WHERE n / 100 %% 2 = 0 GROUP BY txid
) AS together
"""


def load(count: int, *, begin: int = 1) -> None:
    """Make this many finished jobs by SQL, with the triggers off, in one transaction."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(LOAD, {"begin": begin, "end": begin + count - 1})
        cursor.execute("SET LOCAL session_replication_role = origin")
