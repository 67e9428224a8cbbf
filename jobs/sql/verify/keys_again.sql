-- Jobs that share owner and idempotency key now, of those whose digests met: a job may have been
-- deleted, and its key used again, between the two windows that saw them.
SELECT count(*) - 1, (array_agg(id::text ORDER BY id))[1:2]
FROM jobs_job
WHERE id = ANY(%(ids)s::uuid[])
GROUP BY owner_id, idempotency_key
HAVING count(*) > 1
