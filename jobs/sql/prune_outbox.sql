-- Forgets published rows that no job waits on any more, a bounded number at a time.
DELETE FROM jobs_outboxentry WHERE id IN (
    SELECT o.id
    FROM jobs_outboxentry AS o
    WHERE o.published_at < clock_timestamp() - make_interval(secs => %(retention_seconds)s)
        AND NOT EXISTS (
            SELECT 1 FROM jobs_job AS j
            WHERE j.id = ANY (o.job_id || coalesce(o.others, '{}'))
                AND j.version = o.job_version AND j.state = 'PENDING'
        )
    ORDER BY o.id
    LIMIT %(limit)s
)
