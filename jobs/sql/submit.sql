-- Accepts many jobs in one statement; the insert trigger adds their audit and outbox rows. A
-- conflict on any unique index (unique key, or an idempotency key that reserve_keys.sql did not know)
-- leaves that row out, and the caller looks up the job that answers instead. One JSON parameter,
-- because one cast of one text is far cheaper to plan than an array per column.
INSERT INTO jobs_job AS j (
    id, owner_id, handler, queue, priority, tenant, unique_key, idempotency_key, fingerprint,
    payload, state, version, attempt, failed_attempts, lost_attempts, max_attempts, due_at,
    worker, progress, progress_message, progress_seq, event, actor_kind, actor_id, reason,
    signed_version, submitted_at
)
SELECT
    s.id, s.owner_id, s.handler, s.queue, s.priority, s.tenant, s.unique_key, s.idempotency_key,
    s.fingerprint, s.payload, 'PENDING', 1, 0, 0, 0, s.max_attempts,
    coalesce(s.due_at, clock_timestamp() + make_interval(secs => coalesce(s.delay_seconds, 0))),
    '', 0, '', 0, 'submit', %(actor_kind)s, %(actor_id)s, %(reason)s, 1, clock_timestamp()
FROM json_to_recordset(%(rows)s::json) AS s(
    id uuid, owner_id bigint, handler text, queue text, priority smallint, tenant text,
    unique_key text, idempotency_key text, fingerprint text, payload jsonb, max_attempts int,
    due_at timestamptz, delay_seconds double precision
)
ON CONFLICT DO NOTHING
RETURNING {view}
