-- An idempotency key is kept as long as the row of the job that answers it, however that row goes.
CREATE FUNCTION jobs_forget_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM jobs_idempotencykey AS k USING gone WHERE k.id = gone.id;
    DELETE FROM jobs_idempotencykey AS k USING gone WHERE k.answered_by = gone.id;
    RETURN NULL;
END;
$$;

CREATE TRIGGER jobs_forget_keys AFTER DELETE ON jobs_job
REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT EXECUTE FUNCTION jobs_forget_keys();
