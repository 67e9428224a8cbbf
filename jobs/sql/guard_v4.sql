-- Version 4 of the guard: one function judges every UPDATE of a job, and the rules that hold within a row
-- are its own. PostgreSQL reads the condition of a constraint or of a trigger anew for each statement that
-- writes a row, and a function once per session. See docs/adr/0027-one-function-judges-every-update.md.
-- What is not repeated here is still as the versions before made it.

-- The rule that a job's row breaks, by the name of its constraint; NULL if it keeps them all. Others of
-- this kind (the five states, no negative count) follow from birth and edges, and the constraint that
-- stays holds the token. A lease set far ahead would keep a dead holder's job from everybody, and a
-- progress_seq set back would be older than the copy that readers have seen. A day is the most that
-- JOBS["lease_seconds"] allows. A single expression, neither STRICT nor with SET, so that callers run it
-- inline.
CREATE FUNCTION jobs_broken_rule(
    state text, lease_until timestamptz, finished_at timestamptz, result jsonb, max_attempts int,
    priority smallint, progress_seq int, progress_seq_before int
) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT CASE
        WHEN lease_until > clock_timestamp() + interval '24:00:00'
            OR progress_seq < progress_seq_before THEN 'jobs_refused'
        WHEN (state = 'RUNNING') <> (lease_until IS NOT NULL) THEN 'jobs_job_lease'
        WHEN (state IN ('PENDING', 'RUNNING')) <> (finished_at IS NULL) THEN 'jobs_job_finished'
        WHEN result IS NOT NULL AND state <> 'COMPLETED' THEN 'jobs_job_result'
        WHEN max_attempts < 1 THEN 'jobs_job_counts'
        WHEN priority NOT BETWEEN 0 AND 9 THEN 'jobs_job_priority'
    END
$$;

-- Refuses a job's row, or a step of it by this event, for the rule that is broken.
CREATE FUNCTION jobs_refuse_row(job_id uuid, rule text, event text, held_until timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'job %: %', job_id, CASE rule
        WHEN 'jobs_job_edge' THEN 'it is born PENDING at version 1 with no attempts'
        WHEN 'jobs_job_held'
            THEN format('its lease holds until %s, no rescuer may take it', held_until)
        WHEN 'jobs_job_attempt' THEN 'attempt counts entries into RUNNING and nothing else'
        WHEN 'jobs_job_token' THEN 'a running job keeps its lease token'
        WHEN 'jobs_job_charges'
            THEN format('"%s" leads to other counts of failed and lost attempts', event)
        WHEN 'jobs_job_lease' THEN 'RUNNING has a lease, and no other state has one'
        WHEN 'jobs_job_finished'
            THEN 'COMPLETED, FAILED and CANCELLED have finished_at, and no other state has'
        WHEN 'jobs_job_result' THEN 'only COMPLETED has a result'
        WHEN 'jobs_job_counts' THEN 'max_attempts is at least 1'
        WHEN 'jobs_job_priority' THEN 'priority is 0 to 9'
        WHEN 'jobs_refused' THEN 'a lease ends within a day, and progress_seq never goes back'
    END
    USING
        ERRCODE = CASE rule
            WHEN 'jobs_refused' THEN 'insufficient_privilege' ELSE 'check_violation'
        END,
        CONSTRAINT = rule;
END;
$$;

CREATE OR REPLACE FUNCTION jobs_guard_birth() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    rule text;
BEGIN
    rule := CASE
        WHEN NEW.state <> 'PENDING' OR NEW.version <> 1 OR NEW.attempt <> 0
            OR NEW.failed_attempts <> 0 OR NEW.lost_attempts <> 0 THEN 'jobs_job_edge'
        ELSE jobs_broken_rule(
            NEW.state, NEW.lease_until, NEW.finished_at, NEW.result, NEW.max_attempts,
            NEW.priority, NEW.progress_seq, 0
        )
    END;
    IF rule IS NOT NULL THEN
        PERFORM jobs_refuse_row(NEW.id, rule, NEW.event, NULL);
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

-- One row per changed job, before it is written. With the next version: is this step legal, and who signs
-- it? Without, it is a heartbeat, or a hand on columns that say nothing about what happened: queue,
-- priority, due_at, max_attempts, lease_until, progress. What was asked for is held by jobs_guard_fixed.
CREATE OR REPLACE FUNCTION jobs_guard_transition() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    rule text;
BEGIN
    IF NEW.version = OLD.version + 1 THEN
        NEW.changed_at := clock_timestamp();
        IF NEW.signed_version = NEW.version THEN
            IF concat_ws(' ', NEW.event, OLD.state, NEW.state, NEW.actor_kind) NOT IN (
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
        NEW.audit_hash := jobs_audit_hash(
            OLD.audit_hash, NEW.id, NEW.version, OLD.state, NEW.state, NEW.event, NEW.actor_kind,
            NEW.actor_id, NEW.reason, NEW.attempt, coalesce(NEW.lease_token, OLD.lease_token),
            CASE WHEN NEW.state <> 'RUNNING' THEN OLD.lease_until END,
            NEW.changed_at, pg_current_xact_id()::text::bigint
        );
        rule := CASE
            WHEN NEW.actor_kind = 'rescuer' AND OLD.lease_until >= NEW.changed_at
                THEN 'jobs_job_held'
            WHEN NEW.attempt
                <> OLD.attempt + (NEW.state = 'RUNNING' AND OLD.state <> 'RUNNING')::int
                THEN 'jobs_job_attempt'
            WHEN NEW.state = 'RUNNING' AND OLD.state = 'RUNNING'
                AND NEW.lease_token IS DISTINCT FROM OLD.lease_token
                THEN 'jobs_job_token'
            -- A change by hand charges nothing and forgives nothing.
            WHEN NEW.failed_attempts <> (CASE
                    WHEN NEW.event = 'reopen' THEN 0
                    ELSE OLD.failed_attempts
                        + (NEW.actor_kind = 'worker' AND NEW.event IN ('retry', 'fail'))::int
                END)
                OR NEW.lost_attempts <> (CASE
                    WHEN NEW.event = 'reopen' THEN 0
                    ELSE OLD.lost_attempts
                        + (NEW.actor_kind = 'rescuer' AND NEW.event IN ('rescue', 'fail'))::int
                END)
                THEN 'jobs_job_charges'
            ELSE jobs_broken_rule(
                NEW.state, NEW.lease_until, NEW.finished_at, NEW.result, NEW.max_attempts,
                NEW.priority, NEW.progress_seq, OLD.progress_seq
            )
        END;
    ELSE
        IF (NEW.version, NEW.state, NEW.signed_version, NEW.event, NEW.actor_kind, NEW.actor_id,
                NEW.reason, NEW.attempt, NEW.failed_attempts, NEW.lost_attempts, NEW.lease_token,
                NEW.worker, NEW.cancel_requested_at, NEW.started_at, NEW.finished_at,
                NEW.changed_at, NEW.audit_hash)
            IS DISTINCT FROM
            (OLD.version, OLD.state, OLD.signed_version, OLD.event, OLD.actor_kind, OLD.actor_id,
                OLD.reason, OLD.attempt, OLD.failed_attempts, OLD.lost_attempts, OLD.lease_token,
                OLD.worker, OLD.cancel_requested_at, OLD.started_at, OLD.finished_at,
                OLD.changed_at, OLD.audit_hash)
        THEN
            RAISE EXCEPTION 'job %: version must go from % to %, not to %',
                OLD.id, OLD.version, OLD.version + 1, NEW.version
                USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_job_version';
        END IF;
        IF OLD.state = 'COMPLETED' THEN
            RAISE EXCEPTION 'job %: COMPLETED is final for ever', OLD.id
                USING ERRCODE = 'insufficient_privilege', CONSTRAINT = 'jobs_refused';
        END IF;
        rule := jobs_broken_rule(
            NEW.state, NEW.lease_until, NEW.finished_at, NEW.result, NEW.max_attempts,
            NEW.priority, NEW.progress_seq, OLD.progress_seq
        );
    END IF;
    IF rule IS NOT NULL THEN
        PERFORM jobs_refuse_row(OLD.id, rule, NEW.event, OLD.lease_until);
    END IF;
    RETURN NEW;
END;
$$;

CREATE OR REPLACE TRIGGER jobs_guard_transition BEFORE UPDATE ON jobs_job FOR EACH ROW
EXECUTE FUNCTION jobs_guard_transition();

DROP TRIGGER jobs_guard_beat ON jobs_job;
DROP TRIGGER jobs_keep_completed ON jobs_job;
