"""python -m notes_api.migrate."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from notes_api import migrate
from notes_api.models import Table
from tests.notes_api.doors import run
from tests.servers import Cluster

TABLES = "select table_name from information_schema.tables where table_schema = 'notes' order by 1"
HEAD = migrate.revisions()[0]


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[str]:
    """A database with roles and schemas, and no tables."""
    with cluster.database() as name:
        yield name


def test_up_down_and_up_again(cluster: Cluster, empty: str) -> None:
    owner = {"HOLDFAST_DATABASE_URL": cluster.url("notes_owner", empty)}
    said = [run("migrate", *words, **owner).stdout for words in ((), ("--down-to", "base"), ())]
    assert said == [
        f"schema notes migrated from base to {HEAD}\n",
        f"schema notes migrated from {HEAD} to base\n",
        f"schema notes migrated from base to {HEAD}\n",
    ]
    assert cluster.server.psql(empty, [TABLES]).split() == ["alembic_version", "notes", "tokens"]


def test_again_does_nothing_and_says_so(cluster: Cluster, database: str) -> None:
    done = run("migrate", HOLDFAST_DATABASE_URL=cluster.url("notes_owner", database))
    assert (done.returncode, done.stdout) == (0, f"schema notes is at {HEAD} already\n")


def test_the_schema_of_a_newer_release_is_left_alone(cluster: Cluster, database: str) -> None:
    cluster.server.psql(database, ["update notes.alembic_version set version_num = 'of a later day'"])
    done = run("migrate", HOLDFAST_DATABASE_URL=cluster.url("notes_owner", database))
    assert (done.returncode, done.stdout) == (0, "schema notes is at of a later day already\n")


def test_a_revision_that_nobody_knows_is_refused_in_one_line(cluster: Cluster, database: str) -> None:
    done = run("migrate", "--down-to", "nowhere", HOLDFAST_DATABASE_URL=cluster.url("notes_owner", database))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "schema notes was not migrated: Can't locate revision identified by 'nowhere'\n"


def test_two_at_once_migrate_once(cluster: Cluster, empty: str) -> None:
    url = cluster.url("notes_owner", empty)
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: run("migrate", HOLDFAST_DATABASE_URL=url), range(2)))
    assert [one.returncode for one in done] == [0, 0], done
    assert sorted(one.stdout for one in done) == [
        f"schema notes is at {HEAD} already\n",
        f"schema notes migrated from base to {HEAD}\n",
    ]


async def test_models_and_migrations_say_the_same(cluster: Cluster, database: str) -> None:
    def differences(connection: Connection) -> object:
        options = {"version_table_schema": "notes", "include_schemas": True, "compare_server_default": True}
        only_ours = {"include_name": lambda name, kind, _: kind != "schema" or name == "notes"}
        return compare_metadata(MigrationContext.configure(connection, opts=options | only_ours), Table.metadata)

    engine = create_async_engine(cluster.url("notes_owner", database).replace("://", "+asyncpg://"))
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


def test_another_role_cannot_migrate(cluster: Cluster, empty: str) -> None:
    done = run("migrate", HOLDFAST_DATABASE_URL=cluster.url("notes_app", empty))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0].startswith("schema notes was not migrated: ")
    assert "permission denied for schema notes" in done.stderr
    assert cluster.server.psql(empty, [TABLES]) == ""


def test_nothing_is_made_outside_its_schema(cluster: Cluster, database: str) -> None:
    others = "select count(*) from pg_tables where schemaname not in ('notes', 'pg_catalog', 'information_schema')"
    assert cluster.server.psql(database, [others]).strip() == "0"


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("notes_app", "create table notes.mine (id int)"),
        ("notes_app", "drop table notes.notes"),
        ("notes_app", "truncate notes.notes"),
        ("notes_backup", "delete from notes.notes"),
        ("notes_backup", "insert into notes.tokens default values"),
        ("scheduler_app", "select * from notes.notes"),
        ("notes_proof", "select * from notes.notes"),
    ],
)
async def test_a_role_may_do_no_more_than_its_part(cluster: Cluster, database: str, role: str, statement: str) -> None:
    connection = await asyncpg.connect(cluster.url(role, database))
    await connection.execute("set default_transaction_read_only = off")  # a habit of the role, and not its right
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)
    await connection.close()


async def test_the_backup_reads_every_table(cluster: Cluster, database: str) -> None:
    connection = await asyncpg.connect(cluster.url("notes_backup", database))
    for table in cluster.server.psql(database, [TABLES]).split():
        await connection.fetch(f"select * from notes.{table}")  # noqa: S608 - a name from the catalogue
    await connection.close()
