DROP FUNCTION jobs_settle_v2;
DROP FUNCTION jobs_take_v2;
DROP FUNCTION jobs_unshare_v1;
DROP FUNCTION jobs_doorbell_v1;
