-- The relay's verbs for outbox rows that jobs share, and what goes with such rows. What is not said
-- here is said in verbs_v1.sql.

-- The outbox row that rings for this job at this version: its own, or the one that it shares with jobs
-- accepted in the same transaction, which its first audit entry names. The verbs make ids in order, so of
-- the shared rows of a transaction it is the last one that does not begin behind the job; ids made by
-- hand may have it elsewhere. A single statement, so that callers run it inline.
CREATE FUNCTION jobs_doorbell_v1(_job_id uuid, _version int)
RETURNS SETOF jobs_outboxentry LANGUAGE sql STABLE AS $$
    SELECT * FROM (
        SELECT o.* FROM jobs_outboxentry AS o
        WHERE o.job_id = _job_id AND o.job_version = _version
        UNION ALL
        SELECT shared.*
        FROM jobs_auditentry AS e
        CROSS JOIN LATERAL (
            SELECT * FROM (
                SELECT o.* FROM jobs_outboxentry AS o
                WHERE o.others IS NOT NULL AND o.txid = e.txid
                    AND o.job_id < _job_id AND _job_id = ANY (o.others)
                ORDER BY o.job_id DESC
                LIMIT 1
            ) AS usual
            UNION ALL
            SELECT o.* FROM jobs_outboxentry AS o
            WHERE o.others IS NOT NULL AND o.txid = e.txid
                AND o.job_id > _job_id AND _job_id = ANY (o.others)
        ) AS shared
        WHERE _version = 1 AND e.job_id = _job_id AND e.version = 1
    ) AS found
    LIMIT 1
$$;

-- Gives each of these jobs an outbox row of its own, a copy of the one that it shared; nothing is rung
-- or forgotten by that. A job that has one already, from a process of the release before, keeps it.
CREATE FUNCTION jobs_unshare_v1(_ids uuid[]) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    entry jobs_outboxentry;
    staying uuid[];
    leaving uuid[];
BEGIN
    FOR entry IN
        SELECT o.* FROM jobs_outboxentry AS o
        WHERE o.others IS NOT NULL AND o.id = ANY (ARRAY(
            SELECT bell.id
            FROM unnest(_ids) AS wanted(id)
            CROSS JOIN LATERAL jobs_doorbell_v1(wanted.id, 1) AS bell
        ))
        ORDER BY o.id
        FOR UPDATE
    LOOP
        SELECT array_agg(member ORDER BY member) FILTER (WHERE member <> ALL (_ids)),
            array_agg(member ORDER BY member) FILTER (WHERE member = ANY (_ids))
        INTO staying, leaving
        FROM unnest(entry.job_id || entry.others) AS member
        WHERE member = entry.job_id OR NOT EXISTS (
            SELECT FROM jobs_outboxentry AS own WHERE own.job_id = member AND own.job_version = 1
        );
        IF staying IS NULL THEN
            staying := leaving[1:1];
            leaving := leaving[2:];
        END IF;
        UPDATE jobs_outboxentry SET job_id = staying[1], others = nullif(staying[2:], '{}')
        WHERE id = entry.id;
        INSERT INTO jobs_outboxentry (
            job_id, job_version, txid, handler, queue, priority, due_at, created_at, taken_until,
            published_at, tries, rearms
        )
        SELECT member, 1, entry.txid, entry.handler, entry.queue, entry.priority, entry.due_at,
            entry.created_at, entry.taken_until, entry.published_at, entry.tries, entry.rearms
        FROM unnest(leaving) AS member;
    END LOOP;
END;
$$;

-- Takes due outbox rows as jobs_take_v1 does, until they ring for so many jobs. The loop reads a few rows
-- ahead, which stay locked until the statement is over.
CREATE FUNCTION jobs_take_v2(_limit int, _take_seconds double precision, _without text[])
RETURNS TABLE (
    id bigint, job_id uuid, job_version int, queue text, handler text, priority smallint,
    due_at timestamptz, others uuid[]
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    one record;
    chosen bigint[] := '{}';
    jobs int := 0;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR one IN
        SELECT due.id, due.jobs
        FROM generate_series(9, 0, -1) AS urgency(priority)
        CROSS JOIN LATERAL (
            SELECT w.id, 1 + coalesce(cardinality(w.others), 0) AS jobs
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
    LOOP
        chosen := chosen || one.id;
        jobs := jobs + one.jobs;
        EXIT WHEN jobs >= _limit;
    END LOOP;
    RETURN QUERY
    UPDATE jobs_outboxentry AS o SET
        taken_until = clock_timestamp() + make_interval(secs => _take_seconds),
        tries = o.tries + 1
    WHERE o.id = ANY (chosen)
    RETURNING
        o.id, o.job_id, o.job_version, o.queue::text, o.handler::text, o.priority, o.due_at, o.others;
END;
$$;

-- Settles rows as jobs_settle_v1 does. Of rows that were published in part, the jobs that were rung for
-- get rows of their own first, so that a queue that takes little is not sent the same ones for ever.
CREATE FUNCTION jobs_settle_v2(_published bigint[], _given_back bigint[], _rung uuid[])
RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    IF cardinality(_rung) > 0 THEN
        PERFORM jobs_unshare_v1(_rung);
        UPDATE jobs_outboxentry SET published_at = clock_timestamp()
        WHERE job_id = ANY (_rung) AND job_version = 1 AND published_at IS NULL;
    END IF;
    IF cardinality(_published) > 0 THEN
        UPDATE jobs_outboxentry SET published_at = clock_timestamp() WHERE id = ANY (_published);
    END IF;
    IF cardinality(_given_back) > 0 THEN
        UPDATE jobs_outboxentry SET taken_until = NULL WHERE id = ANY (_given_back);
    END IF;
END;
$$;
