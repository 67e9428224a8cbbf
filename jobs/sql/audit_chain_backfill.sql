-- Chains the audit entries that are older than the chain, and gives every job the head of its own.
--
-- Reads and rewrites every audit entry and every job row once, in the migration's transaction, under
-- locks that let nobody else write (nor, from the first ALTER on, read) these tables. Stop the
-- platform first, allow for twice the tables' size on disk, and VACUUM them afterwards.
--
-- The triggers that refuse such a rewrite are off between here and the last lines. That is part of
-- the transaction: if anything fails, they have never been off.
ALTER TABLE jobs_auditentry DISABLE TRIGGER jobs_audit_append_only;
ALTER TABLE jobs_job DISABLE TRIGGER jobs_guard_transition;
ALTER TABLE jobs_job DISABLE TRIGGER jobs_keep_completed;
ALTER TABLE jobs_job DISABLE TRIGGER jobs_record_transition;

CREATE AGGREGATE jobs_audit_chain(
    uuid, int, text, text, text, text, text, text, int, uuid, timestamptz, timestamptz, bigint
) (SFUNC = jobs_audit_hash, STYPE = bytea, INITCOND = '');

-- As a window function the aggregate's running value is the chain: one pass in key order, however
-- long a single job's history is.
UPDATE jobs_auditentry AS a SET hash = c.hash
FROM (
    SELECT job_id, version, jobs_audit_chain(
        job_id, version, from_state, to_state, event, actor_kind, actor_id, reason, attempt, token,
        lease_until, at, txid
    ) OVER (PARTITION BY job_id ORDER BY version ROWS UNBOUNDED PRECEDING) AS hash
    FROM jobs_auditentry
) AS c
WHERE a.job_id = c.job_id AND a.version = c.version;

DROP AGGREGATE jobs_audit_chain(
    uuid, int, text, text, text, text, text, text, int, uuid, timestamptz, timestamptz, bigint
);

UPDATE jobs_job AS j SET changed_at = a.at, audit_hash = a.hash
FROM (
    SELECT DISTINCT ON (job_id) job_id, at, hash
    FROM jobs_auditentry
    ORDER BY job_id, version DESC
) AS a
WHERE a.job_id = j.id;

-- Jobs from before the guard, or whose history was removed, have a chain without entries.
UPDATE jobs_job SET changed_at = submitted_at, audit_hash = '' WHERE audit_hash IS NULL;

ALTER TABLE jobs_job ENABLE TRIGGER jobs_record_transition;
ALTER TABLE jobs_job ENABLE TRIGGER jobs_keep_completed;
ALTER TABLE jobs_job ENABLE TRIGGER jobs_guard_transition;
ALTER TABLE jobs_auditentry ENABLE TRIGGER jobs_audit_append_only;
