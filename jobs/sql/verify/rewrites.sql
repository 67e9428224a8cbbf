-- Rows of the audit that were updated or deleted, as far as the server's statistics go back; also
-- those of transactions that were rolled back.
SELECT
    pg_stat_get_tuples_updated('jobs_auditentry'::regclass),
    pg_stat_get_tuples_deleted('jobs_auditentry'::regclass)
