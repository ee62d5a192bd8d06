#!/bin/sh
# Run once by the PostgreSQL image, in an empty data directory: roles, schemas and grants.
set -eu
set -a
. /run/holdfast/postgres/roles
set +a
psql --no-psqlrc -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --file /holdfast/roles.sql
