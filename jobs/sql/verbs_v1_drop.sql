DROP FUNCTION jobs_submit_v1;
DROP FUNCTION jobs_claim_v1;
DROP FUNCTION jobs_succeed_v1;
DROP FUNCTION jobs_take_v1;
DROP FUNCTION jobs_settle_v1;
