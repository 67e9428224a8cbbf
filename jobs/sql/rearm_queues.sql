-- The time, and the queues in which anything waits: one probe of the index per queue, however many
-- jobs wait in it.
WITH RECURSIVE waiting(queue) AS (
    (SELECT queue FROM jobs_job WHERE state = 'PENDING' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (
        SELECT j.queue FROM jobs_job AS j
        WHERE j.state = 'PENDING' AND j.queue > waiting.queue
        ORDER BY j.queue LIMIT 1
    )
    FROM waiting WHERE waiting.queue IS NOT NULL
)
SELECT clock_timestamp(), ARRAY(SELECT queue FROM waiting WHERE queue IS NOT NULL ORDER BY queue)
