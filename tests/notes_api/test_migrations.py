"""python -m notes_api.migrate."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import pytest

from notes_api import migrate
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
    assert {"alembic_version", "notes", "tokens", "changes"} <= set(cluster.server.psql(empty, [TABLES]).split())


def test_notes_stay_on_the_way_down_and_up(cluster: Cluster, empty: str) -> None:
    owner = {"HOLDFAST_DATABASE_URL": cluster.url("notes_owner", empty)}
    whole = "select title, content, tags, revision, created_at, updated_at, search from notes.notes order by title"
    assert run("migrate", **owner).returncode == 0
    cluster.server.psql(
        empty,
        [
            "insert into notes.notes (owner, title, content, tags)"
            " select uuidv7(), 'note ' || n, 'running ' || n, array['a', 'b'] from generate_series(1, 20) as n",
            "update notes.notes set content = content || ' away' where title <> 'note 7'",
        ],
    )
    before = cluster.server.psql(empty, [whole])
    assert run("migrate", "--down-to", "0001", **owner).stdout == f"schema notes migrated from {HEAD} to 0001\n"
    assert cluster.server.psql(empty, ["select count(*) from notes.notes where revision = 2"]) == "19\n"
    assert run("migrate", **owner).stdout == f"schema notes migrated from 0001 to {HEAD}\n"
    assert cluster.server.psql(empty, [whole]) == before
    assert "'run':5" in before  # it is computed again


async def test_the_release_before_works_on_the_new_schema(cluster: Cluster, database: str) -> None:
    """These are its statements: it runs on until the last of its processes has been replaced."""
    connection = await asyncpg.connect(cluster.url("notes_app", database))
    made = await connection.fetchrow(
        "insert into notes.notes (owner, title, content, tags) values ($1, $2, $3, $4)"
        " returning id, owner, revision, created_at, updated_at",
        *(uuid4(), "title", "content", ["a"]),
    )
    assert made is not None
    found = await connection.fetchrow(
        "select id, owner, title, content, tags, revision, created_at, updated_at from notes.notes"
        " where id = $1 and owner = $2",
        *(made["id"], made["owner"]),
    )
    assert found is not None
    assert (found["title"], found["content"], found["tags"], found["revision"]) == ("title", "content", ["a"], 1)
    page = await connection.fetch(
        "select id, owner, title, tags, revision, created_at, updated_at from notes.notes"
        " where owner = $1 and (created_at, id) < ($2, $3) order by created_at desc, id desc limit $4",
        *(made["owner"], datetime.now(UTC), made["id"], 51),
    )
    assert [row["id"] for row in page] == [made["id"]]
    assert await connection.fetch("select name from notes.tokens where token_hash = $1", b"") == []
    await connection.close()


@pytest.mark.parametrize("missing", [["pg_trgm"], ["btree_gin"], ["btree_gin", "pg_trgm"]])
def test_a_missing_extension_is_named_with_what_makes_it(cluster: Cluster, empty: str, missing: list[str]) -> None:
    owner = {"HOLDFAST_DATABASE_URL": cluster.url("notes_owner", empty)}
    cluster.server.psql(empty, [f"drop extension {name}" for name in missing])
    done = run("migrate", **owner)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"schema notes was not migrated: no extension {' and no '.join(missing)}:"
        " run deploy/postgres/roles.sql, again if it has run\n"
    )
    assert cluster.server.psql(empty, [TABLES]) == ""
    cluster.server.make_roles(empty)
    assert run("migrate", **owner).returncode == 0


SEARCH = "select search from notes.notes"


def test_the_language_of_searches_is_a_setting(cluster: Cluster, empty: str) -> None:
    owner = {"HOLDFAST_DATABASE_URL": cluster.url("notes_owner", empty)}
    german = run("migrate", HOLDFAST_LANGUAGE="german", **owner)
    said = "schema notes is searched in german, and no longer in english\n"
    assert german.stdout == f"schema notes migrated from base to {HEAD}\n{said}"
    cluster.server.psql(
        empty, ["insert into notes.notes (owner, title, content, tags) values (uuidv7(), 'die Bäume', 'cats', '{}')"]
    )
    assert cluster.server.psql(empty, [SEARCH]) == "'baum':2A 'cat':3\n"
    english = run("migrate", HOLDFAST_LANGUAGE="english", **owner)
    said = "schema notes is searched in english, and no longer in german\n"
    assert english.stdout == f"schema notes is at {HEAD} already\n{said}"
    assert cluster.server.psql(empty, [SEARCH]) == "'bäume':2A 'cat':3 'die':1A\n"


def test_without_a_language_it_stays_what_it_is(cluster: Cluster, empty: str) -> None:
    owner = {"HOLDFAST_DATABASE_URL": cluster.url("notes_owner", empty)}
    run("migrate", HOLDFAST_LANGUAGE="simple", **owner)
    place = "select pg_relation_filenode('notes.notes')"
    before = cluster.server.psql(empty, [place])
    for language in ({}, {"HOLDFAST_LANGUAGE": "simple"}):
        assert run("migrate", **language, **owner).stdout == f"schema notes is at {HEAD} already\n"
    assert cluster.server.psql(empty, [place]) == before, "the notes were written again for nothing"
    assert cluster.server.psql(empty, ["select notes.search_language()"]) == "simple\n"


def test_a_language_that_nobody_knows_is_refused_with_those_there_are(cluster: Cluster, empty: str) -> None:
    done = run("migrate", HOLDFAST_DATABASE_URL=cluster.url("notes_owner", empty), HOLDFAST_LANGUAGE="klingon")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "schema notes was not migrated: no language klingon: HOLDFAST_LANGUAGE is one of arabic,"
    )
    assert " german, " in done.stderr
    assert done.stderr.count("\n") == 1
    assert cluster.server.psql(empty, [TABLES]) == ""


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
        await connection.fetch(f"select * from notes.{table}")
    await connection.close()
