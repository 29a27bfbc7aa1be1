#!/bin/bash
# Runs PostgreSQL as a copy that follows the primary: the first time it takes a base backup. The
# arguments are the command that serves.
set -euo pipefail
umask 077

# Written anew at each start, so that a new password needs no other step.
passwords=$PGDATA.passwords
password=$(<"$REPLICATION_PASSWORD_FILE")
password=${password//\\/\\\\}
printf '*:*:*:billing_replication:%s\n' "${password//:/\\:}" >"$passwords"

if [ ! -e "$PGDATA" ]; then
    # Beside its place, and moved there when it is whole: a copy that was cut off is begun anew.
    rm -rf "$PGDATA.partial"
    PGPASSFILE=$passwords pg_basebackup --host="$PRIMARY_HOST" --port="$PRIMARY_PORT" \
        --username=billing_replication --no-password --pgdata="$PGDATA.partial" \
        --wal-method=stream --checkpoint=fast
    touch "$PGDATA.partial/standby.signal"
    {
        echo "primary_conninfo = 'host=$PRIMARY_HOST port=$PRIMARY_PORT user=billing_replication" \
            "passfile=$passwords application_name=replica1'"
    } >>"$PGDATA.partial/postgresql.auto.conf"
    mv "$PGDATA.partial" "$PGDATA"
fi
exec "$@"
