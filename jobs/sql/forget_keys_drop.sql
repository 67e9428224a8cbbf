DROP TRIGGER jobs_forget_keys ON jobs_job;
DROP FUNCTION jobs_forget_keys();
