-- Version 2 of the guard: what guard_v1.sql set up, and every job's audit entries chained by hashes,
-- no lease taken early by a rescuer, charges that follow from their events, and COMPLETED rows that
-- do not change at all. What is not repeated here is still as version 1 made it.

-- The link of one audit entry to the one before it: the hash of the previous hash (empty for the
-- first) and of the entry as one line of JSON. Times are whole microseconds since the epoch, because
-- their text would depend on the reader's time zone. In Python the line is
-- json.dumps([...], ensure_ascii=False); see docs/adr/0014-audit-hash-chain.md. A single expression,
-- neither STRICT nor with SET, so that callers run it inline.
CREATE FUNCTION jobs_audit_hash(
    previous bytea, job_id uuid, version int, from_state text, to_state text, event text,
    actor_kind text, actor_id text, reason text, attempt int, token uuid, lease_until timestamptz,
    at timestamptz, txid bigint
) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(previous || convert_to(json_build_array(
        job_id, version, from_state, to_state, event, actor_kind, actor_id, reason, attempt, token,
        (extract(epoch FROM lease_until) * 1000000)::bigint,
        (extract(epoch FROM at) * 1000000)::bigint,
        txid
    )::text, 'UTF8'))
$$;

-- One row per changed job, before it is written: is this step legal, and who signs it?
CREATE OR REPLACE FUNCTION jobs_guard_transition() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    step text;
BEGIN
    IF NEW.version <> OLD.version + 1 THEN
        RAISE EXCEPTION 'job %: version must go from % to %, not to %',
            OLD.id, OLD.version, OLD.version + 1, NEW.version
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_version';
    END IF;
    NEW.changed_at := clock_timestamp();

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
        IF NEW.actor_kind = 'rescuer' AND OLD.lease_until >= NEW.changed_at THEN
            RAISE EXCEPTION 'job %: its lease holds until %, no rescuer may take it',
                OLD.id, OLD.lease_until
                USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_held';
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
    -- A change by hand charges nothing and forgives nothing.
    IF NEW.failed_attempts <> (CASE
            WHEN NEW.event = 'reopen' THEN 0
            ELSE OLD.failed_attempts
                + (NEW.actor_kind = 'worker' AND NEW.event IN ('retry', 'fail'))::int
        END)
        OR NEW.lost_attempts <> (CASE
            WHEN NEW.event = 'reopen' THEN 0
            ELSE OLD.lost_attempts
                + (NEW.actor_kind = 'rescuer' AND NEW.event IN ('rescue', 'fail'))::int
        END)
    THEN
        RAISE EXCEPTION 'job %: "%" leads to other counts of failed and lost attempts',
            OLD.id, NEW.event
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_charges';
    END IF;
    NEW.audit_hash := jobs_audit_hash(
        OLD.audit_hash, NEW.id, NEW.version, OLD.state, NEW.state, NEW.event, NEW.actor_kind,
        NEW.actor_id, NEW.reason, NEW.attempt, coalesce(NEW.lease_token, OLD.lease_token),
        CASE WHEN NEW.state <> 'RUNNING' THEN OLD.lease_until END,
        NEW.changed_at, pg_current_xact_id()::text::bigint
    );
    RETURN NEW;
END;
$$;

-- Named columns, so that a heartbeat does not pay for the call. Of the others, jobs_guard_fixed and
-- jobs_guard_beat hold some; the rest (queue, priority, due_at, max_attempts, progress) say nothing
-- about what happened.
CREATE OR REPLACE TRIGGER jobs_guard_transition
BEFORE UPDATE OF state, version, signed_version, event, actor_kind, actor_id, reason, attempt,
    failed_attempts, lost_attempts, lease_token, worker, cancel_requested_at, started_at,
    finished_at, changed_at, audit_hash
ON jobs_job FOR EACH ROW EXECUTE FUNCTION jobs_guard_transition();

-- Columns that say what was asked for never change: a new wish is a new job.
CREATE OR REPLACE FUNCTION jobs_guard_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.id, OLD.owner_id, OLD.handler, OLD.payload, OLD.submitted_at, OLD.tenant,
            OLD.idempotency_key, OLD.fingerprint, OLD.unique_key)
        IS DISTINCT FROM
        (NEW.id, NEW.owner_id, NEW.handler, NEW.payload, NEW.submitted_at, NEW.tenant,
            NEW.idempotency_key, NEW.fingerprint, NEW.unique_key)
    THEN
        RAISE EXCEPTION
            'job %: id, owner, handler, payload, submitted_at, tenant and keys never change',
            OLD.id USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_fixed';
    END IF;
    RETURN NEW;
END;
$$;

CREATE OR REPLACE TRIGGER jobs_guard_fixed
BEFORE UPDATE OF id, owner_id, handler, payload, submitted_at, tenant, idempotency_key, fingerprint,
    unique_key
ON jobs_job FOR EACH ROW EXECUTE FUNCTION jobs_guard_fixed();

CREATE OR REPLACE FUNCTION jobs_guard_birth() RETURNS trigger LANGUAGE plpgsql AS $$
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
    NEW.changed_at := clock_timestamp();
    NEW.audit_hash := jobs_audit_hash(
        '', NEW.id, 1, NULL, NEW.state, NEW.event, NEW.actor_kind, NEW.actor_id, NEW.reason, 0,
        NULL, NULL, NEW.changed_at, pg_current_xact_id()::text::bigint
    );
    RETURN NEW;
END;
$$;

-- Written once per statement from its transition tables: the cost per job falls with the group.
CREATE OR REPLACE FUNCTION jobs_record_birth() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs_auditentry (job_id, version, from_state, to_state, event, actor_kind,
        actor_id, reason, attempt, token, lease_until, at, txid, hash)
    SELECT id, version, NULL, state, event, actor_kind, actor_id, reason, attempt, NULL, NULL,
        changed_at, pg_current_xact_id()::text::bigint, audit_hash
    FROM born;
    INSERT INTO jobs_outboxentry (job_id, job_version, handler, queue, priority, due_at, tries,
        rearms)
    SELECT id, version, handler, queue, priority, due_at, 0, 0 FROM born;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE FUNCTION jobs_record_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs_auditentry (job_id, version, from_state, to_state, event, actor_kind,
        actor_id, reason, attempt, token, lease_until, at, txid, hash)
    SELECT n.id, n.version, o.state, n.state, n.event, n.actor_kind, n.actor_id, n.reason,
        n.attempt, coalesce(n.lease_token, o.lease_token),
        CASE WHEN n.state <> 'RUNNING' THEN o.lease_until END,
        n.changed_at, pg_current_xact_id()::text::bigint, n.audit_hash
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

-- A lease set far ahead would keep a dead holder's job from everybody, and a progress_seq set back
-- would be older than the copy that readers have seen. A day is the most that JOBS["lease_seconds"]
-- allows.
CREATE TRIGGER jobs_guard_beat BEFORE UPDATE OF lease_until, progress_seq ON jobs_job FOR EACH ROW
WHEN (
    NEW.lease_until > clock_timestamp() + interval '24:00:00'
    OR NEW.progress_seq < OLD.progress_seq
)
EXECUTE FUNCTION jobs_refuse('a lease ends within a day, and progress_seq never goes back');

-- Sorts behind the guards, so that an edge out of COMPLETED is still refused as an edge.
CREATE TRIGGER jobs_keep_completed BEFORE UPDATE ON jobs_job FOR EACH ROW
WHEN (OLD.state = 'COMPLETED')
EXECUTE FUNCTION jobs_refuse('COMPLETED is final for ever');
