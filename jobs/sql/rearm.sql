-- Rings again for jobs that are still as they were read: their row, of which each has its own by then,
-- is armed anew and counted, and a row that is missing altogether is written. Of two schedulers that
-- chose the same row one wins. The bell rings where the job is now: it may have been moved to another
-- queue by hand.
-- The ids stand twice, because the planner takes the JSON for 100 rows; see write_transitions.sql.
-- The version says that the job is still PENDING. Saying PENDING would lead the planner, whose
-- statistics are older than a backlog, to the index of all that waits.
INSERT INTO jobs_outboxentry AS o (
    job_id, job_version, handler, queue, priority, due_at, tries, rearms
)
SELECT j.id, j.version, j.handler, j.queue, j.priority, j.due_at, 0, w.rearms
FROM json_to_recordset(%(rows)s::json) AS w(id uuid, version int, rearms int)
JOIN jobs_job AS j ON j.id = w.id AND j.version = w.version
WHERE j.id = ANY(%(ids)s::uuid[])
ORDER BY j.id
ON CONFLICT (job_id, job_version) DO UPDATE SET
    published_at = NULL, taken_until = NULL, rearms = o.rearms + 1,
    queue = excluded.queue, priority = excluded.priority
    WHERE o.published_at IS NOT NULL AND o.rearms = excluded.rearms
RETURNING o.job_id
