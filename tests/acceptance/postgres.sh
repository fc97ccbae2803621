# The database cluster of POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB, made once, then served.
set -eu
: "${POSTGRES_PASSWORD:?is not set}"
mkdir -p "$PGDATA" /var/run/postgresql
chown -R postgres "$PGDATA" /var/run/postgresql
chmod 700 "$PGDATA"
as() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
if ! [ -s "$PGDATA/PG_VERSION" ]; then
    printf '%s' "$POSTGRES_PASSWORD" > /tmp/password
    chown postgres /tmp/password
    as initdb --auth=scram-sha-256 --username="$POSTGRES_USER" --pwfile=/tmp/password > /dev/null
    echo "CREATE DATABASE $POSTGRES_DB;" | as postgres --single postgres > /dev/null
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups postgres -c listen_addresses='*'
