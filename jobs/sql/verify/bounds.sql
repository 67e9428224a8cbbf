-- Where the window that begins at %(low)s ends: at the id that fills it with jobs, with audit
-- entries, outbox rows, artifacts or idempotency keys, whichever comes first, and at %(last)s if
-- nothing fills it. A window is a range of ids, so entries and outbox rows of ids that have no job row
-- lie in some window too. The last id of a window brings all its entries with it: a window is longer
-- than it should be only by one job's own history. Each part walks one index, and the others not
-- beyond where the jobs end.
WITH filled AS MATERIALIZED (
    SELECT coalesce((
        SELECT id FROM jobs_job WHERE id BETWEEN %(low)s::uuid AND %(last)s::uuid
        ORDER BY id OFFSET %(jobs)s - 1 LIMIT 1
    ), %(last)s::uuid) AS high
)
SELECT least(
    (SELECT high FROM filled),
    (SELECT job_id FROM jobs_auditentry
        WHERE job_id BETWEEN %(low)s::uuid AND (SELECT high FROM filled)
        ORDER BY job_id OFFSET %(others)s - 1 LIMIT 1),
    (SELECT job_id FROM jobs_outboxentry
        WHERE job_id BETWEEN %(low)s::uuid AND (SELECT high FROM filled)
        ORDER BY job_id OFFSET %(others)s - 1 LIMIT 1),
    (SELECT job_id FROM jobs_jobartifact
        WHERE job_id BETWEEN %(low)s::uuid AND (SELECT high FROM filled)
        ORDER BY job_id OFFSET %(others)s - 1 LIMIT 1),
    (SELECT id FROM jobs_idempotencykey
        WHERE id BETWEEN %(low)s::uuid AND (SELECT high FROM filled)
        ORDER BY id OFFSET %(others)s - 1 LIMIT 1),
    (SELECT answered_by FROM jobs_idempotencykey
        WHERE answered_by BETWEEN %(low)s::uuid AND (SELECT high FROM filled)
        ORDER BY answered_by OFFSET %(others)s - 1 LIMIT 1)
)::text
