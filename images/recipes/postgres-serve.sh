#!/bin/sh
# Starts the command over a database cluster that is made at the first start, as the user the image runs as.
#
# POSTGRES_USER (postgres), POSTGRES_DB (the user's name) and POSTGRES_PASSWORD say what the cluster is made with. Without a
# password nobody gets in from outside of this machine; POSTGRES_HOST_AUTH_METHOD=trust lets everybody in.
# POSTGRES_INITDB_ARGS goes to initdb.
set -eu

if [ "${1:-}" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    umask 077
    password=$(mktemp)
    printf '%s\n' "${POSTGRES_PASSWORD:-}" >"$password"
    # shellcheck disable=SC2086  # several arguments in one variable, as the users of such images know it
    initdb --username="$user" --auth-local=trust --auth-host="$method" \
        ${POSTGRES_PASSWORD:+"--pwfile=$password"} ${POSTGRES_INITDB_ARGS:-}
    rm "$password"
    printf 'host all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
    printf "listen_addresses = '*'\n" >>"$PGDATA/postgresql.conf"
    if [ "$database" != postgres ]; then
        printf 'CREATE DATABASE "%s"\n' "$(printf %s "$database" | sed 's/"/""/g')" |
            postgres --single -j postgres >/dev/null
    fi
fi
exec "$@"
