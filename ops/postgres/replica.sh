#!/bin/bash
# Runs PostgreSQL as a streaming replica of the primary. The first time it takes a base backup. The
# arguments are the command that starts the server.
set -euo pipefail
umask 077

# Written again at each start, so that a new password needs no other step.
passwords=$PGDATA.passwords
password=$(<"$REPLICATION_PASSWORD_FILE")
password=${password//\\/\\\\}
printf '*:*:*:billing_replication:%s\n' "${password//:/\\:}" >"$passwords"

if [ ! -e "$PGDATA" ]; then
    # The backup is made in another folder and moved when it is complete: one that was interrupted
    # begins again.
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
