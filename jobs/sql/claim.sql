-- Takes, for one worker, those of the announced jobs that are still waiting at the announced version,
-- due, and of a handler that it knows. Locks in id order, so that two callers cannot deadlock, and
-- only what it may take. Which states and where to: jobs/states.py. The state is compared as an
-- expression, and not running is told by the lease: with the column, the planner, whose statistics
-- are older than a backlog, would walk the index of all that waits instead of the ids.
WITH locked AS MATERIALIZED (
    SELECT j.id, b.version, b.token
    FROM jobs_job AS j
    JOIN unnest(%(ids)s::uuid[], %(versions)s::int[], %(tokens)s::uuid[]) AS b(id, version, token)
        ON b.id = j.id AND b.version = j.version
    WHERE j.id = ANY(%(ids)s::uuid[])
        AND j.lease_token IS NULL
        AND j.due_at <= statement_timestamp()
        AND j.handler = ANY(%(handlers)s::text[])
    ORDER BY j.id
    FOR NO KEY UPDATE OF j
)
UPDATE jobs_job AS j SET
    state = %(target)s,
    version = j.version + 1,
    signed_version = j.version + 1,
    attempt = j.attempt + 1,
    lease_token = locked.token,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s),
    worker = %(actor_id)s,
    progress = 0,
    progress_message = '',
    event = %(event)s,
    actor_kind = %(actor_kind)s,
    actor_id = %(actor_id)s,
    reason = '',
    started_at = clock_timestamp(),
    finished_at = NULL
FROM locked
WHERE j.id = locked.id AND j.version = locked.version AND concat(j.state) = ANY(%(sources)s::text[])
RETURNING {view}, j.payload::text
