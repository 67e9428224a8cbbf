-- Where the walk ends: the greatest id that any of the tables holds now. What is accepted meanwhile
-- has greater ids and is left to the next run, or a busy system could keep ahead of the walk for ever.
SELECT greatest(
    (SELECT id FROM jobs_job ORDER BY id DESC LIMIT 1),
    (SELECT job_id FROM jobs_auditentry ORDER BY job_id DESC LIMIT 1),
    (SELECT job_id FROM jobs_outboxentry ORDER BY job_id DESC LIMIT 1),
    (SELECT job_id FROM jobs_jobartifact ORDER BY job_id DESC LIMIT 1),
    (SELECT id FROM jobs_idempotencykey ORDER BY id DESC LIMIT 1),
    (SELECT answered_by FROM jobs_idempotencykey
        WHERE answered_by IS NOT NULL ORDER BY answered_by DESC LIMIT 1)
)::text
