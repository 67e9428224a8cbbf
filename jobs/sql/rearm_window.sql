-- One window of what waits in a queue, from the youngest to the oldest, with each job's outbox row.
-- The row is looked up one by one (the function has a LIMIT), because the planner, whose statistics
-- are older than a backlog, would else read the whole outbox to join it. In the order of the index, so
-- that a window costs the same anywhere in a backlog. heard_after: see rearm_front.sql.
SELECT w.id, w.version, w.attempt, w.handler, w.due_at, o.rearms, o.published_at, o.heard_after
FROM (
    SELECT id, version, attempt, handler, due_at
    FROM jobs_job
    WHERE state = 'PENDING' AND queue = %(queue)s
        AND (due_at, id) < (%(due_at)s::timestamptz, %(id)s::uuid)
    ORDER BY due_at DESC, id DESC
    LIMIT %(limit)s
) AS w
LEFT JOIN LATERAL (
    SELECT r.rearms, r.published_at, greatest(
        r.created_at, r.due_at, CASE WHEN r.rearms = 0 AND r.tries = 1
            THEN r.taken_until - make_interval(secs => %(take_seconds)s) END
    ) AS heard_after
    FROM jobs_doorbell_v1(w.id, w.version) AS r
) AS o ON true
ORDER BY w.due_at DESC, w.id DESC
