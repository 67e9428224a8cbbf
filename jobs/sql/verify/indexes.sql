-- The unique indexes of this app: whether PostgreSQL enforces each, and on which columns.
SELECT
    c.relname,
    i.indisunique AND i.indisvalid AND i.indisready AND i.indislive,
    ARRAY(
        SELECT a.attname::text
        FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        ORDER BY k.place
    )
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE c.relname = ANY(%(names)s::text[])
    AND i.indrelid = ANY(ARRAY[
        'jobs_job'::regclass, 'jobs_auditentry'::regclass, 'jobs_outboxentry'::regclass,
        'jobs_jobartifact'::regclass, 'jobs_idempotencykey'::regclass
    ])
