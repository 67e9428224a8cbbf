-- How far each queue has been heard, for each handler, by the newest jobs that run. A doorbell that
-- was published once was heard after the relay took its row. Of one that was published more often
-- nobody knows which was heard: it counts from when the first could be.
SELECT j.queue, j.handler, max(o.heard_after)
FROM (
    SELECT id, version, queue, handler
    FROM jobs_job WHERE state = 'RUNNING'
    ORDER BY id DESC LIMIT %(limit)s
) AS j
CROSS JOIN LATERAL (
    SELECT greatest(
        r.created_at, r.due_at, CASE WHEN r.rearms = 0 AND r.tries = 1
            THEN r.taken_until - make_interval(secs => %(take_seconds)s) END
    ) AS heard_after
    FROM jobs_doorbell_v1(j.id, j.version - 1) AS r
) AS o
GROUP BY j.queue, j.handler
