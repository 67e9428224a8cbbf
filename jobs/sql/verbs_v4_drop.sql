DROP FUNCTION jobs_claim_v3;
DROP FUNCTION jobs_succeed_v3;
