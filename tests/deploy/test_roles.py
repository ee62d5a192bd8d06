"""deploy/postgres/roles.sql on a database that somebody restored: services can be started on it."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from deploy.local.postgres import ROLES, ROLES_SQL, UNPRIVILEGED_USER, Postgres, programs
from deploy.local.settings import ROOT
from tests.servers import Cluster, free_port, private_directory, running

# What pg_dump leaves out when it is told schemas.
EXTENSIONS = "create extension pg_trgm; create extension btree_gin;\n"
# As a migration may make them one day, with names that need quotes.
OBJECTS = """
create type notes."Mood" as enum ('good', 'bad');
create domain notes.positive as int check (value > 0);
create type notes.pair as (a int, b int);
create type notes.span as range (subtype = int4);
create function notes."same as"(a int) returns int language sql as 'select a';
create procedure notes.nothing() language sql as '';
create sequence notes."by itself";
create table notes."Odd one" (id int generated always as identity, other serial, mood notes."Mood");
create table notes."Odd two" (id int);
create table scheduler.parts (id int not null) partition by list (id);
create table scheduler.part partition of scheduler.parts default;
create view notes.seen as select 1 as one;
create materialized view notes.stored as select 1 as one;
"""
OWNED = """
select relname, relowner::regrole::text from pg_class where relnamespace = any ($1::regnamespace[])
union all select proname, proowner::regrole::text from pg_proc where pronamespace = any ($1::regnamespace[])
    and not exists (select from pg_depend where objid = pg_proc.oid and deptype = 'i')  -- how a range is made
union all select typname, typowner::regrole::text from pg_type where typnamespace = any ($1::regnamespace[])
union all select nspname, nspowner::regrole::text from pg_namespace where oid = any ($1::regnamespace[])
union all select datname, datdba::regrole::text from pg_database where datname = current_database()
"""
GRANTS = """
select 'relation', oid::regclass::text, (select string_agg(a::text, chr(10) order by a::text) from unnest(relacl) as a)
from pg_class where relnamespace = any ($1::regnamespace[])
union all select 'schema', nspname, (select string_agg(a::text, chr(10) order by a::text) from unnest(nspacl) as a)
from pg_namespace where oid = any ($1::regnamespace[])
order by 1, 2
"""
SCHEMAS = ["notes", "scheduler"]


def migrate(cluster: Cluster, database: str) -> None:
    for service, owner in (("notes_api", "notes_owner"), ("scheduler", "scheduler_owner")):
        env = {
            "PATH": os.defpath,
            "PYTHONPATH": str(ROOT / "services"),
            "HOLDFAST_DATABASE_URL": cluster.url(owner, database),
        }
        subprocess.run([sys.executable, "-m", f"{service}.migrate"], check=True, env=env, capture_output=True)


@pytest.fixture(scope="module")
def live(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as database:
        migrate(cluster, database)
        yield database


@pytest.fixture(scope="module")
def restored(cluster: Cluster, live: str) -> Iterator[str]:
    """All of `live` and more by the role that proofs and restores have: without owners and grants."""
    name = f"{live}_restored"
    cluster.server.psql("postgres", [f"create database {name} owner notes_proof template template0"])
    try:
        plain = ("--no-owner", "--no-privileges", "--schema=notes", "--schema=scheduler")
        dump = [str(programs() / "pg_dump"), *plain, cluster.url("postgres", live)]
        sql = EXTENSIONS + subprocess.run(dump, check=True, capture_output=True, text=True).stdout + OBJECTS
        psql = [str(programs() / "psql"), "--quiet", "--set=ON_ERROR_STOP=1", cluster.url("notes_proof", name)]
        subprocess.run(psql, check=True, capture_output=True, text=True, input=sql)
        yield name
    finally:
        cluster.server.psql("postgres", [f"drop database {name} with (force)"])


@asynccontextmanager
async def connected(cluster: Cluster, role: str, database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(cluster.url(role, database))
    try:
        yield connection
    finally:
        await connection.close()


async def test_what_was_restored_gets_its_owners_and_grants_and_the_services_run_on_it(
    cluster: Cluster, live: str, restored: str
) -> None:
    async with connected(cluster, "postgres", restored) as superuser:
        assert {owner for _, owner in await superuser.fetch(OWNED, SCHEMAS)} == {"notes_proof"}
        cluster.server.make_roles(restored)
        owned = {tuple(each) for each in await superuser.fetch(OWNED, SCHEMAS)}
        assert {each for each in owned if each[1] not in ("notes_owner", "scheduler_owner")} == {(restored, "postgres")}
        grants = await superuser.fetch(GRANTS, SCHEMAS)
        cluster.server.make_roles(restored)
        assert await superuser.fetch(GRANTS, SCHEMAS) == grants, "again is harmless"
    async with connected(cluster, "postgres", live) as superuser:
        assert {tuple(each) for each in await superuser.fetch(GRANTS, SCHEMAS)} <= {tuple(each) for each in grants}
    async with connected(cluster, "notes_owner", restored) as notes_owner:
        await notes_owner.execute('alter table notes.notes add column more int; drop table notes."Odd two"')
    async with connected(cluster, "notes_app", restored) as notes_app:
        await notes_app.execute("""insert into notes."Odd one" (mood) values ('good')""")
        assert await notes_app.fetchval("""select nextval('notes."by itself"')""") == 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await notes_app.fetchval("select count(*) from scheduler.runs")
    async with connected(cluster, "notes_backup", restored) as notes_backup:
        assert await notes_backup.fetchval('select count(*) from notes."Odd one"') == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(cluster.url("notes_proof", restored))


async def test_what_a_migration_revoked_stays_revoked(cluster: Cluster, live: str) -> None:
    async with connected(cluster, "notes_owner", live) as notes_owner:
        await notes_owner.execute("create table notes.log (); revoke delete on notes.log from notes_app")
        cluster.server.make_roles(live)
        assert not await notes_owner.fetchval("select has_table_privilege('notes_app', 'notes.log', 'delete')")
        await notes_owner.execute("drop table notes.log")


async def test_a_restore_may_have_temporary_tables_and_no_others(cluster: Cluster, live: str) -> None:
    cluster.server.make_roles(live)
    async with connected(cluster, "notes_restore", live) as notes_restore:
        await notes_restore.execute("create temporary table waiting as select * from notes.notes")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await notes_restore.execute("create table notes.made (id int)")


@pytest.fixture
def rds() -> Iterator[Cluster]:
    """A server as RDS has it: whoever makes roles is no superuser, and members of rds_iam are let in by IAM."""
    with private_directory(owner=UNPRIVILEGED_USER) as home:
        server = Postgres(home, free_port(), {role: role for role in ("postgres", "master", *ROLES)})
        server.prepare()
        with running(server.program(), home):
            master = "create role master login createrole createdb password 'master' in role pg_monitor"
            server.psql("postgres", ["create role rds_iam", "create role rds_superuser", master])
            server.psql(
                "postgres", ["create database holdfast owner master", "grant rds_iam to master with admin option"]
            )
            yield Cluster(server)


async def test_the_master_user_of_rds_runs_it_and_iam_lets_the_roles_in(rds: Cluster, tmp_path: Path) -> None:
    """As the task of the data stack does it, but for TLS, which this server does not speak."""
    data = json.loads((ROOT / "deploy/cdk/templates/data.json").read_text())
    (container,) = data["Resources"]["RolesDefinition"]["Properties"]["ContainerDefinitions"]
    told = {each["Name"]: each["Value"] for each in container["Environment"]} | {
        "PGHOST": rds.server.host,
        "PGPORT": str(rds.server.port),
        "PGUSER": "master",
        "PGPASSWORD": "master",
        "PGSSLMODE": "disable",
        "PGSSLROOTCERT": str(tmp_path / "authority.pem"),
        "AUTHORITY": "PEM",
        "PATH": f"{programs()}:{os.defpath}",
    }
    for _ in range(2):
        task = [*container["EntryPoint"], *container["Command"]]
        done = subprocess.run(task, check=False, capture_output=True, text=True, env=told)  # noqa: ASYNC221  # waited for
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "authority.pem").read_text() == "PEM"
    async with connected(rds, "postgres", "holdfast") as superuser:
        members = "select member::regrole::text from pg_auth_members where roleid = 'rds_iam'::regrole"
        assert {each[0] for each in await superuser.fetch(members)} == {"master", *ROLES}
        has = "select rolname from pg_roles where pg_has_role('master', oid, 'set') and rolname = any ($1)"
        assert not await superuser.fetch(has, ROLES), "its password would no longer let it in"
        for role in ROLES:  # IAM itself is not here
            await superuser.execute(f"alter role {role} password '{role}'")
    migrate(rds, "holdfast")
    async with connected(rds, "notes_app", "holdfast") as notes_app:
        assert await notes_app.fetchval("select count(*) from notes.notes") == 0
    async with connected(rds, "notes_proof", "postgres") as notes_proof:
        await notes_proof.execute("create database holdfast_proof_x")
        await notes_proof.execute("drop database holdfast_proof_x")


def test_without_passwords_where_iam_lets_nobody_in_it_says_what_to_set(cluster: Cluster, live: str) -> None:
    assert "set NOTES_OWNER_PASSWORD and the six others" in run_roles_sql(cluster.url("postgres", live))


def run_roles_sql(url: str) -> str:
    """Without passwords; why it ended, or nothing."""
    psql = [str(programs() / "psql"), "--quiet", url, "--file", str(ROLES_SQL)]
    done = subprocess.run(psql, check=False, capture_output=True, text=True, env={"PATH": os.defpath})
    return done.stderr if done.returncode else ""
