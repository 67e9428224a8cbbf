-- About how many jobs there are, as the planner thinks; -1 if it has never counted.
SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'jobs_job'::regclass
