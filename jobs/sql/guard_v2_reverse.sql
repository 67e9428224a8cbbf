-- Undoes what guard_v2.sql added. guard_v1_drop.sql and guard_v1.sql follow it and put back what was
-- replaced.
DROP TRIGGER jobs_keep_completed ON jobs_job;
DROP TRIGGER jobs_guard_beat ON jobs_job;
DROP FUNCTION jobs_audit_hash(
    bytea, uuid, int, text, text, text, text, text, text, int, uuid, timestamptz, timestamptz, bigint
);
