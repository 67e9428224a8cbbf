-- A hot verb for one job; what is not said here is said in verbs_v2.sql.

-- Accepts one job that has no key. A set of one costs a tenth more than a row: PostgreSQL makes arrays,
-- and a scan over them, anew for each statement.
CREATE FUNCTION jobs_submit_v3(
    _id uuid, _payload jsonb, _owner_id bigint, _handler text, _queue text, _priority int,
    _tenant text, _max_attempts int, _due_at timestamptz, _delay_seconds double precision,
    _actor_kind text, _actor_id text, _reason text
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs_job (
        id, owner_id, handler, queue, priority, tenant, payload, state, version, attempt,
        failed_attempts, lost_attempts, max_attempts, due_at, worker, progress, progress_message,
        progress_seq, event, actor_kind, actor_id, reason, signed_version, submitted_at
    )
    VALUES (
        _id, _owner_id, _handler, _queue, _priority, _tenant, _payload, 'PENDING', 1, 0,
        0, 0, _max_attempts,
        coalesce(_due_at, clock_timestamp() + make_interval(secs => coalesce(_delay_seconds, 0))),
        '', 0, '', 0, 'submit', _actor_kind, _actor_id, _reason, 1, clock_timestamp()
    );
END;
$$;
