-- Completes many jobs, each only while the attempt's token is still the job's own. Locks in id order,
-- so that two callers cannot deadlock. Which states and where to: jobs/states.py.
WITH locked AS MATERIALIZED (
    SELECT j.id FROM jobs_job AS j WHERE j.id = ANY(%(ids)s::uuid[])
    ORDER BY j.id FOR NO KEY UPDATE
)
UPDATE jobs_job AS j SET
    state = %(target)s,
    version = j.version + 1,
    signed_version = j.version + 1,
    lease_token = NULL,
    lease_until = NULL,
    progress = 1,
    result = o.result,
    event = %(event)s,
    actor_kind = %(actor_kind)s,
    actor_id = %(actor_id)s,
    reason = '',
    finished_at = clock_timestamp()
FROM locked JOIN json_to_recordset(%(rows)s::json) AS o(id uuid, token uuid, result jsonb)
    ON o.id = locked.id
-- The array tells the planner how many rows to look up, and the state, as an expression, leads it to
-- no other index; see write_transitions.sql and claim.sql.
WHERE j.id = ANY(%(ids)s::uuid[]) AND j.id = locked.id
    AND j.lease_token = o.token AND concat(j.state) = ANY(%(sources)s::text[])
RETURNING {view}
