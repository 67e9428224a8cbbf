-- How much a window holds, for the report and for whoever watches.
SELECT
    (SELECT count(*) FROM jobs_job WHERE id BETWEEN %(low)s::uuid AND %(high)s::uuid),
    (SELECT count(*) FROM jobs_auditentry
        WHERE job_id BETWEEN %(low)s::uuid AND %(high)s::uuid)
