-- One role per kind of process. Limits belong to the role, not to a connection option, so that they
-- also hold through a connection pooler and for somebody's psql. Runs once, on an empty data directory;
-- to change a limit later run the ALTER ROLE again, it applies from the next connection.
\set ON_ERROR_STOP on
\getenv owner_password DATABASE_OWNER_PASSWORD
\getenv password DATABASE_PASSWORD

-- Owns the schema: the only role that can drop a trigger, so no serving process uses it. Its lock
-- timeout is short because a migration that waits for a lock blocks everybody behind it.
CREATE ROLE interlock_migrate LOGIN PASSWORD :'owner_password';
ALTER ROLE interlock_migrate SET statement_timeout = '30min';
ALTER ROLE interlock_migrate SET lock_timeout = '5s';
ALTER ROLE interlock_migrate SET idle_in_transaction_session_timeout = '60s';

-- A person waits for the answer: rather an error in seconds than a thread held for minutes.
CREATE ROLE interlock_api LOGIN PASSWORD :'password';
ALTER ROLE interlock_api SET statement_timeout = '10s';
ALTER ROLE interlock_api SET lock_timeout = '2s';
ALTER ROLE interlock_api SET idle_in_transaction_session_timeout = '15s';

-- Handlers run outside transactions, so these bound the platform's own short writes. A worker that
-- cannot finish its write in time loses the lease and the job is rescued.
CREATE ROLE interlock_worker LOGIN PASSWORD :'password';
ALTER ROLE interlock_worker SET statement_timeout = '30s';
ALTER ROLE interlock_worker SET lock_timeout = '5s';
ALTER ROLE interlock_worker SET idle_in_transaction_session_timeout = '30s';

-- Loops that come back: a batch that takes longer is better tried again.
CREATE ROLE interlock_relay LOGIN PASSWORD :'password';
ALTER ROLE interlock_relay SET statement_timeout = '30s';
ALTER ROLE interlock_relay SET lock_timeout = '5s';
ALTER ROLE interlock_relay SET idle_in_transaction_session_timeout = '30s';

CREATE ROLE interlock_scheduler LOGIN PASSWORD :'password';
ALTER ROLE interlock_scheduler SET statement_timeout = '30s';
ALTER ROLE interlock_scheduler SET lock_timeout = '5s';
ALTER ROLE interlock_scheduler SET idle_in_transaction_session_timeout = '30s';

SELECT current_database() AS database \gset
ALTER DATABASE :"database" OWNER TO interlock_migrate;
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database"
    TO interlock_api, interlock_worker, interlock_relay, interlock_scheduler;

-- Rows only, for tables that migrations make later. TRUNCATE is not among them, nor is DDL.
ALTER DEFAULT PRIVILEGES FOR ROLE interlock_migrate
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES
    TO interlock_api, interlock_worker, interlock_relay, interlock_scheduler;
ALTER DEFAULT PRIVILEGES FOR ROLE interlock_migrate
    GRANT USAGE, SELECT ON SEQUENCES
    TO interlock_api, interlock_worker, interlock_relay, interlock_scheduler;
