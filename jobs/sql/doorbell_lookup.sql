-- Finds the same outbox row as the function of verbs_v3.sql, but without a join: PostgreSQL 17 put what
-- the join was estimated to cost above a look at the whole outbox.
CREATE OR REPLACE FUNCTION jobs_doorbell_v1(_job_id uuid, _version int)
RETURNS SETOF jobs_outboxentry LANGUAGE sql STABLE AS $$
    SELECT * FROM (
        SELECT o.* FROM jobs_outboxentry AS o
        WHERE o.job_id = _job_id AND o.job_version = _version
        UNION ALL
        SELECT * FROM (
            SELECT o.* FROM jobs_outboxentry AS o
            WHERE _version = 1 AND o.others IS NOT NULL
                AND o.txid = (
                    SELECT e.txid FROM jobs_auditentry AS e
                    WHERE e.job_id = _job_id AND e.version = 1
                )
                AND o.job_id < _job_id AND _job_id = ANY (o.others)
            ORDER BY o.job_id DESC
            LIMIT 1
        ) AS usual
        UNION ALL
        SELECT o.* FROM jobs_outboxentry AS o
        WHERE _version = 1 AND o.others IS NOT NULL
            AND o.txid = (
                SELECT e.txid FROM jobs_auditentry AS e
                WHERE e.job_id = _job_id AND e.version = 1
            )
            AND o.job_id > _job_id AND _job_id = ANY (o.others)
    ) AS found
    LIMIT 1
$$;
