-- The tokens of a window's claims, each followed by its job's id, 32 bytes a claim, in one value; see
-- jobs/verification/spill.py for what becomes of them.
SELECT string_agg(uuid_send(token) || uuid_send(job_id), ''::bytea)
FROM jobs_auditentry
WHERE job_id BETWEEN %(low)s::uuid AND %(high)s::uuid
    AND to_state = 'RUNNING' AND from_state IS DISTINCT FROM 'RUNNING' AND token IS NOT NULL
