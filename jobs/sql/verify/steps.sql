-- What the audit says of these jobs: version, state, and when in seconds since the epoch.
SELECT job_id::text, version, to_state, extract(epoch FROM at)::float8
FROM jobs_auditentry
WHERE job_id = ANY(%(ids)s::uuid[])
