-- Version 2 of the hot verbs; what is not said here is said in verbs_v1.sql. Ids are answered without
-- hyphens, because that is how the caller has them as text already.

-- Accepts jobs that differ in nothing but id and payload, as most that are submitted together do: what
-- they share comes once, so that no object of 13 fields is taken apart for each. Without keys no other
-- job can answer, and without ON CONFLICT a row is written once and not confirmed afterwards; a wish
-- that may be there already is asked of jobs_submit_v1 instead. The insert trigger adds audit and outbox
-- rows. The payloads are JSON Lines, which need no quoting.
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

-- Takes jobs as jobs_claim_v1 does, and answers what the claim alone does not decide.
CREATE FUNCTION jobs_claim_v2(
    _ids uuid[], _versions int[], _tokens uuid[], _handlers text[],
    _lease_seconds double precision,
    _event text, _sources text[], _target text, _actor_kind text, _actor_id text
) RETURNS TABLE (
    id text, owner_id bigint, handler text, queue text, version int, progress_seq int,
    attempt int, failed_attempts int, lost_attempts int, max_attempts int,
    cancel_requested boolean, submitted_at timestamptz, due_at timestamptz,
    started_at timestamptz, payload text
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    UPDATE jobs_job AS j SET
        state = _target,
        version = j.version + 1,
        signed_version = j.version + 1,
        attempt = j.attempt + 1,
        lease_token = _tokens[array_position(_ids, j.id)],
        lease_until = clock_timestamp() + make_interval(secs => _lease_seconds),
        worker = _actor_id,
        progress = 0,
        progress_message = '',
        event = _event,
        actor_kind = _actor_kind,
        actor_id = _actor_id,
        reason = '',
        started_at = clock_timestamp(),
        finished_at = NULL
    WHERE j.id = ANY (_ids)
        AND j.version = _versions[array_position(_ids, j.id)]
        AND j.state = ANY (_sources)
        AND j.due_at <= statement_timestamp()
        AND j.handler = ANY (_handlers)
    RETURNING
        encode(uuid_send(j.id), 'hex'), j.owner_id::bigint, j.handler::text, j.queue::text,
        j.version, j.progress_seq, j.attempt, j.failed_attempts, j.lost_attempts, j.max_attempts,
        j.cancel_requested_at IS NOT NULL, j.submitted_at, j.due_at, j.started_at,
        j.payload::text;
END;
$$;

-- Completes many jobs as jobs_succeed_v1 does, and answers only what can have changed since the claim,
-- also by hand.
CREATE FUNCTION jobs_succeed_v2(
    _ids uuid[], _tokens uuid[], _results jsonb[], _inline_limit int,
    _event text, _sources text[], _target text, _actor_kind text, _actor_id text
) RETURNS TABLE (
    id text, queue text, version int, progress_seq int, max_attempts int, progress_message text,
    cancel_requested boolean, due_at timestamptz, finished_at timestamptz, has_result boolean,
    result text
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    UPDATE jobs_job AS j SET
        state = _target,
        version = j.version + 1,
        signed_version = j.version + 1,
        lease_token = NULL,
        lease_until = NULL,
        progress = 1,
        result = _results[array_position(_ids, j.id)],
        event = _event,
        actor_kind = _actor_kind,
        actor_id = _actor_id,
        reason = '',
        finished_at = clock_timestamp()
    WHERE j.id = ANY (_ids)
        AND j.lease_token = _tokens[array_position(_ids, j.id)]
        AND j.state = ANY (_sources)
    RETURNING
        encode(uuid_send(j.id), 'hex'), j.queue::text, j.version, j.progress_seq, j.max_attempts,
        j.progress_message::text, j.cancel_requested_at IS NOT NULL, j.due_at, j.finished_at,
        j.result IS NOT NULL,
        CASE WHEN octet_length(j.result::text) <= _inline_limit THEN j.result::text END;
END;
$$;
