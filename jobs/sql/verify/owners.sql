-- Whose these jobs are; ids without a job are left out.
SELECT id::text, owner_id::text FROM jobs_job WHERE id = ANY(%(ids)s::uuid[])
