-- Shortens the leases of jobs that run since these doorbells; least() never lengthens one. The claim
-- is one version after the doorbell's and a cancel request one more, so doorbells of earlier runs
-- change nothing. A row that is locked is being written by somebody alive, and is passed by.
UPDATE jobs_job AS j SET
    lease_until = least(j.lease_until, clock_timestamp() + make_interval(secs => %(doubt_seconds)s))
FROM (
    SELECT r.id
    FROM jobs_job AS r
    JOIN json_to_recordset(%(rows)s::json) AS b(id uuid, version int) ON b.id = r.id
    WHERE r.state = 'RUNNING' AND r.version - b.version IN (1, 2)
    ORDER BY r.id
    FOR NO KEY UPDATE OF r SKIP LOCKED
) AS doubted
WHERE j.id = doubted.id
