#!/bin/sh
# The database, its roles, schemas and grants, on the server that the PG* variables name; again is harmless.
set -eu
set -a
. /run/holdfast/postgres/roles
set +a
PGPASSWORD=$(cat /run/holdfast/postgres/superuser)
export PGPASSWORD
[ -n "$(psql --no-psqlrc -Atc "select 1 from pg_database where datname = 'holdfast'" postgres)" ] || createdb holdfast
psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 -f /holdfast/roles.sql holdfast
