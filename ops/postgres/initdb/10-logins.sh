#!/bin/bash
# Runs once, when the database cluster is made. It makes the logins of `migrate` and `serve`, and
# the database, and allows replication. Names and passwords are those of the URLs in the secrets, so
# that each is written in one place.
set -euo pipefail
secrets=${SECRETS_FOLDER:-/run/secrets}

decoded() { # TEXT: percent-decoded
    printf '%b' "${1//%/\\x}"
}
part() { # SECRET user|password|database
    local url user password database
    url=$(<"$secrets/$1")
    url=${url#*://}
    user=${url%%:*}
    password=${url#*:}
    password=${password%%@*}
    database=${url##*/}
    decoded "${!2}"
}

MIGRATE_LOGIN=$(part migration_database_url user)
MIGRATE_PASSWORD=$(part migration_database_url password)
WEB_LOGIN=$(part database_url user)
WEB_PASSWORD=$(part database_url password)
REPLICATION_PASSWORD=$(<"$secrets/replication_password")
BILLING_DATABASE=$(part migration_database_url database)
BILLING_DATABASE=${BILLING_DATABASE%%\?*}
export MIGRATE_LOGIN MIGRATE_PASSWORD WEB_LOGIN WEB_PASSWORD REPLICATION_PASSWORD BILLING_DATABASE

psql --set ON_ERROR_STOP=1 --no-psqlrc --quiet --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv migrate_login MIGRATE_LOGIN
\getenv migrate_password MIGRATE_PASSWORD
\getenv web_login WEB_LOGIN
\getenv web_password WEB_PASSWORD
\getenv replication_password REPLICATION_PASSWORD
\getenv database BILLING_DATABASE
SET password_encryption = 'scram-sha-256';
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
BEGIN;
-- `migrate` makes the other roles; this one is here so that the server's login can be its member.
CREATE ROLE billing_server NOLOGIN;
CREATE ROLE :"migrate_login" LOGIN CREATEROLE PASSWORD :'migrate_password';
GRANT billing_server TO :"migrate_login" WITH ADMIN OPTION;
CREATE ROLE :"web_login" LOGIN PASSWORD :'web_password' IN ROLE billing_server;
CREATE ROLE billing_replication LOGIN REPLICATION PASSWORD :'replication_password';
COMMIT;
CREATE DATABASE :"database" OWNER :"migrate_login";
-- From any database a login could use up the locks of the whole cluster.
REVOKE CONNECT ON DATABASE postgres, template1, :"database" FROM PUBLIC;
SQL

echo "host replication billing_replication all scram-sha-256" >>"$PGDATA/pg_hba.conf"
