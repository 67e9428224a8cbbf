-- Renews many leases by id and token. A holder whose token is gone gets no row back, which is how
-- it learns that somebody else took over. No version: a sign of life is not a transition.
UPDATE jobs_job AS j SET
    lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s),
    progress = coalesce(b.fraction, j.progress),
    progress_message = CASE WHEN b.fraction IS NULL THEN j.progress_message ELSE b.message END,
    progress_seq = j.progress_seq + (b.fraction IS NOT NULL)::int
FROM json_to_recordset(%(rows)s::json) AS b(
    id uuid, token uuid, fraction double precision, message text
)
-- The array tells the planner how many rows to look up; see write_transitions.sql.
WHERE j.id = ANY(%(ids)s::uuid[]) AND j.id = b.id AND j.lease_token = b.token AND j.state = 'RUNNING'
RETURNING {view}
