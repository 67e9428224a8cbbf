-- Completes many jobs, each only while the attempt's token is still the job's own. Locks in id order,
-- so that two callers cannot deadlock. Which states and where to: jobs/states.py. What is locked is
-- looked up again by its id, row by row, which is the right plan for any number: the array leads the
-- first look to the primary key, and the state, as an expression, leads to no other index; see
-- write_transitions.sql and claim.sql.
WITH locked AS MATERIALIZED (
    SELECT j.id, o.token, o.result
    FROM jobs_job AS j
    JOIN json_to_recordset(%(rows)s::json) AS o(id uuid, token uuid, result jsonb) ON o.id = j.id
    WHERE j.id = ANY(%(ids)s::uuid[])
    ORDER BY j.id
    FOR NO KEY UPDATE OF j
)
UPDATE jobs_job AS j SET
    state = %(target)s,
    version = j.version + 1,
    signed_version = j.version + 1,
    lease_token = NULL,
    lease_until = NULL,
    progress = 1,
    result = locked.result,
    event = %(event)s,
    actor_kind = %(actor_kind)s,
    actor_id = %(actor_id)s,
    reason = '',
    finished_at = clock_timestamp()
FROM locked
WHERE j.id = locked.id AND j.lease_token = locked.token
    AND concat(j.state) = ANY(%(sources)s::text[])
RETURNING {view}
