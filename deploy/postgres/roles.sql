-- The roles, schemas and grants of Holdfast's database: who may do what, in one place.
--
-- Run once per database by a superuser (on RDS: the master user), before the services' migrations, and again
-- whenever a password changes; running it twice changes nothing else. Run it, too, on a database that was restored
-- from a backup, by whomever: what is in it gets its owners and grants, which a backup does not keep, and the services
-- can be started on it. It reads passwords from the environment:
--
--   NOTES_OWNER_PASSWORD=... (and the six others) psql -v ON_ERROR_STOP=1 -d holdfast -f roles.sql
--
-- Without them, on RDS, IAM lets the roles in, and nothing else does.

\set ON_ERROR_STOP on
\getenv notes_owner_password NOTES_OWNER_PASSWORD
\getenv notes_app_password NOTES_APP_PASSWORD
\getenv scheduler_owner_password SCHEDULER_OWNER_PASSWORD
\getenv scheduler_app_password SCHEDULER_APP_PASSWORD
\getenv notes_backup_password NOTES_BACKUP_PASSWORD
\getenv notes_proof_password NOTES_PROOF_PASSWORD
\getenv notes_restore_password NOTES_RESTORE_PASSWORD

\if :{?notes_owner_password}
\else
    do $$ begin
        if to_regrole('rds_iam') is null then
            raise exception 'set NOTES_OWNER_PASSWORD and the six others: this is no server where IAM lets roles in';
        end if;
    end $$;
\endif

select format('create role %I login', role)
from unnest(array['notes_owner', 'notes_app', 'scheduler_owner', 'scheduler_app',
                  'notes_backup', 'notes_proof', 'notes_restore']) as role
where not exists (select from pg_roles where rolname = role)
\gexec

\if :{?notes_owner_password}
alter role notes_owner password :'notes_owner_password';          -- migrates schema notes
alter role notes_app password :'notes_app_password';              -- reads and writes its rows
alter role scheduler_owner password :'scheduler_owner_password';  -- migrates schema scheduler
alter role scheduler_app password :'scheduler_app_password';      -- reads and writes its rows
alter role notes_backup password :'notes_backup_password';        -- reads both schemas; writes in none
alter role notes_proof password :'notes_proof_password';          -- makes scratch databases, sees no live row
alter role notes_restore password :'notes_restore_password';      -- writes rows back, only in a restore
\endif

-- A master user, who is no superuser, gives away only what is its own. It gives these back in the end: IAM would let it
-- in, and its password would not, once it had a role that IAM lets in.
select format('grant %I to current_user with set true, inherit true', role)
from unnest(array['notes_owner', 'scheduler_owner', 'notes_proof', 'notes_restore']) as role
where not (select rolsuper from pg_roles where rolname = current_user)
\gexec

alter role notes_backup set default_transaction_read_only = on;
alter role notes_proof createdb;

-- Of a database that a proof or a restore made, the role that made it would stay the owner, who may drop it.
select format('alter database %I owner to %I', datname, current_user)
from pg_database
where datname = current_database() and pg_get_userbyid(datdba) in ('notes_proof', 'notes_restore')
\gexec

revoke all on database :"DBNAME" from public;
grant connect on database :"DBNAME"
    to notes_owner, notes_app, scheduler_owner, scheduler_app, notes_backup, notes_restore;

grant temporary on database :"DBNAME" to notes_restore;  -- rows wait in a temporary table to be compared

-- What indexes of schema notes are made of.
create extension if not exists pg_trgm;
create extension if not exists btree_gin;

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

-- What is there already, from a restore: it goes to its owner, and where nobody has been granted anything on it, it gets
-- the grants above. What a migration has granted or revoked stays as it is.
\set ours '(values (''notes'', ''notes_owner'', ''notes_app''), (''scheduler'', ''scheduler_owner'', ''scheduler_app'')) as ours (schema, owner, app)'

select format('alter schema %I owner to %I', nspname, owner)
from :ours join pg_namespace on nspname = schema
where nspowner <> owner::regrole
\gexec

select format('alter %s %s owner to %I', kind, name, owner)
from :ours cross join lateral (
    select 'table', relowner, oid::regclass::text, oid, tableoid
    from pg_class where relnamespace = schema::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')
    union all  -- a column's own sequence goes with its table
    select 'sequence', relowner, oid::regclass::text, oid, tableoid
    from pg_class c where relnamespace = schema::regnamespace and relkind = 'S' and not exists (
        select from pg_depend where (classid, objid) = (c.tableoid, c.oid) and refobjsubid > 0 and deptype = 'a')
    union all
    select 'routine', proowner, oid::regprocedure::text, oid, tableoid
    from pg_proc where pronamespace = schema::regnamespace
    union all  -- arrays and multiranges go with their types, and the types of rows with their tables
    select 'type', typowner, oid::regtype::text, oid, tableoid
    from pg_type t where typnamespace = schema::regnamespace and typtype in ('c', 'd', 'e', 'r') and not exists (
        select from pg_class c where c.oid = typrelid and relkind <> 'c')
) as thing (kind, by, name, id, class)
where by <> owner::regrole
  and not exists (  -- what an extension or a type has made; a partitioned table has such a line about itself
      select from pg_depend where (classid, objid) = (class, id) and deptype in ('e', 'i') and refobjid <> id)
\gexec

select format('grant %s on %s%s to %s', privileges, case relkind when 'S' then 'sequence ' end, oid::regclass, roles)
from :ours join pg_class on relnamespace = schema::regnamespace cross join lateral (
    values (array['r', 'p', 'v', 'm', 'f'], 'select, insert, update, delete', format('%I, notes_restore', app)),
           (array['r', 'p', 'v', 'm', 'f'], 'select', 'notes_backup'),
           (array['S'], 'usage, select, update', format('%I, notes_restore', app)),
           (array['S'], 'select', 'notes_backup')
) as granted (kinds, privileges, roles)
where relkind::text = any (kinds) and relacl is null
\gexec

select format('revoke %s from current_user granted by current_user', roleid::regrole)
from pg_auth_members
where member = current_user::regrole and grantor = member and roleid::regrole::text in (
    'notes_owner', 'scheduler_owner', 'notes_proof', 'notes_restore')
\gexec

\if :{?notes_owner_password}
\else
    grant rds_iam to notes_owner, notes_app, scheduler_owner, scheduler_app, notes_backup, notes_proof, notes_restore;
\endif
