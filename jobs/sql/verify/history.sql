-- What the audit entries say by themselves, each beside the one before it: one pass over a window in
-- the order of the primary key. Answers (rule, job, version of the entry that breaks it).
--
-- The hash is written out here and not asked of the database's own jobs_audit_hash(), which whoever
-- rewrote the history could have rewritten too. An entry is compared with the hash that is stored
-- before it, so a changed entry is named itself and not everything after it.
--
-- run counts the entries into RUNNING so far; the first entry of a run is its claim. A change by hand
-- may claim, and may reopen what FAILED or was CANCELLED; nothing leaves COMPLETED.
WITH entries AS (
    SELECT *,
        to_state = 'RUNNING' AND from_state IS DISTINCT FROM 'RUNNING' AS enters,
        to_state <> 'RUNNING' AND from_state IS NOT DISTINCT FROM 'RUNNING' AS leaves
    FROM jobs_auditentry
    WHERE job_id BETWEEN %(low)s::uuid AND %(high)s::uuid
),
walked AS (
    SELECT *,
        coalesce(lag(version) OVER so_far, 0) AS before_version,
        lag(to_state) OVER so_far AS before_state,
        coalesce(lag(hash) OVER so_far, '') AS before_hash,
        lag(at) OVER so_far AS before_at,
        count(*) FILTER (WHERE enters) OVER so_far AS run,
        count(*) FILTER (WHERE leaves) OVER so_far AS ends,
        count(*) FILTER (WHERE to_state = 'COMPLETED') OVER so_far AS completions
    FROM entries
    WINDOW so_far AS (PARTITION BY job_id ORDER BY version)
),
held AS (
    SELECT *,
        first_value(token) OVER run AS held_token,
        first_value(actor_id) OVER run AS holder
    FROM walked
    WINDOW run AS (PARTITION BY job_id, run ORDER BY version)
),
judged AS (
    SELECT h.job_id, h.version, array_remove(ARRAY[
        CASE WHEN h.version <> before_version + 1 THEN 'I3.gap' END,
        CASE WHEN from_state IS DISTINCT FROM before_state THEN 'I3.chain' END,
        CASE WHEN hash IS DISTINCT FROM sha256(before_hash || convert_to(json_build_array(
            h.job_id, h.version, from_state, to_state, event, actor_kind, actor_id, reason, attempt,
            token,
            (extract(epoch FROM lease_until) * 1000000)::bigint,
            (extract(epoch FROM at) * 1000000)::bigint,
            txid
        )::text, 'UTF8')) THEN 'I3.hash' END,
        CASE WHEN concat_ws(' ', event, coalesce(from_state, '-'), to_state, actor_kind)
            <> ALL(%(edges)s::text[]) THEN 'I4.edge' END,
        CASE WHEN to_state = 'COMPLETED' AND completions > 1 THEN 'I5.twice' END,
        CASE WHEN from_state = 'COMPLETED'
            OR from_state IN ('FAILED', 'CANCELLED')
                AND (event NOT IN ('reopen', 'hand_edit') OR to_state <> 'PENDING')
            THEN 'I5.left' END,
        CASE WHEN run - ends NOT IN (0, 1) THEN 'I6.holders' END,
        CASE WHEN enters AND token IS NULL THEN 'I6.tokenless' END,
        -- Entries older than the column that says which lease they found cannot say it.
        CASE WHEN leaves AND lease_until IS NULL AND at > %(chained_at)s::timestamptz
            THEN 'I6.leaseless' END,
        CASE WHEN leaves AND actor_kind = 'rescuer' AND at < lease_until THEN 'I6.early' END,
        CASE WHEN from_state = 'RUNNING' AND token IS DISTINCT FROM held_token
            THEN 'I7.token' END,
        CASE WHEN leaves AND actor_kind = 'worker' AND actor_id <> holder THEN 'I7.holder' END,
        CASE WHEN attempt <> run THEN 'I11.attempt' END,
        CASE WHEN at < before_at THEN 'I12.time' END,
        CASE WHEN leaves AND actor_kind = 'rescuer'
            AND at > lease_until + make_interval(secs => %(bound_seconds)s)
            THEN 'I12.late' END,
        CASE WHEN actor_kind = 'user' AND j.id IS NOT NULL
            AND actor_id <> coalesce(j.owner_id::text, '') THEN 'I13.stranger' END
    ], NULL) AS broken
    FROM held AS h
    LEFT JOIN (
        SELECT id, owner_id FROM jobs_job WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid
    ) AS j ON j.id = h.job_id
)
SELECT unnest(broken) AS rule, job_id, version FROM judged WHERE broken <> '{}'
