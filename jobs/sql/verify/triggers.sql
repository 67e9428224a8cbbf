-- The triggers on the guarded tables with the function that each really calls, whatever its schema.
SELECT t.tgname, t.tgrelid::regclass::text, t.tgenabled::text, p.proname, p.prosrc
FROM pg_trigger AS t
JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal
    AND t.tgrelid IN ('jobs_job'::regclass, 'jobs_auditentry'::regclass)
UNION ALL
-- What the triggers call themselves.
SELECT NULL, NULL, NULL, p.proname, p.prosrc
FROM pg_proc AS p
WHERE p.oid IN (
    to_regproc('jobs_audit_hash'), to_regproc('jobs_broken_rule'), to_regproc('jobs_refuse_row')
)
