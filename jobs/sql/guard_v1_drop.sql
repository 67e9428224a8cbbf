-- Undoes guard_v1.sql, for migrating backwards.
DROP TRIGGER jobs_audit_own_hand ON jobs_auditentry;
DROP TRIGGER jobs_audit_append_only ON jobs_auditentry;
DROP TRIGGER jobs_keep_all ON jobs_job;
DROP TRIGGER jobs_keep_active ON jobs_job;
DROP TRIGGER jobs_record_transition ON jobs_job;
DROP TRIGGER jobs_record_birth ON jobs_job;
DROP TRIGGER jobs_guard_birth ON jobs_job;
DROP TRIGGER jobs_guard_fixed ON jobs_job;
DROP TRIGGER jobs_guard_transition ON jobs_job;
DROP FUNCTION jobs_refuse();
DROP FUNCTION jobs_record_transition();
DROP FUNCTION jobs_record_birth();
DROP FUNCTION jobs_guard_birth();
DROP FUNCTION jobs_guard_fixed();
DROP FUNCTION jobs_guard_transition();
