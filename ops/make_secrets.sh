#!/bin/sh
# Makes the missing files of secrets/ with random values, and a self-signed certificate for the
# beginning. Existing files are left alone. Usage: sh ops/make_secrets.sh [FOLDER] [HOST NAME]
#
# The folder is closed to other accounts. The files in it are readable, because a container's own
# account must read them where they are mounted.
set -eu
folder=${1:-secrets}
host=${2:-billing.example.com}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

keep() { # NAME: writes standard input there unless it exists
    if [ -e "$folder/$1" ]; then
        cat >/dev/null
    else
        cat >"$folder/$1"
        chmod 644 "$folder/$1"
        echo "made $folder/$1"
    fi
}
random() { openssl rand -hex 24; }
password_in() { sed -n 's|^[^:]*://[^:]*:\([^@]*\)@.*|\1|p' "$folder/$1"; }

at=ciris-billing-postgres:5432/billing
random | keep postgres_password
random | keep replication_password
random | keep grafana_password
random | keep admin_jwt_secret
random | keep encryption_key
echo "put-the-secret-of-GOOGLE_CLIENT_ID-here" | keep google_client_secret
echo "postgresql://billing_web:$(random)@$at" | keep database_url
echo "postgresql://billing_migrate:$(random)@$at" | keep migration_database_url
echo "postgresql://billing_web:$(password_in database_url)@ciris-billing-replica:5432/billing" | keep database_read_url
echo "\"billing_web\" \"$(password_in database_url)\"" | keep pgbouncer_users
if [ ! -e "$folder/tls_key" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 \
        -subj "/CN=$host" -addext "subjectAltName=DNS:$host,DNS:localhost" \
        -keyout "$folder/tls_key" -out "$folder/tls_certificate" 2>/dev/null
    chmod 644 "$folder/tls_key" "$folder/tls_certificate"
    echo "made $folder/tls_key and tls_certificate, self-signed for $host: replace them by real ones"
fi
