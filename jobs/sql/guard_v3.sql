-- Version 3 of the guard: jobs that are accepted in one statement share outbox rows, up to a hundred of
-- them one, if they are to be rung for alike. See docs/adr/0026-outbox-rows-are-shared.md.
CREATE OR REPLACE FUNCTION jobs_record_birth() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    present bigint := pg_current_xact_id()::text::bigint;
    made bigint;
BEGIN
    INSERT INTO jobs_auditentry (job_id, version, from_state, to_state, event, actor_kind,
        actor_id, reason, attempt, token, lease_until, at, txid, hash)
    SELECT id, version, NULL, state, event, actor_kind, actor_id, reason, attempt, NULL, NULL,
        changed_at, present, audit_hash
    FROM born;
    GET DIAGNOSTICS made = ROW_COUNT;
    IF made = 1 THEN
        INSERT INTO jobs_outboxentry (job_id, job_version, handler, queue, priority, due_at, tries,
            rearms)
        SELECT id, version, handler, queue, priority, due_at, 0, 0 FROM born;
        RETURN NULL;
    END IF;
    -- Of jobs that are due already it does not matter since when; none is rung for before its time.
    INSERT INTO jobs_outboxentry (job_id, job_version, others, txid, handler, queue, priority,
        due_at, tries, rearms)
    SELECT ids[first], 1, nullif(ids[first + 1 : first + 99], '{}'), present, handler, queue,
        priority, due_at, 0, 0
    FROM (
        SELECT array_agg(id) AS ids, handler, queue, priority, max(due_at) AS due_at
        FROM born
        GROUP BY handler, queue, priority, CASE WHEN due_at > clock_timestamp() THEN due_at END
    ) AS alike
    CROSS JOIN LATERAL generate_series(1, cardinality(ids), 100) AS first;
    RETURN NULL;
END;
$$;
