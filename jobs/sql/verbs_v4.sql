-- Version 3 of claim and completion. Version 2 searches its arrays for each row, so that the more jobs there
-- are the more each of them costs; this one joins them. The condition on the ids, which the join repeats,
-- is what rows are looked up by. A hash join keeps the order of the side that it does not hash, and both are
-- in the order of the ids, which come sorted. See docs/adr/0021-hot-verbs-are-functions-with-pinned-plans.md.

-- Takes jobs as jobs_claim_v2 does.
CREATE FUNCTION jobs_claim_v3(
    _ids uuid[], _versions int[], _tokens uuid[], _handlers text[],
    _lease_seconds double precision,
    _event text, _sources text[], _target text, _actor_kind text, _actor_id text
) RETURNS TABLE (
    id text, owner_id bigint, handler text, queue text, version int, progress_seq int,
    attempt int, failed_attempts int, lost_attempts int, max_attempts int,
    cancel_requested boolean, submitted_at timestamptz, due_at timestamptz,
    started_at timestamptz, payload text
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    UPDATE jobs_job AS j SET
        state = _target,
        version = j.version + 1,
        signed_version = j.version + 1,
        attempt = j.attempt + 1,
        lease_token = w.token,
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
    FROM unnest(_ids, _versions, _tokens) AS w(id, version, token)
    WHERE j.id = ANY (_ids) AND j.id = w.id
        AND j.version = w.version
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

-- Completes jobs as jobs_succeed_v2 does.
CREATE FUNCTION jobs_succeed_v3(
    _ids uuid[], _tokens uuid[], _results jsonb[], _inline_limit int,
    _event text, _sources text[], _target text, _actor_kind text, _actor_id text
) RETURNS TABLE (
    id text, queue text, version int, progress_seq int, max_attempts int, progress_message text,
    cancel_requested boolean, due_at timestamptz, finished_at timestamptz, has_result boolean,
    result text
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
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
        result = w.result,
        event = _event,
        actor_kind = _actor_kind,
        actor_id = _actor_id,
        reason = '',
        finished_at = clock_timestamp()
    FROM unnest(_ids, _tokens, _results) AS w(id, token, result)
    WHERE j.id = ANY (_ids) AND j.id = w.id
        AND j.lease_token = w.token
        AND j.state = ANY (_sources)
    RETURNING
        encode(uuid_send(j.id), 'hex'), j.queue::text, j.version, j.progress_seq, j.max_attempts,
        j.progress_message::text, j.cancel_requested_at IS NOT NULL, j.due_at, j.finished_at,
        j.result IS NOT NULL,
        CASE WHEN octet_length(j.result::text) <= _inline_limit THEN j.result::text END;
END;
$$;
