-- Undoes what guard_v4.sql added. guard_v2.sql, guard_v3.sql and transition_plan.sql follow it and put back
-- what was replaced; the first of them makes the function for the hash anew.
DROP FUNCTION jobs_refuse_row(uuid, text, text, timestamptz);
DROP FUNCTION jobs_broken_rule(text, timestamptz, timestamptz, jsonb, int, smallint, int, int);
DROP FUNCTION jobs_audit_hash(
    bytea, uuid, int, text, text, text, text, text, text, int, uuid, timestamptz, timestamptz, bigint
);
