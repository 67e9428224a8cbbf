-- How many doorbells that are due wait in each queue, and how long the oldest has waited. Each priority
-- is probed on its own, as the relay does, so the partial index bounds the read to ten times the limit;
-- in a backlog longer than that the age is exact and the counts are lower bounds.
SELECT w.queue, sum(w.jobs)::bigint, max(clock_timestamp() - w.due_at)
FROM generate_series(0, 9) AS urgency(priority)
CROSS JOIN LATERAL (
    SELECT o.queue, o.due_at, 1 + coalesce(cardinality(o.others), 0) AS jobs
    FROM jobs_outboxentry AS o
    WHERE o.published_at IS NULL
        AND o.priority = urgency.priority
        AND o.due_at <= clock_timestamp()
    ORDER BY o.due_at
    LIMIT %(limit)s
) AS w
GROUP BY w.queue
