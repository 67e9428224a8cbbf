-- What became of the jobs and doorbells of these ids, for judging dead letters: state and version now
-- (of the latest entry if the row was deleted), and when the doorbell of each version was published
-- last. One that is not published is about to be: infinity. The ids stand in every part, because no
-- part may depend on how it is joined to be found by index.
SELECT e.job_id::text, coalesce(j.state, e.to_state), coalesce(j.version, e.version),
    o.job_version, extract(epoch FROM coalesce(o.published_at, 'infinity'))::float8
FROM (
    SELECT DISTINCT ON (job_id) job_id, to_state, version FROM jobs_auditentry
    WHERE job_id = ANY(%(ids)s::uuid[]) ORDER BY job_id, version DESC
) AS e
LEFT JOIN (
    SELECT id, state, version FROM jobs_job WHERE id = ANY(%(ids)s::uuid[])
) AS j ON j.id = e.job_id
LEFT JOIN (
    SELECT job_id, job_version, published_at FROM jobs_outboxentry
    WHERE job_id = ANY(%(ids)s::uuid[])
    UNION ALL
    SELECT wanted.id, 1, bell.published_at
    FROM unnest(%(ids)s::uuid[]) AS wanted(id)
    CROSS JOIN LATERAL jobs_doorbell_v1(wanted.id, 1) AS bell
    WHERE bell.job_id <> wanted.id
) AS o ON o.job_id = e.job_id
