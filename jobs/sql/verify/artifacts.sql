-- Artifacts without the completion that they were written with: same job, same token. Answers (rule,
-- job, no version). The audit is asked and not the row, because artifacts may outlive a deleted job.
SELECT 'I8.artifact' AS rule, f.job_id, NULL::int AS version
FROM (
    SELECT job_id, token FROM jobs_jobartifact
    WHERE job_id BETWEEN %(low)s::uuid AND %(high)s::uuid
) AS f
LEFT JOIN (
    SELECT job_id, token, to_state FROM jobs_auditentry
    WHERE job_id BETWEEN %(low)s::uuid AND %(high)s::uuid
) AS e ON e.job_id = f.job_id AND e.token = f.token AND e.to_state = 'COMPLETED'
WHERE e.job_id IS NULL
