#!/bin/sh
# Two roles: `owner` makes and changes tables, in migrations alone; `application` only reads and writes their rows.
set -eu

psql --set ON_ERROR_STOP=1 --quiet --username postgres --dbname service \
    --set owner="$(cat /run/secrets/database-owner)" --set application="$(cat /run/secrets/database-application)" <<'SQL'
CREATE ROLE owner LOGIN PASSWORD :'owner';
CREATE ROLE application LOGIN PASSWORD :'application';
REVOKE ALL ON DATABASE service FROM PUBLIC;
GRANT CONNECT ON DATABASE service TO owner, application;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO owner;
-- Before the default privileges: the application may read which migration ran, and not change it.
CREATE TABLE alembic_version (version_num varchar(32) CONSTRAINT alembic_version_pkc PRIMARY KEY);
ALTER TABLE alembic_version OWNER TO owner;
GRANT SELECT ON alembic_version TO application;
GRANT USAGE ON SCHEMA public TO application;
ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO application;
ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public GRANT USAGE ON SEQUENCES TO application;
SQL
