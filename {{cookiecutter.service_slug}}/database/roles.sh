#!/bin/sh
# Two roles: `owner` makes and changes tables, in migrations alone; `application` only reads and writes their rows.
# It can run again, as `make roles` does: on a volume without the roles, or with other passwords.
set -eu

psql --set ON_ERROR_STOP=1 --quiet --username postgres --dbname service --single-transaction --file - <<'SQL'
\set owner `cat /run/secrets/database-owner`
\set application `cat /run/secrets/database-application`
SELECT format('CREATE ROLE %I', name) FROM unnest(ARRAY['owner', 'application']) AS name
    WHERE to_regrole(name) IS NULL \gexec
ALTER ROLE owner LOGIN PASSWORD :'owner';
ALTER ROLE application LOGIN PASSWORD :'application';
-- Milliseconds, as the service itself sets them where no pooler stands between.
ALTER ROLE application SET statement_timeout = 5000;
ALTER ROLE application SET lock_timeout = 2000;
ALTER ROLE application SET idle_in_transaction_session_timeout = 10000;
ALTER ROLE application SET TimeZone = 'UTC';
REVOKE ALL ON DATABASE service, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE service TO owner, application;
GRANT CREATE ON DATABASE service TO owner; -- for extensions that are trusted
REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO owner;
-- Before the default privileges: the application may read which migration ran, and not change it.
CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32) CONSTRAINT alembic_version_pkc PRIMARY KEY);
ALTER TABLE alembic_version OWNER TO owner;
GRANT SELECT ON alembic_version TO application;
GRANT USAGE ON SCHEMA public TO application;
ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO application;
ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public GRANT USAGE ON SEQUENCES TO application;
SQL
