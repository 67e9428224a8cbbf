-- Idempotency keys that nobody answers: the job that a key made, or the standing job that answers in
-- its place, is gone, is another owner's, or was made under another key. Answers (rule, job, no
-- version). Both parts go by ids of the window: a key's own, and that of the job which answers it.
SELECT 'I16.stale' AS rule, k.id AS job_id, NULL::int AS version
FROM (
    SELECT id, owner_id, key FROM jobs_idempotencykey
    WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid AND answered_by IS NULL
) AS k
LEFT JOIN (
    SELECT id, owner_id, idempotency_key FROM jobs_job
    WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid
) AS j ON j.id = k.id
WHERE (j.owner_id, j.idempotency_key) IS DISTINCT FROM (k.owner_id, k.key)
UNION ALL
SELECT 'I16.stale', k.answered_by, NULL
FROM (
    SELECT answered_by, owner_id FROM jobs_idempotencykey
    WHERE answered_by BETWEEN %(low)s::uuid AND %(high)s::uuid
) AS k
LEFT JOIN (
    SELECT id, owner_id FROM jobs_job WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid
) AS j ON j.id = k.answered_by
WHERE j.id IS NULL OR j.owner_id IS DISTINCT FROM k.owner_id
