-- Takes idempotency keys for jobs that are about to be inserted; answers the ids of those that got
-- theirs. Waits for whoever is taking the same key in another transaction: this index alone decides
-- between two requests, whether they make a job or are answered by one that stands. The rows come
-- sorted by owner and key, so that two submits of the same keys cannot deadlock.
INSERT INTO jobs_idempotencykey (id, owner_id, key, fingerprint)
SELECT s.id, s.owner_id, s.idempotency_key, s.fingerprint
FROM json_to_recordset(%(rows)s::json) AS s(
    id uuid, owner_id bigint, idempotency_key text, fingerprint text
)
ON CONFLICT DO NOTHING
RETURNING id
