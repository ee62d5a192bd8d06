"""Which tables are backed up, the SQL that makes them again, and what is named because it is not made."""

import asyncpg
import pytest

from backup_lambda import snapshot
from backup_lambda.catalogue import EVERYTHING, Selection
from backup_lambda.comparison import differing, tokens
from backup_lambda.ddl import NOT_KEPT, SESSION
from backup_lambda.errors import BackupFailed
from backup_lambda.manifest import SchemaSql
from tests.backup_lambda.drill import Drill
from tests.backup_lambda.world import SCHEMAS, Connection, World
from tests.servers import Cluster

TABLES = """
create table notes.notes (id int primary key, body text);
create table notes.tags (id serial primary key, note int references notes.notes);
create table scheduler.runs (id int primary key, note int references notes.notes, log text);
create table scheduler.logs (id int primary key);
create view notes.tagged as select n.id from notes.notes n join notes.tags t on t.note = n.id;
create view scheduler.all_runs as select id from scheduler.runs;
create function notes.answer() returns int language sql as 'select 42'
"""


@pytest.fixture
def url(cluster: Cluster, database: str) -> str:
    return cluster.url("notes_backup", database)


@pytest.fixture
def drill(world: World, cluster: Cluster, database: str) -> Drill:
    return Drill(world, cluster, database)


async def taken(url: str, selection: Selection) -> tuple[list[str], dict[str, str], SchemaSql]:
    """The tables, what is not backed up, and the SQL."""
    async with snapshot.opened(url, SCHEMAS, selection) as source:
        out = {each["name"]: each["reason"] for each in source.not_backed_up if each != NOT_KEPT}
        return [table.name for table in source.tables], out, source.schema_sql


@pytest.mark.parametrize(
    ("selection", "tables"),
    [
        (Selection(), ["notes.notes", "notes.tags", "scheduler.logs", "scheduler.runs"]),
        (Selection(include=["notes.*"]), ["notes.notes", "notes.tags"]),
        (Selection(include=["*.notes", "*s.tag?", "scheduler.l*s"]), ["notes.notes", "scheduler.logs"]),
        (Selection(exclude=["*.logs", "notes.tags"]), ["notes.notes", "scheduler.runs"]),
        (Selection(asked=["notes.tags"], exclude=["*.logs"]), ["notes.tags"]),
    ],
)
async def test_tables_are_chosen_by_settings_and_by_request(
    owner: Connection, url: str, selection: Selection, tables: list[str]
) -> None:
    await owner.execute(TABLES)
    found, out, _ = await taken(url, selection)
    assert found == tables
    assert {name for name in out if "(" not in name and name.count(" ") == 0} | {*found} == {
        "notes.notes", "notes.tags", "scheduler.logs", "scheduler.runs"
    }  # fmt: skip


async def test_what_is_not_taken_says_why(owner: Connection, url: str) -> None:
    await owner.execute(TABLES)
    _, out, _ = await taken(url, Selection(include=["notes.*", "scheduler.runs"], exclude=["notes.notes"]))
    assert out == {
        "notes.notes": "excluded by HOLDFAST_EXCLUDE_TABLES",
        "scheduler.logs": "not among HOLDFAST_INCLUDE_TABLES",
        "table constraint tags_note_fkey on notes.tags": "needs table notes.notes, which is not backed up",
        "table constraint runs_note_fkey on scheduler.runs": "needs table notes.notes, which is not backed up",
        "view notes.tagged": "needs table notes.notes, which is not backed up",
    }
    _, out, sql = await taken(url, Selection(asked=["notes.notes"]))
    assert out == dict.fromkeys(["notes.tags", "scheduler.logs", "scheduler.runs"], "not asked for")
    assert [line for line in [*sql.before_rows, *sql.after_rows] if "tag" in line or "answer" in line] == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("notes.none_such", "there is none"),
        ("notes.tags", "excluded by HOLDFAST_EXCLUDE_TABLES"),
        ("notes.seen", "materialised view"),
    ],
)
async def test_a_table_that_was_asked_for_and_cannot_be_had_is_an_error(
    owner: Connection, url: str, name: str, why: str
) -> None:
    await owner.execute(TABLES + ";create materialized view notes.seen as select 1 as one")
    with pytest.raises(BackupFailed, match=f"{name} was asked for.*{why}"):
        await taken(url, Selection(asked=["notes.notes", name], exclude=["notes.tags"]))


async def test_a_part_of_the_tables_comes_back_without_the_others(drill: Drill, owner: Connection) -> None:
    await owner.execute(TABLES)
    await owner.execute("insert into notes.notes values (1, 'a'); insert into notes.tags values (7, 1)")
    for selection in (
        Selection(asked=["notes.tags"]),
        Selection(exclude=["notes.notes"]),
        Selection(asked=["scheduler.runs", "notes.notes"]),
    ):
        manifest = await drill.backup(selection)
        assert (await drill.prove(manifest)).differences == []
        assert "notes.tags" not in {t.name for t in manifest.tables} or [s["name"] for s in manifest.sequences] == [
            "notes.tags_id_seq"
        ]


async def test_what_cannot_be_made_is_named_and_so_is_what_needs_it(drill: Drill, owner: Connection) -> None:
    await owner.execute("""
        create aggregate notes.total (int) (sfunc = int4pl, stype = int);
        create operator notes.=== (leftarg = int, rightarg = int, function = int4eq);
        create text search configuration notes.plain (copy = simple);
        create type notes.shell;
        create extension file_fdw; create server files foreign data wrapper file_fdw;
        create foreign table notes.foreign_rows (a int) server files options (filename '/dev/null');
        create materialized view notes.seen as select 1 as one;
        create view notes.of_seen as select * from notes.seen;
        create view notes.of_that as select * from notes.of_seen;
        create table notes.sums (a int, s int default 1, check (a operator(notes.===) a), words tsvector);
        create function notes.trigger() returns event_trigger language plpgsql as 'begin end';
        create event trigger watch on ddl_command_end execute function notes.trigger();
        alter event trigger watch disable;
        create table notes.doubled (a int); insert into notes.doubled values (1), (1);
        select lo_create(0)
    """)
    with pytest.raises(Exception, match="could not create unique index"):
        await owner.execute("create unique index concurrently broken on notes.doubled (a)")
    manifest = await drill.backup()
    ours = "which this release cannot make"
    assert {each["name"]: each["reason"] for each in manifest.not_backed_up if each != NOT_KEPT} == {
        "notes.foreign_rows": "a foreign table: its rows are on another server",
        "notes.seen": "a materialised view: refresh it after a restore",
        "aggregate notes.total(integer)": "this release cannot make",
        "event trigger watch": "this release cannot make",
        "index notes.broken": "is invalid",
        "operator notes.===(integer,integer)": "this release cannot make",
        "server files": "this release cannot make",
        "table constraint sums_a_check on notes.sums": f"needs operator notes.===(integer,integer), {ours}",
        "text search configuration notes.plain": "this release cannot make",
        "type notes.shell": "this release cannot make",
        "view notes.of_seen": f"needs materialized view notes.seen, {ours}",
        "view notes.of_that": f"needs view notes.of_seen, which needs materialized view notes.seen, {ours}",
        "large objects": "1 of them: they belong to no schema",
    }
    evidence = await drill.prove(manifest)
    assert [each.where for each in evidence.differences] == []


PARTITIONED = """
create extension file_fdw; create server files foreign data wrapper file_fdw;
create table notes.days (day int, v text default 'x') partition by range (day);
create table notes.local partition of notes.days for values from (0) to (10);
create table notes.years partition of notes.days for values from (10) to (30) partition by range (day);
create table notes.year partition of notes.years for values from (10) to (20);
create table notes.parted (day int) partition by list (day);
create foreign table notes.far partition of notes.days for values from (30) to (40)
    server files options (filename '/dev/null');
create table notes.whole (id int primary key);
insert into notes.days values (1), (11)
"""


async def test_a_foreign_partition_is_named_and_its_table_comes_back_in_parts(drill: Drill, owner: Connection) -> None:
    await owner.execute(PARTITIONED)
    manifest = await drill.backup()
    assert {table.name: table.rows for table in manifest.tables} == {
        "notes.local": 1, "notes.parted": 0, "notes.whole": 0, "notes.years": 1
    }  # fmt: skip
    out = {each["name"]: each["reason"] for each in manifest.not_backed_up}
    far = "a foreign table: its rows are on another server"
    assert (out["notes.days"], out["notes.far"]) == (f"a partition of it, notes.far, is {far}", far)
    assert out["inheritance of table notes.local"] == "needs table notes.days, which is not backed up"
    assert (await drill.prove(manifest)).differences == []
    with pytest.raises(BackupFailed, match=r"notes.days was asked for.*notes.far"):
        await drill.backup(Selection(asked=["notes.days"]))


UNMADE = """
create type notes.odd;
create function notes.odd_in(cstring) returns notes.odd language internal immutable strict as 'textin';
create function notes.odd_out(notes.odd) returns cstring language internal immutable strict as 'textout';
create type notes.odd (input = notes.odd_in, output = notes.odd_out, like = text);
create domain notes.odder as notes.odd[];
create table notes.a (id int primary key, v notes.odder);
create table notes.b (id int references notes.a, whole notes.a);
create table notes.c (id int references notes.a, v text);
create table notes.d (id int, v notes.odd) partition by list (id);
create table notes.d1 partition of notes.d for values in (1);
insert into notes.a values (1); insert into notes.c values (1, 'kept')
"""


async def test_a_table_that_cannot_be_made_is_named_and_the_others_come_back(drill: Drill, owner: Connection) -> None:
    await owner.execute(UNMADE)
    manifest = await drill.backup()
    assert {table.name: table.rows for table in manifest.tables} == {"notes.c": 1}
    out = {each["name"]: each["reason"] for each in manifest.not_backed_up}
    odd = "type notes.odd, which this release cannot make"
    assert out["notes.a"] == f"needs type notes.odder, which needs {odd}"
    assert out["notes.b"].startswith("needs table notes.a, which ")
    assert out["notes.d"] == f"needs {odd}"
    assert out["table constraint c_id_fkey on notes.c"].startswith("needs table notes.a, which ")
    assert (await drill.prove(manifest)).differences == []
    with pytest.raises(BackupFailed, match=r"notes.d cannot be backed up: it needs type notes.odd"):
        await drill.backup(Selection(asked=["notes.d", "notes.c"]))


async def test_a_generated_column_that_cannot_be_made_keeps_its_values(drill: Drill, owner: Connection) -> None:
    await owner.execute("""
        create text search configuration notes.plain (copy = english);
        create table notes.d (id int primary key, body text,
            words tsvector generated always as (to_tsvector('notes.plain', body)) stored,
            twice text generated always as (body || body) virtual) partition by range (id);
        create table notes.d1 partition of notes.d for values from (0) to (10);
        insert into notes.d values (1, 'running cats')
    """)
    manifest = await drill.backup()
    out = {each["name"]: each["reason"] for each in manifest.not_backed_up}
    plain = "needs text search configuration notes.plain, which this release cannot make"
    assert {name: reason for name, reason in out.items() if "words" in name} == {
        "default value for notes.d.words": plain, "default value for notes.d1.words": plain
    }  # fmt: skip
    assert (await drill.prove(manifest)).differences == []
    async with drill.restored(manifest) as url:
        restored = await asyncpg.connect(url)
        [row] = await restored.fetch("select words::text, twice from notes.d")
        await restored.close()
    assert tuple(row) == ("'cat':2 'run':1", "running catsrunning cats")


async def test_casts_come_back(drill: Drill, owner: Connection) -> None:
    await owner.execute("""
        create type notes.mood as enum ('a', 'b'); create cast (varchar as notes.mood) with inout as implicit;
        create type notes.pair as (a int, b int);
        create function notes.short(notes.pair) returns json language sql immutable as 'select to_json($1.a)';
        create cast (notes.pair as json) with function notes.short(notes.pair) as assignment;
        create table notes.t (id int primary key, m notes.mood default 'a'::varchar, p notes.pair);
        insert into notes.t values (1, default, row(1, 2));
        create view notes.v as select id from notes.t where m = 'a'::varchar::notes.mood
    """)
    for selection in (EVERYTHING, Selection(asked=["notes.t"])):
        manifest = await drill.backup(selection)
        assert [each["name"] for each in manifest.not_backed_up] == [NOT_KEPT["name"]]
        assert (await drill.prove(manifest)).differences == []
    assert await drill.differences(await drill.backup()) == ([], [])


async def test_how_a_table_is_stored_keeps_none_out(drill: Drill, owner: Connection) -> None:
    await owner.execute(
        "create access method piled type table handler heap_tableam_handler;"
        "create table notes.t (id int) using piled; insert into notes.t values (1)"
    )
    manifest = await drill.backup()
    assert [table.name for table in manifest.tables] == ["notes.t"]
    assert (await drill.prove(manifest)).differences == []


async def test_objects_outside_the_schemas_are_made_where_they_are_needed(drill: Drill, owner: Connection) -> None:
    await owner.execute("""
        create schema "else where"; create extension citext schema "else where";
        create type "else where".kind as enum ('a');
        create function "else where".kinds() returns "else where".kind[] language sql immutable
            as $$ select '{a}'::"else where".kind[] $$;
        create function "else where".unneeded() returns int language sql as 'select 1';
        create table notes.t (a "else where".kind[] default "else where".kinds(), b "else where".citext)
    """)
    manifest = await drill.backup()
    made = "\n".join(manifest.schema_sql.before_rows)
    assert 'create extension if not exists citext with schema "else where";' in made
    assert "unneeded" not in made
    assert (await drill.prove(manifest)).differences == []


async def test_equal_schemas_give_equal_sql(owner: Connection, url: str, cluster: Cluster) -> None:
    """Whatever the order in which they were made."""
    statements = ["create table notes.a (id int primary key)", "create table notes.b (id int, v text)",
                  "create type notes.z as enum ('z')", "create type notes.y as (a int)",
                  "create view notes.v as select 1 as one", "create sequence notes.s"]  # fmt: skip
    await owner.execute(";".join([*statements, "create view notes.w as select * from notes.v, notes.a"]))
    _, _, one = await taken(url, EVERYTHING)
    with cluster.database() as other:
        cluster.server.psql(other, [*reversed(statements), "create view notes.w as select * from notes.v, notes.a",
                                    "grant select on all tables in schema notes to notes_backup",
                                    "grant select on all sequences in schema notes to notes_backup"])  # fmt: skip
        _, _, two = await taken(cluster.url("notes_backup", other), EVERYTHING)
    assert one == two


COLUMNS = (
    "a int, b int, c int, s varchar(20), t text, n numeric(9, 2), d date, ts timestamptz, arr varchar[], c2 char(2)"
)
CHECKS = ["a between 1 and 5 and b > 0", "a not between 1 and 5 or b > 0", "a between 1 and b", "a in (b, c, 7)",
          "7 in (a, b) or c > 0", "(a, b) < (c, 1)", "(a, b) in ((1, 2), (3, 4))", "not (a in (b, c, 3))",
          "s in ('a', 'it''s', E'\\\\')", "c2 not in ('x', 'y')", "s in (t, 'b', 'c')", "s = any (array['a', 'b'])",
          "s similar to 'a|b'", "s ilike any (array['a', 'b'])", "arr && array['a', 'b']::varchar[]",
          "array_position(array['a', 'b']::text[], s::text) > 0", "n in (1, 2)", "n::numeric(9, 1) > 1",
          "d between '2020-01-01' and '2021-01-01' and a > 0", "(a > 0 or b > 0) or c > 0",
          "a > 0 and (b > 0 and c > 1)",
          "case a when 1 then b > 0 when 2 then c in (a, b) else false end", "s in ('a', t)"]  # fmt: skip
TEXT = "$q$(ARRAY['a'::character varying, 'b'::character varying])::text[]$q$"


async def test_an_expression_that_reads_another_way_is_the_same(drill: Drill, owner: Connection) -> None:
    """PostgreSQL shows it in one way when it is new, and in another when that was read again."""
    checks = ", ".join(f"check ({check})" for check in CHECKS)
    await owner.execute(f"create table notes.t ({COLUMNS}, {checks})")
    for number, check in enumerate(CHECKS):
        await owner.execute(f"create view notes.v{number} as select * from notes.t where {check}")  # noqa: S608  # ours
    await owner.execute(f"create function notes.f() returns text language plpgsql as $$ begin return {TEXT}; end $$")
    await owner.execute("""
        alter table notes.t add column made bool generated always as (a between 1 and 5 and b > 0) stored;
        create index on notes.t (s) where s in ('a', 'b');
        create policy p on notes.t using (a between 1 and 5 and b > 0);
        create domain notes.score as int check (value between 1 and 5 and value <> 3);
        create rule r as on insert to notes.t where new.a between 1 and 5 and new.b > 7 do instead nothing
    """)
    manifest = await drill.backup()
    assert (await drill.prove(manifest)).differences == []
    assert TEXT in "".join(manifest.schema_sql.before_rows), "stored as PostgreSQL said it"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("((a > 1) AND (b > 2))", "(a > 1) AND b > 2", True),
        ("(ARRAY['a'::name, 'b'::name])::text[]", "ARRAY[('a'::name)::text, ('b'::name)::text]", True),
        ("a[1]::text", "a[1]::int", False),
        ("ARRAY[x] = y::text", "ARRAY[x] = y::int", False),
        ("ARRAY['a', 'b']", "ARRAY['a', 'c']", False),
        ("a = '(x)'", "a = 'x'", False),
        ('"(x)" > 1', '"x" > 1', False),
        ("as $a$ (x) $$ $a$", "as $a$ x $$ $a$", False),
        (r"a = E'\\'(' and b = ')'", r"a = E'\\'' and b = ''", False),
        ("a > 1 AND b > 2", "a > 1 OR b > 2", False),
    ],
)
def test_only_parentheses_and_casts_of_arrays_are_looked_over(one: str, other: str, same: bool) -> None:
    assert (tokens(one) == tokens(other)) is same
    assert [*differing({"check": one}, {"check": other})] == [] if same else [("check", one, other)]
    assert ([*differing({one: 1}, {other: 1})] == []) is same


async def test_objects_that_need_each_other_are_named(drill: Drill, owner: Connection) -> None:
    await owner.execute("""
        create domain notes.d as int;
        create function notes.ok(notes.d) returns boolean language sql immutable as 'select $1 > 0';
        alter domain notes.d add constraint positive check (notes.ok(value));
        create table notes.t (d notes.d)
    """)
    manifest = await drill.backup()
    [named] = [each for each in manifest.not_backed_up if "needed by what it needs" in each["reason"]]
    assert named["name"] == "type notes.d"
    [difference] = (await drill.prove(manifest)).differences
    assert difference.what == "restore"


async def test_a_partition_of_a_table_that_is_not_backed_up_is_a_table(drill: Drill, owner: Connection) -> None:
    await owner.execute(
        """
        create schema other;
        create table other.events (id int primary key, v text, unique (id, v), check (id > 0)) partition by range (id);
        create table notes.low partition of other.events for values from (0) to (10);
        create table notes.high partition of other.events for values from (10) to (30) partition by range (id);
        create table notes.highest partition of notes.high for values from (20) to (30);
        insert into other.events values (1), (2), (25)
    """
    )
    manifest = await drill.backup()
    assert (await drill.prove(manifest)).differences == []
    names = [each["name"] for each in manifest.not_backed_up if each != NOT_KEPT]
    assert names == ["inheritance of table notes.high", "inheritance of table notes.low"]


async def test_keys_written_as_text_are_sorted_by_their_code_points(owner: Connection, url: str) -> None:
    """Whatever the database's own collation: here it happens to be the same, so PostgreSQL is asked for its plan."""
    await owner.execute(
        "create table notes.keyed (k jsonb primary key, n int); insert into notes.keyed values ('null')"
    )
    async with snapshot.opened(url, SCHEMAS) as source:
        counted = await source.count(source.tables[0])
        plan = await source.connection.fetch(f"explain (verbose) {counted.table.rows_query}")  # our own
    [sort] = [line[0] for line in plan if "Sort Key" in line[0]]
    assert sort.endswith('COLLATE "C"')


async def test_psql_restores_it(drill: Drill, owner: Connection, cluster: Cluster) -> None:
    await owner.execute(TABLES)
    _, _, sql = await taken(cluster.url("notes_backup", drill.database), EVERYTHING)
    assert sql.before_rows[: len(SESSION)] == SESSION
    with cluster.database("template0") as empty:
        cluster.server.psql(empty, [*sql.before_rows, *sql.after_rows])
        assert cluster.server.psql(empty, ["select count(*) from notes.tagged"]).strip() == "0"
