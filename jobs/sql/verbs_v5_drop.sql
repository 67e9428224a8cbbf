DROP FUNCTION jobs_submit_v3;
