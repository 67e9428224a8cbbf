-- Takes due outbox rows for one relay, most urgent first. Each priority is probed on its own, so
-- the partial index ends the scan at "not due yet" and a million scheduled rows cost nothing.
-- taken_until keeps a second relay away without a transaction held open over the broker call; it
-- lapses by itself when this relay dies. Rows are found by "not published", never by position,
-- because a slow transaction may commit a lower id later. statement_timestamp(), because a volatile
-- clock cannot bound an index scan.
UPDATE jobs_outboxentry AS o SET
    taken_until = clock_timestamp() + make_interval(secs => %(take_seconds)s),
    tries = o.tries + 1
WHERE o.id = ANY (ARRAY(
    SELECT due.id
    FROM generate_series(9, 0, -1) AS urgency(priority)
    CROSS JOIN LATERAL (
        SELECT w.id
        FROM jobs_outboxentry AS w
        WHERE w.published_at IS NULL
            AND w.priority = urgency.priority
            AND w.due_at <= statement_timestamp()
            AND (w.taken_until IS NULL OR w.taken_until < statement_timestamp())
            AND w.queue <> ALL (%(without)s::text[])
        ORDER BY w.due_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ) AS due
    LIMIT %(limit)s
))
RETURNING o.id, o.job_id, o.job_version, o.queue, o.handler, o.priority, o.created_at, o.due_at
