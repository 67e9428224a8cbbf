-- Writes many transitions, decided in memory under the rows' locks, in one statement. The version
-- guard is a second lock: a row that moved in spite of everything is not written, and the caller
-- sees that from the number of rows. Times are the database's clock. The payload is not touched.
UPDATE jobs_job AS j SET
    state = w.state,
    version = w.version,
    signed_version = w.version,
    attempt = w.attempt,
    failed_attempts = w.failed_attempts,
    lost_attempts = w.lost_attempts,
    lease_token = w.lease_token,
    lease_until = CASE
        WHEN w.state <> 'RUNNING' THEN NULL
        WHEN w.lease_seconds IS NULL THEN j.lease_until
        ELSE clock_timestamp() + make_interval(secs => w.lease_seconds)
    END,
    due_at = CASE
        WHEN w.due_in_seconds IS NULL THEN j.due_at
        ELSE clock_timestamp() + make_interval(secs => w.due_in_seconds)
    END,
    cancel_requested_at = CASE
        WHEN w.event = 'request_cancel' THEN clock_timestamp()
        WHEN w.state = 'PENDING' THEN NULL
        ELSE j.cancel_requested_at
    END,
    worker = w.worker,
    progress = CASE w.event WHEN 'claim' THEN 0 WHEN 'succeed' THEN 1 ELSE j.progress END,
    progress_message = CASE w.event WHEN 'claim' THEN '' ELSE j.progress_message END,
    result = CASE WHEN w.event = 'succeed' THEN w.result ELSE j.result END,
    event = w.event,
    actor_kind = w.actor_kind,
    actor_id = w.actor_id,
    reason = w.reason,
    started_at = CASE w.event
        WHEN 'claim' THEN clock_timestamp()
        WHEN 'reopen' THEN NULL
        ELSE j.started_at
    END,
    finished_at = CASE
        WHEN w.state IN ('COMPLETED', 'FAILED', 'CANCELLED') THEN clock_timestamp()
    END
FROM json_to_recordset(%(rows)s::json) AS w(
    id uuid, state text, version int, attempt int, failed_attempts int, lost_attempts int,
    lease_token uuid, lease_seconds double precision, due_in_seconds double precision,
    worker text, event text, actor_kind text, actor_id text, reason text, result jsonb
)
-- The ids stand twice, because the planner takes the JSON for 100 rows and would read the whole table
-- to join them; an array says how many there are.
WHERE j.id = ANY(%(ids)s::uuid[]) AND j.id = w.id AND j.version = w.version - 1
RETURNING {view}
