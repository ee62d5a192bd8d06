-- The roles, schemas and grants of Holdfast's database: who may do what, in one place.
--
-- Run once per database by a superuser (on RDS: the master user), before the services' migrations, and again
-- whenever a password changes; running it twice changes nothing else. It reads passwords from the environment:
--
--   NOTES_OWNER_PASSWORD=... (and the six others) psql -v ON_ERROR_STOP=1 -d holdfast -f roles.sql

\set ON_ERROR_STOP on
\getenv notes_owner_password NOTES_OWNER_PASSWORD
\getenv notes_app_password NOTES_APP_PASSWORD
\getenv scheduler_owner_password SCHEDULER_OWNER_PASSWORD
\getenv scheduler_app_password SCHEDULER_APP_PASSWORD
\getenv notes_backup_password NOTES_BACKUP_PASSWORD
\getenv notes_proof_password NOTES_PROOF_PASSWORD
\getenv notes_restore_password NOTES_RESTORE_PASSWORD

select format('create role %I login', role)
from unnest(array['notes_owner', 'notes_app', 'scheduler_owner', 'scheduler_app',
                  'notes_backup', 'notes_proof', 'notes_restore']) as role
where not exists (select from pg_roles where rolname = role)
\gexec

alter role notes_owner password :'notes_owner_password';          -- migrates schema notes
alter role notes_app password :'notes_app_password';              -- reads and writes its rows
alter role scheduler_owner password :'scheduler_owner_password';  -- migrates schema scheduler
alter role scheduler_app password :'scheduler_app_password';      -- reads and writes its rows
alter role notes_backup password :'notes_backup_password';        -- reads both schemas; writes in none
alter role notes_proof password :'notes_proof_password';          -- makes scratch databases, sees no live row
alter role notes_restore password :'notes_restore_password';      -- writes rows back, only in a restore

alter role notes_backup set default_transaction_read_only = on;
alter role notes_proof createdb;

revoke all on database :"DBNAME" from public;
grant connect on database :"DBNAME"
    to notes_owner, notes_app, scheduler_owner, scheduler_app, notes_backup, notes_restore;

create schema if not exists notes authorization notes_owner;
create schema if not exists scheduler authorization scheduler_owner;

grant usage on schema notes to notes_app, notes_backup, notes_restore;
grant usage on schema scheduler to scheduler_app, notes_backup, notes_restore;

-- Grants on tables that do not exist yet, so that no migration has to think of them.
alter default privileges for role notes_owner in schema notes
    grant select, insert, update, delete on tables to notes_app, notes_restore;
alter default privileges for role notes_owner in schema notes
    grant usage, select, update on sequences to notes_app, notes_restore;
alter default privileges for role notes_owner in schema notes grant select on tables to notes_backup;
alter default privileges for role notes_owner in schema notes grant select on sequences to notes_backup;

alter default privileges for role scheduler_owner in schema scheduler
    grant select, insert, update, delete on tables to scheduler_app, notes_restore;
alter default privileges for role scheduler_owner in schema scheduler
    grant usage, select, update on sequences to scheduler_app, notes_restore;
alter default privileges for role scheduler_owner in schema scheduler grant select on tables to notes_backup;
alter default privileges for role scheduler_owner in schema scheduler grant select on sequences to notes_backup;
