DROP FUNCTION jobs_submit_v2;
DROP FUNCTION jobs_claim_v2;
DROP FUNCTION jobs_succeed_v2;
