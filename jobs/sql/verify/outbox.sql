-- Outbox rows beside the audit entries that they were written with. Answers (rule, job, version that
-- the row rings for). Rows of versions that have passed may have been pruned; those that are left
-- must still be right.
--
-- The trigger writes a row inside the statement that writes the entry, so a row that is younger than
-- its entry was written by somebody else: the reconciler, which replaces what is missing, or a hand.
-- How long a row that was armed again has been waiting is not recorded, so it is not judged by age.
-- A confirm may be noted long after it came, if the database was away. So a row was published into a
-- silence only if the relay took it there as well; taken_until tells when, and stays after publishing.
WITH entries AS MATERIALIZED (
    SELECT job_id, version, to_state, at, txid
    FROM jobs_auditentry
    WHERE job_id BETWEEN %(low)s::uuid AND %(high)s::uuid
),
jobs AS MATERIALIZED (
    SELECT id, state, version
    FROM jobs_job
    WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid
),
-- A shared row is here if its first job is, and may ring for jobs of other windows. The subquery keeps
-- its condition on job_id from those who choose an index.
here AS MATERIALIZED (
    SELECT *, true AS is_here
    FROM jobs_outboxentry
    WHERE job_id BETWEEN %(low)s::uuid AND %(high)s::uuid
),
elsewhere AS MATERIALIZED (
    SELECT *, false AS is_here
    FROM (
        SELECT * FROM jobs_outboxentry
        WHERE others IS NOT NULL AND txid = ANY (ARRAY(
            SELECT DISTINCT txid FROM entries WHERE version = 1
        ))
        OFFSET 0
    ) AS shared
    WHERE job_id NOT BETWEEN %(low)s::uuid AND %(high)s::uuid
),
bells AS MATERIALIZED (
    SELECT *, count(*) OVER (PARTITION BY job_id, job_version) AS copies
    FROM (
        SELECT unnest(job_id || others) AS job_id, job_version, due_at, created_at, published_at,
            rearms, is_here,
            extract(epoch FROM coalesce(
                taken_until - make_interval(secs => %(take_seconds)s), published_at
            ))::float8 AS took_at
        FROM (SELECT * FROM here UNION ALL SELECT * FROM elsewhere) AS rung
    ) AS each
    WHERE job_id BETWEEN %(low)s::uuid AND %(high)s::uuid
),
judged AS (
    SELECT o.job_id, o.job_version AS version, array_remove(ARRAY[
        CASE WHEN o.copies > 1 THEN 'I9.copies' END,
        CASE WHEN o.is_here AND e.job_id IS NULL THEN 'I9.stray' END,
        CASE WHEN o.created_at > e.at THEN 'I9.late' END,
        CASE WHEN %(at_rest)s AND o.published_at IS NULL AND o.due_at <= now()
            THEN 'I9.unrung' END,
        CASE WHEN o.published_at IS NULL AND o.rearms = 0
            AND greatest(o.due_at, o.created_at)
                < now() - make_interval(secs => %(max_unpublished_seconds)s)
            THEN 'I9.stuck' END,
        CASE WHEN EXISTS (
            SELECT 1
            FROM unnest(%(silences_began)s::float8[], %(silences_ended)s::float8[]) AS s(began, ended)
            WHERE o.took_at > s.began + %(silence_margin_seconds)s
                AND extract(epoch FROM o.published_at)::float8 < s.ended
        ) THEN 'I9.silence' END
    ], NULL) AS broken
    FROM bells AS o
    LEFT JOIN entries AS e
        ON e.job_id = o.job_id AND e.version = o.job_version AND e.to_state = 'PENDING'
)
SELECT unnest(broken) AS rule, job_id, version FROM judged WHERE broken <> '{}'
UNION ALL
SELECT 'I9.silent', j.id, j.version
FROM jobs AS j
LEFT JOIN bells AS o ON o.job_id = j.id AND o.job_version = j.version
WHERE j.state = 'PENDING' AND o.job_id IS NULL
UNION ALL
SELECT 'I9.stray', job_id, job_version
FROM (SELECT unnest(others) AS job_id, job_version FROM here) AS other
WHERE job_id NOT BETWEEN %(low)s::uuid AND %(high)s::uuid AND (
    SELECT count(*) FROM jobs_auditentry AS e
    WHERE e.job_id = other.job_id AND e.version = other.job_version AND e.to_state = 'PENDING'
) = 0
