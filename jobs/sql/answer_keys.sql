-- Notes which standing job answers each of these keys. The lock keeps the job's row until the key is
-- committed: whoever deletes the job waits, and then forgets this key too. It hinders no other
-- writer of the row.
WITH standing AS (
    SELECT id FROM jobs_job WHERE id = ANY(%(ids)s::uuid[]) ORDER BY id FOR KEY SHARE
)
UPDATE jobs_idempotencykey AS k SET answered_by = s.answered_by
FROM json_to_recordset(%(rows)s::json) AS s(id uuid, answered_by uuid)
JOIN standing ON standing.id = s.answered_by
WHERE k.id = s.id
