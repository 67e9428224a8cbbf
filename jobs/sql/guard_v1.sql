-- The database's own guard. Python may be wrong, bypassed (QuerySet.update) or absent (psql): these
-- triggers still refuse an illegal edge, a skipped version or a rewritten history, and they alone
-- write the audit and the outbox, so neither can be forgotten. Compared edge by edge with
-- jobs/states.py by tests/db/test_guard.py.

-- One row per changed job, before it is written: is this step legal, and who signs it?
CREATE FUNCTION jobs_guard_transition() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    step text;
BEGIN
    IF NEW.version <> OLD.version + 1 THEN
        RAISE EXCEPTION 'job %: version must go from % to %, not to %',
            OLD.id, OLD.version, OLD.version + 1, NEW.version
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_version';
    END IF;

    IF NEW.signed_version = NEW.version THEN
        step := concat_ws(' ', NEW.event, OLD.state, NEW.state, NEW.actor_kind);
        IF step NOT IN (
            'claim PENDING RUNNING worker',
            'succeed RUNNING COMPLETED worker',
            'retry RUNNING PENDING worker',
            'fail RUNNING FAILED worker',
            'fail RUNNING FAILED rescuer',
            'release RUNNING PENDING worker',
            'rescue RUNNING PENDING rescuer',
            'request_cancel RUNNING RUNNING user',
            'request_cancel RUNNING RUNNING admin',
            'request_cancel RUNNING RUNNING system',
            'cancel PENDING CANCELLED user',
            'cancel PENDING CANCELLED admin',
            'cancel PENDING CANCELLED system',
            'cancel RUNNING CANCELLED worker',
            'cancel RUNNING CANCELLED rescuer',
            'reopen FAILED PENDING user',
            'reopen FAILED PENDING admin',
            'reopen FAILED PENDING system',
            'reopen CANCELLED PENDING user',
            'reopen CANCELLED PENDING admin',
            'reopen CANCELLED PENDING system'
        ) THEN
            RAISE EXCEPTION 'job %: no edge "%" from % to % for %',
                OLD.id, NEW.event, OLD.state, NEW.state, NEW.actor_kind
                USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_edge';
        END IF;
    ELSE
        -- Nobody signed: a change by hand. Legal edges only, and the database signs for its role.
        IF (OLD.state, NEW.state) NOT IN (
            ('PENDING', 'RUNNING'), ('PENDING', 'CANCELLED'),
            ('RUNNING', 'COMPLETED'), ('RUNNING', 'FAILED'),
            ('RUNNING', 'PENDING'), ('RUNNING', 'CANCELLED'),
            ('FAILED', 'PENDING'), ('CANCELLED', 'PENDING')
        ) THEN
            RAISE EXCEPTION 'job %: no edge by hand from % to %', OLD.id, OLD.state, NEW.state
                USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_edge';
        END IF;
        NEW.signed_version := NEW.version;
        NEW.event := 'hand_edit';
        NEW.actor_kind := 'database';
        NEW.actor_id := session_user;
        IF NEW.reason = OLD.reason THEN
            NEW.reason := 'changed by hand in SQL';
        END IF;
    END IF;

    IF NEW.attempt <> OLD.attempt + (NEW.state = 'RUNNING' AND OLD.state <> 'RUNNING')::int THEN
        RAISE EXCEPTION 'job %: attempt counts entries into RUNNING and nothing else', OLD.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_attempt';
    END IF;
    IF NEW.state = 'RUNNING' AND OLD.state = 'RUNNING'
        AND NEW.lease_token IS DISTINCT FROM OLD.lease_token THEN
        RAISE EXCEPTION 'job %: a running job keeps its lease token', OLD.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_token';
    END IF;
    RETURN NEW;
END;
$$;

-- IS DISTINCT FROM on these few narrow columns keeps heartbeats from paying for the function call.
CREATE TRIGGER jobs_guard_transition BEFORE UPDATE ON jobs_job FOR EACH ROW
WHEN (
    OLD.version IS DISTINCT FROM NEW.version OR OLD.state IS DISTINCT FROM NEW.state
    OR OLD.lease_token IS DISTINCT FROM NEW.lease_token
    OR OLD.attempt IS DISTINCT FROM NEW.attempt
    OR OLD.signed_version IS DISTINCT FROM NEW.signed_version
    OR OLD.cancel_requested_at IS DISTINCT FROM NEW.cancel_requested_at
)
EXECUTE FUNCTION jobs_guard_transition();

-- Columns that say what was asked for never change: a new wish is a new job.
CREATE FUNCTION jobs_guard_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.id, OLD.owner_id, OLD.handler, OLD.payload, OLD.submitted_at, OLD.idempotency_key)
        IS DISTINCT FROM
        (NEW.id, NEW.owner_id, NEW.handler, NEW.payload, NEW.submitted_at, NEW.idempotency_key)
    THEN
        RAISE EXCEPTION
            'job %: id, owner, handler, payload, submitted_at and idempotency_key never change',
            OLD.id USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_fixed';
    END IF;
    RETURN NEW;
END;
$$;

CREATE TRIGGER jobs_guard_fixed
BEFORE UPDATE OF id, owner_id, handler, payload, submitted_at, idempotency_key ON jobs_job
FOR EACH ROW EXECUTE FUNCTION jobs_guard_fixed();

CREATE FUNCTION jobs_guard_birth() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> 'PENDING' OR NEW.version <> 1 OR NEW.attempt <> 0
        OR NEW.failed_attempts <> 0 OR NEW.lost_attempts <> 0 THEN
        RAISE EXCEPTION 'job %: a job is born PENDING at version 1 with no attempts', NEW.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_edge';
    END IF;
    IF NEW.signed_version <> 1 THEN
        NEW.signed_version := 1;
        NEW.actor_kind := 'database';
        NEW.actor_id := session_user;
    ELSIF NEW.actor_kind NOT IN ('user', 'admin', 'system') THEN
        RAISE EXCEPTION 'job %: % may not submit', NEW.id, NEW.actor_kind
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_edge';
    END IF;
    NEW.event := 'submit';
    RETURN NEW;
END;
$$;

CREATE TRIGGER jobs_guard_birth BEFORE INSERT ON jobs_job
FOR EACH ROW EXECUTE FUNCTION jobs_guard_birth();

-- Written once per statement from its transition tables: the cost per job falls with the group.
CREATE FUNCTION jobs_record_birth() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs_auditentry (job_id, version, from_state, to_state, event, actor_kind,
        actor_id, reason, attempt, token, at, txid)
    SELECT id, version, NULL, state, event, actor_kind, actor_id, reason, attempt, NULL,
        clock_timestamp(), pg_current_xact_id()::text::bigint
    FROM born;
    INSERT INTO jobs_outboxentry (job_id, job_version, handler, queue, priority, due_at, tries,
        rearms)
    SELECT id, version, handler, queue, priority, due_at, 0, 0 FROM born;
    RETURN NULL;
END;
$$;

CREATE TRIGGER jobs_record_birth AFTER INSERT ON jobs_job
REFERENCING NEW TABLE AS born FOR EACH STATEMENT EXECUTE FUNCTION jobs_record_birth();

CREATE FUNCTION jobs_record_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs_auditentry (job_id, version, from_state, to_state, event, actor_kind,
        actor_id, reason, attempt, token, at, txid)
    SELECT n.id, n.version, o.state, n.state, n.event, n.actor_kind, n.actor_id, n.reason,
        n.attempt, coalesce(n.lease_token, o.lease_token), clock_timestamp(),
        pg_current_xact_id()::text::bigint
    FROM after_rows n JOIN before_rows o ON o.id = n.id
    WHERE n.version <> o.version;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO jobs_outboxentry (job_id, job_version, handler, queue, priority, due_at, tries,
        rearms)
    SELECT n.id, n.version, n.handler, n.queue, n.priority, n.due_at, 0, 0
    FROM after_rows n JOIN before_rows o ON o.id = n.id
    WHERE n.version <> o.version AND n.state = 'PENDING';
    RETURN NULL;
END;
$$;

CREATE TRIGGER jobs_record_transition AFTER UPDATE ON jobs_job
REFERENCING OLD TABLE AS before_rows NEW TABLE AS after_rows
FOR EACH STATEMENT EXECUTE FUNCTION jobs_record_transition();

CREATE FUNCTION jobs_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0]
        USING ERRCODE = 'insufficient_privilege', CONSTRAINT = 'jobs_refused';
END;
$$;

CREATE TRIGGER jobs_keep_active BEFORE DELETE ON jobs_job FOR EACH ROW
WHEN (OLD.state IN ('PENDING', 'RUNNING'))
EXECUTE FUNCTION jobs_refuse('an accepted job is never lost; cancel it first');

CREATE TRIGGER jobs_keep_all BEFORE TRUNCATE ON jobs_job FOR EACH STATEMENT
EXECUTE FUNCTION jobs_refuse('an accepted job is never lost');

CREATE TRIGGER jobs_audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON jobs_auditentry
FOR EACH STATEMENT EXECUTE FUNCTION jobs_refuse('the audit is append-only');

CREATE TRIGGER jobs_audit_own_hand BEFORE INSERT ON jobs_auditentry FOR EACH STATEMENT
WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION jobs_refuse('only a transition writes the audit');
