-- A digest of owner and idempotency key of each job of a window that has one, followed by its id. The
-- condition stands behind the aggregate: in the WHERE clause it would offer the planner, while it has
-- no statistics, the index of all jobs that have a key.
SELECT string_agg(
    decode(md5(coalesce(owner_id::text, '') || ':' || idempotency_key), 'hex') || uuid_send(id),
    ''::bytea
) FILTER (WHERE idempotency_key IS NOT NULL)
FROM jobs_job
WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid
