-- Rings again for jobs whose doorbell was published but never claimed: the broker may lose any of
-- them. The age bound doubles with every ring of the same row, so a long backlog is not rung twice
-- per tick, and a row that is missing altogether is written anew.
INSERT INTO jobs_outboxentry AS o (
    job_id, job_version, handler, queue, priority, due_at, tries, rearms
)
SELECT j.id, j.version, j.handler, j.queue, j.priority, j.due_at, 0, 0
FROM jobs_job AS j
LEFT JOIN jobs_outboxentry AS r ON r.job_id = j.id AND r.job_version = j.version
WHERE j.state = 'PENDING'
    AND j.due_at < clock_timestamp() - make_interval(secs => %(base_seconds)s)
    AND (r.id IS NULL OR r.published_at < clock_timestamp() - make_interval(
        secs => least(%(cap_seconds)s, %(base_seconds)s * power(2.0, least(r.rearms, 32)))
    ))
ORDER BY j.due_at
LIMIT %(limit)s
ON CONFLICT (job_id, job_version) DO UPDATE SET
    published_at = NULL, taken_until = NULL, rearms = o.rearms + 1
    WHERE o.published_at IS NOT NULL
RETURNING o.job_id
