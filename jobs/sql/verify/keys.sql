-- A digest of owner and idempotency key of each job of a window that has one, followed by its id.
SELECT string_agg(
    decode(md5(coalesce(owner_id::text, '') || ':' || idempotency_key), 'hex') || uuid_send(id),
    ''::bytea
)
FROM jobs_job
WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid AND idempotency_key IS NOT NULL
