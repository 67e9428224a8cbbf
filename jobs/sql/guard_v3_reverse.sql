-- Undoes guard_v3.sql: each job gets an outbox row of its own again, and the trigger is version 2's.
SELECT jobs_unshare_v1(ARRAY(
    SELECT member FROM jobs_outboxentry AS o CROSS JOIN LATERAL unnest(o.others) AS member
));

CREATE OR REPLACE FUNCTION jobs_record_birth() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs_auditentry (job_id, version, from_state, to_state, event, actor_kind,
        actor_id, reason, attempt, token, lease_until, at, txid, hash)
    SELECT id, version, NULL, state, event, actor_kind, actor_id, reason, attempt, NULL, NULL,
        changed_at, pg_current_xact_id()::text::bigint, audit_hash
    FROM born;
    INSERT INTO jobs_outboxentry (job_id, job_version, handler, queue, priority, due_at, tries,
        rearms)
    SELECT id, version, handler, queue, priority, due_at, 0, 0 FROM born;
    RETURN NULL;
END;
$$;
