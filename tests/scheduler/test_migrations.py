"""python -m scheduler.migrate."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from scheduler import db, due, ledger, migrate, schedules
from scheduler.models import Table
from scheduler.settings import Settings
from tests.servers import Cluster

if TYPE_CHECKING:
    from tests.scheduler.conftest import Command

TABLES = "select table_name from information_schema.tables where table_schema = 'scheduler' order by 1"
HEAD = migrate.revisions()[0]


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[str]:
    """A database with roles and schemas, and no tables."""
    with cluster.database() as name:
        yield name


def test_up_down_and_up_again(run: "Command", cluster: Cluster, empty: str) -> None:
    owner = {"HOLDFAST_DATABASE_URL": cluster.url("scheduler_owner", empty)}
    said = [run("migrate", *words, **owner).stdout for words in ((), ("--down-to", "base"), ())]
    assert said == [
        f"schema scheduler migrated from base to {HEAD}\n",
        f"schema scheduler migrated from {HEAD} to base\n",
        f"schema scheduler migrated from base to {HEAD}\n",
    ]
    assert cluster.server.psql(empty, [TABLES]).split() == [
        "alarms",
        "alembic_version",
        "audit",
        "backups",
        "runs",
        "schedule_revisions",
        "schedules",
        "sessions",
        "tokens",
        "trials",
        "watch",
    ]


def test_down_takes_the_daily_backup_with_its_runs(run: "Command", cluster: Cluster, database: str) -> None:
    cluster.server.psql(
        database,
        ["insert into scheduler.runs (schedule_id, trigger, due_at, target, deadline_at)"
         " select id, 'manual', now(), target, now() from scheduler.schedules"],
    )  # fmt: skip
    done = run("migrate", "--down-to", "0001", HOLDFAST_DATABASE_URL=cluster.url("scheduler_owner", database))
    assert done.returncode == 0, done.stderr
    assert cluster.server.psql(database, ["select count(*) from scheduler.schedules"]).strip() == "0"


def test_again_does_nothing_and_says_so(run: "Command", cluster: Cluster, database: str) -> None:
    done = run("migrate", HOLDFAST_DATABASE_URL=cluster.url("scheduler_owner", database))
    assert (done.returncode, done.stdout) == (0, f"schema scheduler is at {HEAD} already\n")


def test_two_at_once_migrate_once(run: "Command", cluster: Cluster, empty: str) -> None:
    url = cluster.url("scheduler_owner", empty)
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: run("migrate", HOLDFAST_DATABASE_URL=url), range(2)))
    assert [one.returncode for one in done] == [0, 0], done
    assert sorted(one.stdout for one in done) == [
        f"schema scheduler is at {HEAD} already\n",
        f"schema scheduler migrated from base to {HEAD}\n",
    ]


async def test_models_and_migrations_say_the_same(cluster: Cluster, database: str) -> None:
    def differences(connection: Connection) -> object:
        options = {"version_table_schema": "scheduler", "include_schemas": True, "compare_server_default": True}
        only_ours = {"include_name": lambda name, kind, _: kind != "schema" or name == "scheduler"}
        return compare_metadata(MigrationContext.configure(connection, opts=options | only_ours), Table.metadata)

    engine = create_async_engine(cluster.url("scheduler_owner", database).replace("://", "+asyncpg://"))
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_constraints_and_partial_indexes_are_the_models(cluster: Cluster, empty: str, database: str) -> None:
    """Which alembic does not compare."""
    found = []
    say = """
        select indexdef from pg_indexes where schemaname = 'scheduler' and tablename <> 'alembic_version'
        union
        select conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'scheduler'::regnamespace and conrelid::regclass::text <> 'scheduler.alembic_version'
        order by 1
    """
    engine = create_async_engine(cluster.url("scheduler_owner", empty).replace("://", "+asyncpg://"))
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    await engine.dispose()
    for name in (empty, database):
        connected = await asyncpg.connect(cluster.url("postgres", name))
        found.append([row[0] for row in await connected.fetch(say)])
        await connected.close()
    assert found[0] == found[1]


def test_another_role_cannot_migrate(run: "Command", cluster: Cluster, empty: str) -> None:
    done = run("migrate", HOLDFAST_DATABASE_URL=cluster.url("scheduler_app", empty))
    assert (done.returncode, done.stdout) == (1, "")
    assert "permission denied for schema scheduler" in done.stderr
    assert cluster.server.psql(empty, [TABLES]) == ""


def test_nothing_is_made_outside_its_schema(cluster: Cluster, database: str) -> None:
    others = "select count(*) from pg_tables where schemaname not in ('scheduler', 'pg_catalog', 'information_schema')"
    assert cluster.server.psql(database, [others]).strip() == "0"


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("scheduler_app", "create table scheduler.mine (id int)"),
        ("scheduler_app", "drop table scheduler.runs"),
        ("scheduler_app", "truncate scheduler.runs"),
        ("notes_backup", "delete from scheduler.runs"),
        ("notes_app", "select * from scheduler.runs"),
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
        await connection.fetch(f"select * from scheduler.{table}")  # noqa: S608 - a name from the catalogue
    await connection.close()


async def test_schedules_and_runs_survive_an_upgrade(run: "Command", cluster: Cluster, database: str) -> None:
    """As the release before left them: one run active, one that failed; the schedule goes on, and is accounted for."""
    owner = {"HOLDFAST_DATABASE_URL": cluster.url("scheduler_owner", database)}
    assert run("migrate", "--down-to", "0002", **owner).returncode == 0
    cluster.server.psql(
        database,
        ["insert into scheduler.runs (schedule_id, trigger, due_at, target, state, deadline_at, ended_at)"
         " select id, 'schedule', next_due_at - n * interval '1 day', '{\"kind\": \"backup\", \"label\": \"x\"}',"
         " case n when 1 then 'waiting' else 'failed' end, now() + interval '1 hour', case n when 2 then now() end"
         " from scheduler.schedules, generate_series(1, 2) as n",
         "update scheduler.schedules set next_due_at = now()"],
    )  # fmt: skip
    assert run("migrate", **owner).returncode == 0
    engine = db.create_engine(Settings.from_env({"HOLDFAST_DATABASE_URL": cluster.url("scheduler_app", database)}))
    async with db.transaction(engine) as session:
        (schedule,), _ = await schedules.page(session, None, 10)
        assert schedules.definition(schedule).overlap == "skip"
        assert await due.fire(session) == 1
        await session.refresh(schedule)
        until = schedule.accounted_from + timedelta(minutes=1)
        assert (await ledger.account(session, schedule, schedule.accounted_from, until)).complete
    await engine.dispose()
    states = cluster.server.psql(database, ["select state from scheduler.runs order by due_at"]).split()
    assert states == ["failed", "waiting", "queued"], "that of the former release is not in the way"
    assert run("migrate", "--down-to", "0002", **owner).returncode == 0
    assert cluster.server.psql(database, ["select count(*) from scheduler.runs"]).strip() == "3"
