-- What the job rows say, beside the end and the sum of their histories. Answers (rule, job, version
-- of the row, or of the latest entry where there is no row).
--
-- Charges are counted from the latest reopen on, which forgives all; a change by hand neither charges
-- nor forgives, so only a hand may bring back a job whose budget is used up. now() is taken before
-- the snapshot, so a lease that somebody has just renewed is not called lapsed.
WITH entries AS (
    SELECT *,
        row_number() OVER (PARTITION BY job_id ORDER BY version DESC) AS age,
        version > coalesce(
            max(version) FILTER (WHERE event = 'reopen') OVER (PARTITION BY job_id), 0
        ) AS counts
    FROM jobs_auditentry
    WHERE job_id BETWEEN %(low)s::uuid AND %(high)s::uuid
),
histories AS (
    SELECT
        job_id,
        max(version) AS version,
        min(to_state) FILTER (WHERE age = 1) AS state,
        min(attempt) FILTER (WHERE age = 1) AS attempt,
        min(at) FILTER (WHERE age = 1) AS at,
        (array_agg(hash) FILTER (WHERE age = 1))[1] AS hash,
        (array_agg(token) FILTER (WHERE age = 1))[1] AS token,
        count(*) FILTER (
            WHERE counts AND actor_kind = 'worker' AND event IN ('retry', 'fail')
        ) AS failed,
        count(*) FILTER (
            WHERE counts AND actor_kind = 'rescuer' AND event IN ('rescue', 'fail')
        ) AS lost,
        bool_or(counts AND event = 'hand_edit') AS by_hand
    FROM entries
    GROUP BY job_id
),
jobs AS MATERIALIZED (
    SELECT
        id, state, version, attempt, failed_attempts, lost_attempts, max_attempts, due_at,
        lease_token, lease_until, reason, changed_at, audit_hash, result IS NOT NULL AS has_result
    FROM jobs_job
    WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid
),
judged AS (
    SELECT
        coalesce(j.id, h.job_id) AS job_id,
        coalesce(j.version, h.version) AS version,
        array_remove(ARRAY[
            CASE WHEN j.id IS NULL AND h.state IN ('PENDING', 'RUNNING') THEN 'I1.gone' END,
            CASE WHEN %(at_rest)s AND (
                j.state = 'RUNNING' OR j.state = 'PENDING' AND j.due_at <= now()
            ) THEN 'I2.open' END,
            CASE WHEN h.job_id IS NULL THEN 'I3.unrecorded' END,
            CASE WHEN j.id IS NOT NULL AND h.job_id IS NOT NULL
                AND (j.version, j.state, j.attempt) IS DISTINCT FROM (h.version, h.state, h.attempt)
                THEN 'I3.row' END,
            CASE WHEN j.id IS NOT NULL AND h.job_id IS NOT NULL
                AND (j.changed_at, j.audit_hash) IS DISTINCT FROM (h.at, h.hash)
                THEN 'I3.seal' END,
            CASE WHEN j.state = 'RUNNING' AND h.job_id IS NOT NULL
                AND j.lease_token IS DISTINCT FROM h.token THEN 'I6.row' END,
            CASE WHEN j.has_result AND j.state <> 'COMPLETED' THEN 'I8.result' END,
            CASE WHEN (j.failed_attempts, j.lost_attempts) <> (h.failed, h.lost)
                THEN 'I11.charges' END,
            CASE WHEN j.failed_attempts > j.max_attempts
                OR j.lost_attempts > %(max_lost_attempts)s THEN 'I11.budget' END,
            CASE WHEN NOT h.by_hand AND (j.state <> 'FAILED' OR j.reason = '') AND (
                j.failed_attempts >= j.max_attempts OR j.lost_attempts >= %(max_lost_attempts)s
            ) THEN 'I11.spent' END,
            CASE WHEN j.state = 'RUNNING'
                AND j.lease_until < now() - make_interval(secs => %(bound_seconds)s)
                THEN 'I12.lapsed' END
        ], NULL) AS broken
    FROM histories AS h
    FULL JOIN jobs AS j ON j.id = h.job_id
)
SELECT unnest(broken) AS rule, job_id, version FROM judged WHERE broken <> '{}'
