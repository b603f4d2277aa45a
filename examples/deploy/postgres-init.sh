#!/bin/bash
# Run by the image of PostgreSQL when its volume is new. State managers get a role that owns a database and is no
# superuser. They reach it with TLS only, and over the network no other role gets in, the superuser neither.
set -e

psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres <<'SQL'
\getenv password POSTGRES_PASSWORD
CREATE ROLE exotrio LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
CREATE DATABASE exotrio OWNER exotrio;
SQL

# Signed by itself: it encrypts, and proves nothing. For sslmode=verify-full put one of your own CA in its place.
(
    umask 077
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=postgres \
        -keyout "$PGDATA/server.key" -out "$PGDATA/server.crt"
)
echo "ssl = on" >>"$PGDATA/postgresql.conf"
cat >"$PGDATA/pg_hba.conf" <<'HBA'
local all all trust
hostssl exotrio exotrio all scram-sha-256
HBA
