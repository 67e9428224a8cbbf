-- The hot verbs as functions, whose plans PostgreSQL keeps for as long as a session lasts, also behind
-- a pooler: parsing and planning took a third of each statement's time. The settings of each function
-- pin the one right kind of plan, look-ups by an index, because a kept plan may be older than all that
-- the tables hold now. Which states and where to is told by the caller, from jobs/states.py.

-- Accepts many jobs in one statement; the insert trigger adds their audit and outbox rows. A conflict
-- on any unique index (unique key, or an idempotency key that reserve_keys.sql did not know) leaves that
-- row out. Answers the ids of the rows that are no jobs now; the caller looks up who answers instead.
-- One JSON parameter, because one cast of one text is far cheaper than an array per column.
CREATE FUNCTION jobs_submit_v1(_rows json, _actor_kind text, _actor_id text, _reason text)
RETURNS uuid[] LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    made bigint;
BEGIN
    INSERT INTO jobs_job (
        id, owner_id, handler, queue, priority, tenant, unique_key, idempotency_key, fingerprint,
        payload, state, version, attempt, failed_attempts, lost_attempts, max_attempts, due_at,
        worker, progress, progress_message, progress_seq, event, actor_kind, actor_id, reason,
        signed_version, submitted_at
    )
    SELECT
        s.id, s.owner_id, s.handler, s.queue, s.priority, s.tenant, s.unique_key,
        s.idempotency_key, s.fingerprint, s.payload, 'PENDING', 1, 0, 0, 0, s.max_attempts,
        coalesce(s.due_at, clock_timestamp() + make_interval(secs => coalesce(s.delay_seconds, 0))),
        '', 0, '', 0, 'submit', _actor_kind, _actor_id, _reason, 1, clock_timestamp()
    FROM json_to_recordset(_rows) AS s(
        id uuid, owner_id bigint, handler text, queue text, priority smallint, tenant text,
        unique_key text, idempotency_key text, fingerprint text, payload jsonb, max_attempts int,
        due_at timestamptz, delay_seconds double precision
    )
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS made = ROW_COUNT;
    IF made = json_array_length(_rows) THEN
        RETURN '{}';
    END IF;
    -- A row of the same id is this very wish, whose commit succeeded although its answer was lost.
    RETURN ARRAY(
        SELECT s.id
        FROM json_to_recordset(_rows) AS s(id uuid)
        WHERE NOT EXISTS (SELECT FROM jobs_job AS j WHERE j.id = s.id)
    );
END;
$$;

-- Takes, for one worker, those of the announced jobs that are still waiting at the announced version,
-- due, and of a handler that it knows. The ids come sorted and the index is read in their order, so
-- that two callers cannot deadlock; each row is locked, judged by its newest version and written at
-- once, and only if it may be taken.
CREATE FUNCTION jobs_claim_v1(
    _ids uuid[], _versions int[], _tokens uuid[], _handlers text[],
    _lease_seconds double precision, _inline_limit int,
    _event text, _sources text[], _target text, _actor_kind text, _actor_id text
) RETURNS TABLE (
    id uuid, owner_id bigint, handler text, queue text, state text, version int,
    progress_seq int, attempt int, failed_attempts int, lost_attempts int, max_attempts int,
    progress double precision, progress_message text, reason text, cancel_requested boolean,
    submitted_at timestamptz, due_at timestamptz, started_at timestamptz, finished_at timestamptz,
    has_result boolean, result text, payload text
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
        j.id, j.owner_id::bigint, j.handler::text, j.queue::text, j.state::text, j.version,
        j.progress_seq, j.attempt, j.failed_attempts, j.lost_attempts, j.max_attempts, j.progress,
        j.progress_message::text, j.reason, j.cancel_requested_at IS NOT NULL, j.submitted_at, j.due_at, j.started_at,
        j.finished_at, j.result IS NOT NULL,
        CASE WHEN octet_length(j.result::text) <= _inline_limit THEN j.result::text END,
        j.payload::text;
END;
$$;

-- Completes many jobs, each only while the attempt's token is still the job's own. Sorted ids, locks
-- and plan as for the claim.
CREATE FUNCTION jobs_succeed_v1(
    _ids uuid[], _tokens uuid[], _results jsonb[], _inline_limit int,
    _event text, _sources text[], _target text, _actor_kind text, _actor_id text
) RETURNS TABLE (
    id uuid, owner_id bigint, handler text, queue text, state text, version int,
    progress_seq int, attempt int, failed_attempts int, lost_attempts int, max_attempts int,
    progress double precision, progress_message text, reason text, cancel_requested boolean,
    submitted_at timestamptz, due_at timestamptz, started_at timestamptz, finished_at timestamptz,
    has_result boolean, result text
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
        j.id, j.owner_id::bigint, j.handler::text, j.queue::text, j.state::text, j.version,
        j.progress_seq, j.attempt, j.failed_attempts, j.lost_attempts, j.max_attempts, j.progress,
        j.progress_message::text, j.reason, j.cancel_requested_at IS NOT NULL, j.submitted_at, j.due_at, j.started_at,
        j.finished_at, j.result IS NOT NULL,
        CASE WHEN octet_length(j.result::text) <= _inline_limit THEN j.result::text END;
END;
$$;

-- Takes due outbox rows for one relay, most urgent first. Each priority is probed on its own, so the
-- partial index ends the scan at "not due yet" and a million scheduled rows cost nothing. taken_until
-- keeps a second relay away without a transaction held open over the broker call; it lapses by itself
-- when this relay dies. Rows are found by "not published", never by position, because a slow
-- transaction may commit a lower id later. statement_timestamp(), because a volatile clock cannot bound
-- an index scan. The commit waits for no disk: a take that a crash undoes is taken again.
CREATE FUNCTION jobs_take_v1(_limit int, _take_seconds double precision, _without text[])
RETURNS TABLE (
    id bigint, job_id uuid, job_version int, queue text, handler text, priority smallint,
    created_at timestamptz, due_at timestamptz
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN QUERY
    UPDATE jobs_outboxentry AS o SET
        taken_until = clock_timestamp() + make_interval(secs => _take_seconds),
        tries = o.tries + 1
    WHERE o.id = ANY (ARRAY(
        SELECT due.id
        FROM generate_series(9, 0, -1) AS urgency(priority)
        CROSS JOIN LATERAL (
            SELECT w.id
            FROM jobs_outboxentry AS w
            WHERE w.published_at IS NULL
                AND w.priority = urgency.priority
                AND w.due_at <= statement_timestamp()
                AND (w.taken_until IS NULL OR w.taken_until < statement_timestamp())
                AND w.queue <> ALL (_without)
            ORDER BY w.due_at
            LIMIT _limit
            FOR UPDATE SKIP LOCKED
        ) AS due
        LIMIT _limit
    ))
    RETURNING
        o.id, o.job_id, o.job_version, o.queue::text, o.handler::text, o.priority, o.created_at,
        o.due_at;
END;
$$;

-- Marks what the broker confirmed as published, and gives the rest back at once. Waits for no disk
-- either: what a crash forgets is rung twice.
CREATE FUNCTION jobs_settle_v1(_published bigint[], _given_back bigint[])
RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    IF cardinality(_published) > 0 THEN
        UPDATE jobs_outboxentry SET published_at = clock_timestamp() WHERE id = ANY (_published);
    END IF;
    IF cardinality(_given_back) > 0 THEN
        UPDATE jobs_outboxentry SET taken_until = NULL WHERE id = ANY (_given_back);
    END IF;
END;
$$;
