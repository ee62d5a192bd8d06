"""The format of a backup, as anybody reads it: with gzip and JSON, and PostgreSQL's word on what must be in it."""

import asyncio
import gzip
import hashlib
import json
import zlib
from typing import Any

import pytest

from backup_lambda.ddl import NOT_KEPT
from backup_lambda.worker import Worker
from tests.backup_lambda.world import Connection, World, a_long_time

AWKWARD = r"""
set search_path = notes;
create type mood as enum ('sad', 'glad');
create type pair as (a int, doc json);
create domain document as json;
create table notes (
    id uuid primary key default uuidv7(), title text not null, tags text[], metadata jsonb default '{}',
    created_at timestamptz default now());
insert into notes (title, tags, metadata) values
    (E'back\\slash "quote" \t tab \n newline', '{a,"b c"}', '{"n": 12345678901234567890.123456789, "e": 1e400}'),
    ('ünïcödé 👩‍👩‍👧 \u2028', '{}', null);
create table "We""ird. Näme/%" ("t" text primary key, "select" int, "r" text, " "" " int);
insert into "We""ird. Näme/%" values ('b', 1), ('B', 2), ('ä', 3), ('a', 4), ('Z', 5);
create table composite (kind mood, "from" int, code char(3), primary key (code, "from"));
insert into composite values ('glad', 10, 'abc'), ('sad', 9, 'abc'), ('sad', 100, 'ab');
create table no_key (x int, y text);
insert into no_key values (2, 'b'), (1, 'b'), (1, 'a'), (1, 'a'), (null, null);
create table documents (id int primary key, plain json, deep pair, many json[], typed document);
insert into documents values
    (1, E'{"a":\n 1, "a": 2}', row(1, E'[\n]'), array[E'{"x":\n1}'::json], E'{\n}'), (2, null, null, null, 'null');
create table made (
    id int generated always as identity primary key, base numeric,
    twice numeric generated always as (base * 2) stored, thrice numeric generated always as (base * 3) virtual);
insert into made (base) values (12345678901234567890.123456789), ('NaN'), ('Infinity'), (-0.0), (1e-20);
create table kinds (
    id bigint primary key, f float8, i interval, b bytea, r int4range, d date, m money, bits bit(3), x text);
insert into kinds values
    (9223372036854775807, 0.30000000000000004, '1 year 2 days', '\xdeadbeef', '[1,5)', 'infinity', 3, b'101', '');
create table empty (id int primary key);
create table no_columns ();
insert into no_columns default values;
insert into no_columns default values;
create table parts (id int primary key, v text) partition by range (id);
create table parts_low partition of parts for values from (0) to (10);
create table parts_high partition of parts for values from (10) to (20);
insert into parts values (15, 'high'), (5, 'low');
create table parent (id int primary key);
create table child (extra text) inherits (parent);
insert into parent values (1);
insert into child values (2, 'of the child');
create materialized view seen as select 1 as one;
create table alembic_version (version_num varchar(32) primary key);
insert into alembic_version values ('0007_rows');
"""
PINNED = "set timezone = 'UTC'; set intervalstyle = 'postgres'; set bytea_output = 'hex'; set extra_float_digits = 3"


@pytest.fixture
async def awkward(owner: Connection) -> Connection:
    await owner.execute(AWKWARD)
    await owner.execute(f"reset search_path; {PINNED}")
    return owner


async def backup(worker: Worker, world: World) -> dict[str, Any]:
    """Makes one; its manifest."""
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    manifest: dict[str, Any] = await world.read_json(f"backups/{backup_id}/manifest.json")
    return manifest


async def lines(world: World, manifest: dict[str, Any], table: str) -> list[str]:
    entry = next(each for each in manifest["tables"] if each["name"] == table)
    return gzip.decompress(await world.read(f"backups/{manifest['id']}/{entry['object']}")).decode().splitlines()


async def test_rows_are_the_text_that_postgresql_gives(worker: Worker, world: World, awkward: Connection) -> None:
    manifest = await backup(worker, world)
    for name, source, order in [
        ("notes.notes", "notes.notes", "t.id"),
        ('notes.We"ird. Näme/%', 'notes."We""ird. Näme/%"', 't.t collate "C"'),
        ("notes.composite", "notes.composite", 't.code collate "C", t."from"'),
        ("notes.made", "notes.made", "t.id"),
        ("notes.kinds", "notes.kinds", "t.id"),
        ("notes.empty", "notes.empty", "t.id"),
        ("notes.no_key", "notes.no_key", '(t.*)::text collate "C"'),
        ("notes.no_columns", "notes.no_columns", "1"),
        ("notes.parts", "notes.parts", "t.id"),
        ("notes.parent", "only notes.parent", "t.id"),
        ("notes.child", "only notes.child", "t.id"),
    ]:
        query = f"select row_to_json(t.*)::text from {source} as t order by {order}"  # noqa: S608  # from the list above
        expected = [each[0] for each in await awkward.fetch(query)]
        assert await lines(world, manifest, name) == expected, name
    assert [table["name"] for table in manifest["tables"]] == sorted(table["name"] for table in manifest["tables"])
    assert not [table for table in manifest["tables"] if table["name"].startswith("notes.parts_")]


async def test_columns_that_hold_json_text_are_written_as_text(
    worker: Worker, world: World, awkward: Connection
) -> None:
    manifest = await backup(worker, world)
    first, second = [json.loads(line) for line in await lines(world, manifest, "notes.documents")]
    row = await awkward.fetchrow(
        "select plain::text, deep::text, many::text, typed::text from notes.documents where id = 1"
    )
    assert row is not None
    assert first == {"id": 1, **dict(row)}
    assert second == {"id": 2, "plain": None, "deep": None, "many": None, "typed": "null"}, "JSON null is not SQL NULL"
    columns = next(t for t in manifest["tables"] if t["name"] == "notes.documents")["catalogue"]["columns"]
    assert [column["written_as"] for column in columns] == ["json", "text", "text", "text", "text"]


async def test_the_manifest_says_what_there_is(worker: Worker, world: World, awkward: Connection) -> None:
    await awkward.execute("select lo_create(0)")
    manifest = await backup(worker, world)
    by_name = {table["name"]: table for table in manifest["tables"]}
    for table in manifest["tables"]:
        stored = await world.read(f"backups/{manifest['id']}/{table['object']}")
        rows = gzip.decompress(stored)
        assert (table["bytes"], table["stored_bytes"]) == (len(rows), len(stored))
        assert (table["rows"], table["sha256"]) == (rows.count(b"\n"), hashlib.sha256(rows).hexdigest())
    assert by_name["notes.notes"]["object"] == "data/notes.notes.json.gz"
    assert by_name['notes.We"ird. Näme/%']["object"] == "data/notes.We%22ird%2E%20N%C3%A4me%2F%25.json.gz"
    assert by_name["notes.composite"]["primary_key"] == ["code", "from"]
    found = await awkward.fetchval("select sum(hashtextextended((t.*)::text, 0)::numeric)::text from notes.kinds t")
    assert by_name["notes.kinds"]["row_hash"] == found
    generated = {c["name"]: (c["identity"], c["generated"]) for c in by_name["notes.made"]["catalogue"]["columns"]}
    assert generated == {"id": ("a", None), "base": (None, None), "twice": (None, "s"), "thrice": (None, "v")}
    assert {each["name"] for each in manifest["not_backed_up"]} == {"notes.seen", "large objects", NOT_KEPT["name"]}
    assert manifest["format"] == 1
    assert manifest["schema_revision"] == {"notes": "0007_rows", "scheduler": None}
    [sequence] = manifest["sequences"]
    assert (sequence["name"], sequence["last_value"], sequence["is_called"]) == ("notes.made_id_seq", 5, True)
    assert manifest["database"]["system_identifier"] == await awkward.fetchval(
        "select system_identifier::text from pg_control_system()"
    )
    assert manifest["previous"] is None
    assert (await backup(worker, world))["previous"] == {
        "id": manifest["id"],
        "sha256": hashlib.sha256(await world.read(f"backups/{manifest['id']}/manifest.json")).hexdigest(),
    }


async def test_one_row_is_found_with_one_ranged_get(worker: Worker, world: World, owner: Connection) -> None:
    await owner.execute(
        "create table notes.many as select i as id, repeat(md5(i::text), 30) as body from generate_series(1, 6000) i;"
        "alter table notes.many add primary key (id)"
    )
    manifest = await backup(worker, world)
    entry = manifest["tables"][0]
    index = [
        json.loads(line)
        for line in gzip.decompress(await world.read(f"backups/{manifest['id']}/{entry['index']}")).splitlines()
    ]
    assert len(index) > 4
    assert sum(block["rows"] for block in index) == 6000
    assert [block["offset"] for block in index[1:]] == [b["offset"] + b["length"] for b in index[:-1]]
    block = next(each for each in index if int(each["first"][0]) <= 4321 <= int(each["last"][0]))
    answer = await world.s3.get_object(
        Bucket=world.bucket,
        Key=f"backups/{manifest['id']}/{entry['object']}",
        Range=f"bytes={block['offset']}-{block['offset'] + block['length'] - 1}",
    )
    member = await answer["Body"].read()
    assert member[4:8] == bytes(4), "no time in the gzip header"
    rows = zlib.decompress(member, wbits=31)
    assert hashlib.sha256(rows).hexdigest() == block["sha256"]
    found = [row for row in map(json.loads, rows.splitlines()) if row["id"] == 4321]
    assert found == [{"id": 4321, "body": hashlib.md5(b"4321").hexdigest() * 30}]  # noqa: S324  # as PostgreSQL made it


async def test_keys_in_the_index_are_exact(worker: Worker, world: World, owner: Connection) -> None:
    await owner.execute(
        "create table notes.exact (n numeric, t text, primary key (n, t));"
        "insert into notes.exact values (12345678901234567890.10, 'é'), (0.30000000000000004, '')"
    )
    manifest = await backup(worker, world)
    index = gzip.decompress(await world.read(f"backups/{manifest['id']}/index/notes.exact.json.gz"))
    block = json.loads(index)
    assert (block["first"], block["last"]) == (["0.30000000000000004", ""], ["12345678901234567890.10", "é"])


async def test_zcat_shows_the_rows(worker: Worker, world: World, owner: Connection) -> None:
    await owner.execute(
        "create table notes.many as select i as id, repeat(md5(i::text), 30) as body from generate_series(1, 3000) i;"
        "alter table notes.many add primary key (id); create table notes.none (id int)"
    )
    manifest = await backup(worker, world)
    for name, head in [("many", ['{"id":1,"body":"c4ca', '{"id":2,"body":"c81e']), ("none", [])]:
        stored = await world.read(f"backups/{manifest['id']}/data/notes.{name}.json.gz")
        zcat = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            "zcat | head -n 2",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await zcat.communicate(stored)
        assert [line[: len(start)] for line, start in zip(out.decode().splitlines(), head, strict=True)] == head
        assert err == b""


async def test_the_same_rows_give_the_same_blocks(worker: Worker, world: World, awkward: Connection) -> None:
    """Compressed they may differ by a byte: isal promises no more than that they can be decompressed."""
    await awkward.execute(
        "create table notes.many as select i as id, repeat(md5(i::text), 30) as body from generate_series(1, 4000) i;"
        "alter table notes.many add primary key (id)"
    )
    first = await backup(worker, world)
    # The rows change their places on the disk, and a role's own settings would change how they are written.
    await awkward.execute("update notes.many set id = id where id % 7 = 0")
    await awkward.execute("vacuum full notes.many")
    second = await backup(worker, world)
    for one, two in zip(first["tables"], second["tables"], strict=True):
        compressed = dict.fromkeys(("etag", "stored_bytes", "index_sha256"))
        assert {**one, **compressed} == {**two, **compressed}
        paths = [f"backups/{each['id']}/" for each in (first, second)]
        rows = [gzip.decompress(await world.read(path + one["object"])) for path in paths]
        assert rows[0] == rows[1]
        indexes = [gzip.decompress(await world.read(path + one["index"])).splitlines() for path in paths]
        blocks = [[json.loads(line) | {"offset": 0, "length": 0} for line in index] for index in indexes]
        assert blocks[0] == blocks[1]


async def test_settings_of_the_role_change_nothing(
    worker: Worker, world: World, awkward: Connection, database: str
) -> None:
    first = await backup(worker, world)
    for setting in ("timezone = 'Asia/Tokyo'", "datestyle = 'German'", "bytea_output = 'escape'",
                    "extra_float_digits = 0", "intervalstyle = 'iso_8601'", "search_path = 'notes'",
                    "statement_timeout = 1", "transaction_timeout = 1"):  # fmt: skip
        await awkward.execute(f'alter role notes_backup in database "{database}" set {setting}')
    second = await backup(worker, world)
    assert [t["sha256"] for t in first["tables"]] == [t["sha256"] for t in second["tables"]]
    assert [t["row_hash"] for t in first["tables"]] == [t["row_hash"] for t in second["tables"]]


async def test_rows_of_after_the_snapshot_are_not_in_it(worker: Worker, world: World, owner: Connection) -> None:
    await owner.execute(
        "create table notes.a (id int primary key); insert into notes.a values (1);"
        "create table notes.b (id int primary key); insert into notes.b values (1)"
    )

    async def add_a_row(request: Any, **_: Any) -> None:
        if "data/notes.a" in request.url:
            await owner.execute("insert into notes.b values (2)")

    world.s3.meta.events.register("before-send.s3.PutObject", add_a_row)
    manifest = await backup(worker, world)
    assert await owner.fetchval("select count(*) from notes.b") == 2
    assert {table["name"]: table["rows"] for table in manifest["tables"]} == {"notes.a": 1, "notes.b": 1}


async def test_values_that_json_cannot_carry_are_written_as_text(
    worker: Worker, world: World, owner: Connection
) -> None:
    """Only where there are such values: a column without them stays readable as JSON."""
    await owner.execute(
        "create schema extensions; create extension hstore schema extensions; set search_path = notes, extensions;"
        "create type inner_array as (numbers int[]); create domain doc as jsonb; create domain list as int[];"
        "create table lossy (id int primary key, doc jsonb, typed doc, many int[], square int[], typed_many list,"
        "  deep inner_array, docs jsonb[], pairs hstore);"
        "create table exact (like lossy including all);"
        """insert into lossy values (1, 'null', 'null', '[2:3]={7,8}', '[1:1][0:1]={{7,8}}', '[0:0]={1}',"""
        """  row('[0:0]={1}'), array['null'::jsonb], 'a=>1, b=>NULL'); insert into lossy values (2);"""
        """insert into exact values (1, '{"a": null}', '[null]', '{7,8}', '{{7,8},{9,10}}', '{}', null, null, null);"""
        "reset search_path"
    )
    manifest = await backup(worker, world)
    written = {
        table["name"]: {column["name"]: column["written_as"] for column in table["catalogue"]["columns"]}
        for table in manifest["tables"]
    }
    always = {"deep": "text", "docs": "text", "pairs": "text"}
    sometimes = ["doc", "typed", "many", "square", "typed_many"]
    assert written["notes.lossy"] == {"id": "json", **dict.fromkeys(sometimes, "text"), **always}
    assert written["notes.exact"] == {"id": "json", **dict.fromkeys(sometimes, "json"), **always}
    columns = [*sometimes, *always]
    as_text = ", ".join(f"{name}::text" for name in columns)
    row = await owner.fetchrow(f"select {as_text} from notes.lossy where id = 1")  # noqa: S608  # from the list above
    first, second = [json.loads(line) for line in await lines(world, manifest, "notes.lossy")]
    assert row is not None
    assert first == {"id": 1, **dict(zip(columns, row, strict=True))}
    assert second == {"id": 2, **dict.fromkeys(columns)}
    [exact] = [json.loads(line) for line in await lines(world, manifest, "notes.exact")]
    assert (exact["doc"], exact["many"], exact["square"]) == ({"a": None}, [7, 8], [[7, 8], [9, 10]])


async def test_a_table_of_which_json_would_lose_everything(worker: Worker, world: World, owner: Connection) -> None:
    await owner.execute(
        "create table notes.lossy (doc jsonb, many int[]);"
        "insert into notes.lossy values ('null', '[0:0]={1}'), (null, null), ('1', '{1}'), ('1', '{1}')"
    )
    manifest = await backup(worker, world)
    assert [json.loads(line) for line in await lines(world, manifest, "notes.lossy")] == [
        {"doc": None, "many": None},
        {"doc": "1", "many": "{1}"},
        {"doc": "1", "many": "{1}"},
        {"doc": "null", "many": "[0:0]={1}"},
    ]


async def test_a_key_that_is_written_as_text_is_ordered_as_text(
    worker: Worker, world: World, owner: Connection
) -> None:
    await owner.execute(
        "create table notes.keyed (k jsonb primary key); insert into notes.keyed values ('null'), ('\"B\"'), ('\"a\"')"
    )
    manifest = await backup(worker, world)
    assert [json.loads(line)["k"] for line in await lines(world, manifest, "notes.keyed")] == ['"B"', '"a"', "null"]


async def test_a_partition_of_a_table_that_is_not_backed_up_is_backed_up(
    worker: Worker, world: World, owner: Connection
) -> None:
    await owner.execute(
        "create schema other; create table other.events (id int primary key) partition by range (id);"
        "create table notes.low partition of other.events for values from (0) to (10);"
        "create table notes.high partition of other.events for values from (10) to (30) partition by range (id);"
        "create table notes.highest partition of notes.high for values from (20) to (30);"
        "insert into other.events values (1), (2), (25)"
    )
    manifest = await backup(worker, world)
    assert {table["name"]: table["rows"] for table in manifest["tables"]} == {"notes.low": 2, "notes.high": 1}


async def test_a_document_that_is_too_deep_for_pythons_parser_is_backed_up(
    worker: Worker, world: World, owner: Connection
) -> None:
    await owner.execute(
        """create table notes.deep (doc jsonb, "k""e\\y" text primary key);"""
        """insert into notes.deep values"""
        """ ((repeat('[{"k\\"e\\\\y":', 3000) || '1' || repeat('}]', 3000))::jsonb, '}",{')"""
    )
    manifest = await backup(worker, world)
    index = gzip.decompress(await world.read(f"backups/{manifest['id']}/index/notes.deep.json.gz"))
    assert json.loads(index)["first"] == ['}",{']
