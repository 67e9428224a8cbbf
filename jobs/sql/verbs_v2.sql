-- Version 2 of the submit, for jobs that differ in nothing but id and payload, as most that are
-- submitted together do: what they share comes once, so that no object of 13 fields is taken apart
-- for each. Without keys no other job can answer, and without ON CONFLICT a row is written once and
-- not confirmed afterwards; a wish that may be there already is asked of jobs_submit_v1 instead. The
-- insert trigger adds audit and outbox rows. The payloads are JSON Lines, which need no quoting.
CREATE FUNCTION jobs_submit_v2(
    _ids uuid[], _payloads text, _owner_id bigint, _handler text, _queue text, _priority int,
    _tenant text, _max_attempts int, _due_at timestamptz, _delay_seconds double precision,
    _actor_kind text, _actor_id text, _reason text
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs_job (
        id, owner_id, handler, queue, priority, tenant, payload, state, version, attempt,
        failed_attempts, lost_attempts, max_attempts, due_at, worker, progress, progress_message,
        progress_seq, event, actor_kind, actor_id, reason, signed_version, submitted_at
    )
    SELECT
        s.id, _owner_id, _handler, _queue, _priority, _tenant, s.payload::jsonb, 'PENDING', 1, 0,
        0, 0, _max_attempts,
        coalesce(_due_at, clock_timestamp() + make_interval(secs => coalesce(_delay_seconds, 0))),
        '', 0, '', 0, 'submit', _actor_kind, _actor_id, _reason, 1, clock_timestamp()
    FROM unnest(_ids, string_to_array(_payloads, chr(10))) AS s(id, payload);
END;
$$;
