"""The proof: what it finds, what it cannot say, and what it leaves behind."""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from backup_lambda import blocks
from backup_lambda.blocks import Block
from backup_lambda.catalogue import Table
from backup_lambda.comparison import BlockComparison
from backup_lambda.errors import AwsUnavailable, DatabaseFailed, ProofUnfinished
from backup_lambda.manifest import Manifest, SchemaSql, TableEntry
from backup_lambda.snapshot import Counted, Snapshot
from backup_lambda.store import S3Store
from tests.backup_lambda.drill import Drill, folder, pack_index
from tests.backup_lambda.faulty import ForgetsAColumn, SkipsARow, a
from tests.backup_lambda.world import Connection, World, until
from tests.servers import Cluster

NOTES = """
create table notes.notes (
    id int generated always as identity primary key, body text not null default 'empty', tags int[], about jsonb,
    check (id > 0));
insert into notes.notes (body, tags, about)
select repeat(md5(i::text), 40), array[i], '{"n": 1}' from generate_series(1, 2000) i;
create table notes.few (id int primary key, tags int[], about jsonb, owner text);
insert into notes.few values (1, '{1}', 'null', 'Ada'), (2, '[2:3]={7,8}', null, 'Bob');
create policy own on notes.few using (owner = 'Ada')
"""


@pytest.fixture(scope="module")
def source(cluster: Cluster) -> Iterator[str]:
    """A database that no test changes."""
    with cluster.database() as name:
        reader = "grant select on all tables in schema notes to notes_backup"
        cluster.server.psql(name, [NOTES, reader, reader.replace("tables", "sequences")])
        yield name


@pytest.fixture
def drill(world: World, cluster: Cluster, source: str) -> Drill:
    return Drill(world, cluster, source)


@pytest.fixture
async def server(cluster: Cluster) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(cluster.url("postgres", "postgres"))
    yield connection
    await connection.close()


async def scratch_databases(server: Connection) -> list[str]:
    found = await server.fetch("select datname from pg_database where datname like 'holdfast_proof%' order by 1")
    return [each["datname"] for each in found]


async def test_a_good_backup_is_proven_and_nothing_stays(drill: Drill, server: Connection) -> None:
    manifest = await drill.backup()
    evidence = await drill.prove(manifest)
    assert evidence.differences == []
    assert evidence.rows == 2002
    assert evidence.bytes == sum(table.bytes for table in manifest.tables)
    assert evidence.server == await server.fetchval("show server_version")
    assert await scratch_databases(server) == []


# What an engine with a fault would store: more of faulty.py.


class LosesValues(Snapshot):
    async def copy(self, table: Table, sink: Callable[[bytes], Coroutine[Any, Any, None]]) -> int:
        async def emptied(piece: bytes) -> None:
            await sink(piece.replace(b'"about":"null"', b'"about":null').replace(b'{"n": 1}', b"null    "))

        return await super().copy(table, emptied)


class TakesJsonForEverything(Snapshot):
    """Array bounds are lost, and JSON null is SQL NULL: both sides give the same JSON."""

    async def count(self, table: Table) -> Counted:
        return (await super().count(table))._replace(table=table)


class HasAConstantHash(Snapshot):
    async def row_hash(self, table: Table) -> str:
        return "0"


def without_sequences(source: Snapshot) -> Snapshot:
    return replace(source, sequences=[])


def with_unused_sequences(source: Snapshot) -> Snapshot:
    return replace(source, sequences=[{**each, "max": 5} for each in source.sequences])


def without_the_catalogue(source: Snapshot) -> Snapshot:
    def emptied(table: Table) -> Table:
        return replace(table, catalogue=table.catalogue | {"constraints": [], "policies": []})

    return replace(source, tables=[emptied(table) for table in source.tables])


def rewritten(old: str, new: str) -> Callable[[Snapshot], Snapshot]:
    """The statement that makes something says something else."""

    def lie(source: Snapshot) -> Snapshot:
        text = source.schema_sql.model_dump_json()
        assert old in text
        return replace(source, schema_sql=SchemaSql.model_validate_json(text.replace(old, new)))

    return lie


@pytest.mark.parametrize(
    ("lie", "found"),
    [
        (a(SkipsARow), ("row_hash", "notes.few")),
        (a(ForgetsAColumn), ("catalogue", "notes.few, columns")),
        (a(LosesValues), ("row_hash", "notes.few")),
        (a(TakesJsonForEverything), ("row_hash", "notes.few")),
        (a(HasAConstantHash), ("row_hash", "notes.few")),
        (without_sequences, ("sequence", "notes.notes_id_seq")),
        (with_unused_sequences, ("sequence", "notes.notes_id_seq")),
        (without_the_catalogue, ("catalogue", "notes.few, policy own, using")),
        (lambda source: replace(source, schema_revision={"notes": "0001"}), ("catalogue", "schema_revision")),
        (rewritten("about jsonb", "about json"), ("catalogue", "notes.few, column about, type")),
        (rewritten("'empty'", "''"), ("catalogue", "notes.notes, column body, default")),
        (rewritten("body text not null", "body text"), ("catalogue", "notes.notes, column body, nullable")),
        (rewritten("id > 0", "id > 1 or id = 1"), ("catalogue", "notes.notes, constraint notes_id_check")),
        (rewritten("'Ada'", "'Bob'"), ("catalogue", "notes.few, policy own, using")),
        (rewritten("generated always", "generated by default"), ("catalogue", "notes.notes, column id, identity")),
    ],
)
async def test_a_fault_of_the_engine_is_found(
    drill: Drill, lie: Callable[[Snapshot], Snapshot], found: tuple[str, str]
) -> None:
    evidence = await drill.prove(await drill.backup(lie=lie))
    assert found in [(each.what, each.where) for each in evidence.differences]


# What happens to a backup in the store.


class Altered:
    """A backup whose objects somebody changes, and the manifest that says what they were."""

    def __init__(self, drill: Drill, manifest: Manifest, name: str) -> None:
        self.drill, self.manifest, self.name = drill, manifest, name

    @property
    def entry(self) -> TableEntry:
        return next(table for table in self.manifest.tables if table.name == self.name)

    async def data(self) -> bytes:
        return await self.drill.world.read(folder(self.manifest.id) + self.entry.object)

    async def index(self) -> list[Block]:
        return blocks.unpack_index(await self.drill.world.read(folder(self.manifest.id) + self.entry.index))

    async def write(self, part: str, body: bytes, **known: Any) -> None:
        """`known` are fields that the table's entry gets: what a fault within the engine would write there."""
        world = self.drill.world
        answer = await world.s3.put_object(
            Bucket=world.bucket, Key=folder(self.manifest.id) + getattr(self.entry, part), Body=body
        )
        if part == "object":
            known["etag"] = answer["ETag"]
        self.know(**known)

    def know(self, **known: Any) -> None:
        tables = [
            table.model_copy(update=known) if table.name == self.name else table for table in self.manifest.tables
        ]
        self.manifest = self.manifest.model_copy(update={"tables": tables})


async def deleted(it: Altered) -> None:
    await it.drill.world.s3.delete_object(Bucket=it.drill.world.bucket, Key=folder(it.manifest.id) + it.entry.object)


async def index_deleted(it: Altered) -> None:
    await it.drill.world.s3.delete_object(Bucket=it.drill.world.bucket, Key=folder(it.manifest.id) + it.entry.index)


async def written_again(it: Altered) -> None:
    etag = it.entry.etag
    await it.write("object", await it.data() + b" ")
    it.know(etag=etag)


async def bit_flipped(it: Altered) -> None:
    body = bytearray(await it.data())
    body[len(body) // 2] ^= 1
    await it.write("object", bytes(body))


async def tail_cut(it: Altered) -> None:
    await it.write("object", (await it.data())[:-500])


async def last_block_cut(it: Altered) -> None:
    await it.write("object", (await it.data())[: (await it.index())[-1].offset])


async def longer(it: Altered) -> None:
    await it.write("object", await it.data() + b"more")


async def with_another_index(it: Altered) -> None:
    index = await it.index()
    await it.write("index", pack_index([replace(index[0], first=["0"]), *index[1:]]))


async def with_wrong_keys(it: Altered) -> None:
    index = await it.index()
    body = pack_index([replace(index[0], first=["0"]), *index[1:]])
    await it.write("index", body, index_sha256=hashlib.sha256(body).hexdigest())


async def with_swapped_blocks(it: Altered) -> None:
    """Index and digests know it so: only the order of the rows tells."""
    data, (one, two, *rest) = await it.data(), await it.index()
    members = [data[block.offset : block.offset + block.length] for block in (one, two)]
    swapped = [replace(two, offset=0), replace(one, offset=two.length), *rest]
    body = pack_index(swapped)
    digest = hashlib.sha256()
    new = members[1] + members[0] + data[one.length + two.length :]
    for block in swapped:
        digest.update(zlib.decompress(new[block.offset : block.offset + block.length], wbits=31))
    await it.write("index", body, index_sha256=hashlib.sha256(body).hexdigest())
    await it.write("object", new, sha256=digest.hexdigest())


async def with_a_stale_digest(it: Altered) -> None:
    it.know(sha256=hashlib.sha256(b"of yesterday").hexdigest())


async def with_fewer_rows(it: Altered) -> None:
    it.know(rows=it.entry.rows - 1)


async def with_other_bytes(it: Altered) -> None:
    it.know(bytes=it.entry.bytes - 1)


async def with_another_row(it: Altered) -> None:
    """Whole and checked, but not the row that was counted."""
    new = b'{"id":1,"tags":null,"about":null,"owner":"Eve"}\n'
    it.name = "notes.few"
    packed = blocks.pack(new, ["id"])
    body = pack_index([packed.block])
    await it.write("index", body, index_sha256=hashlib.sha256(body).hexdigest())
    digest = hashlib.sha256(new).hexdigest()
    await it.write("object", packed.member, sha256=digest, bytes=len(new), rows=1, stored_bytes=len(packed.member))


async def with_a_row_that_is_none(it: Altered) -> None:
    new = b'{"id":"of Ada","tags":null,"about":null,"owner":null}\n'
    it.name = "notes.few"
    packed = blocks.pack(new, ["id"])
    body = pack_index([packed.block])
    await it.write("index", body, index_sha256=hashlib.sha256(body).hexdigest())
    digest = hashlib.sha256(new).hexdigest()
    await it.write("object", packed.member, sha256=digest, bytes=len(new), rows=1, stored_bytes=len(packed.member))


async def without_tables(it: Altered) -> None:
    it.manifest = it.manifest.model_copy(update={"tables": []})


async def without_a_table(it: Altered) -> None:
    it.manifest = it.manifest.model_copy(update={"tables": it.manifest.tables[1:]})


@pytest.mark.parametrize(
    ("alter", "what", "where"),
    [
        (deleted, "object", "data/notes.notes.json.gz"),
        (index_deleted, "object", "index/notes.notes.json.gz"),
        (written_again, "object", "data/notes.notes.json.gz"),
        (bit_flipped, "block", "notes.notes"),
        (tail_cut, "block", "notes.notes"),
        (last_block_cut, "block", "notes.notes"),
        (longer, "block", "notes.notes"),
        (with_another_index, "index", "notes.notes"),
        (with_wrong_keys, "block", "notes.notes"),
        (with_swapped_blocks, "bytes", "notes.notes, block 1"),
        (with_a_stale_digest, "block", "notes.notes"),
        (with_fewer_rows, "index", "notes.notes, rows"),
        (with_other_bytes, "bytes", "notes.notes, size"),
        (with_another_row, "row_hash", "notes.few"),
        (with_a_row_that_is_none, "restore", "notes.few"),
        (without_tables, "rows", "manifest.json"),
        (without_a_table, "catalogue", "tables"),
    ],
)
async def test_what_was_done_to_a_backup_is_found(
    drill: Drill, server: Connection, alter: Callable[[Altered], Coroutine[Any, Any, None]], what: str, where: str
) -> None:
    altered = Altered(drill, await drill.backup(), "notes.notes")
    await alter(altered)
    evidence = await drill.prove(altered.manifest)
    assert [each for each in evidence.differences if each.what == what and each.where.startswith(where)]
    assert "of Ada" not in str(evidence), "a row"
    assert await scratch_databases(server) == []


async def test_an_index_that_somebody_wrote_is_not_unpacked(drill: Drill) -> None:
    altered = Altered(drill, await drill.backup(), "notes.notes")
    await altered.write("index", b"no index")
    [found] = (await drill.prove(altered.manifest)).differences
    assert (found.what, found.where) == ("index", "notes.notes")


@pytest.mark.parametrize("code", ["check_violation", "undefined_table", "P0001"])
async def test_what_a_function_raises_is_not_repeated(
    world: World, cluster: Cluster, database: str, owner: Connection, code: str
) -> None:
    await owner.execute(
        """
        create table notes.zz (id int primary key); insert into notes.zz values (1);
        create function notes.ok(t text) returns bool language plpgsql as $$ begin
            if not exists (select from notes.zz) then raise exception '% is secret', t using errcode = 'CODE'; end if;
            return true; end $$;
        create domain notes.checked as text check (notes.ok(value));
        create table notes.aa (id int primary key, v notes.checked); insert into notes.aa values (1, 'of Ada')
        """.replace("CODE", code)
    )
    drill = Drill(world, cluster, database)
    manifest = await drill.backup()
    try:
        said = str((await drill.prove(manifest)).differences)
    except ProofUnfinished as error:
        said = str(error)
    assert "of Ada" not in said
    assert "a function raised an error" in said


async def test_an_error_while_rows_are_read_shows_none(
    world: World, cluster: Cluster, database: str, owner: Connection
) -> None:
    await owner.execute(
        "create table notes.t (id int primary key, v text, n int generated always as (v::int) virtual);"
        "insert into notes.t values (1, 'of Ada')"
    )
    with pytest.raises(DatabaseFailed, match=r"InvalidTextRepresentationError \(22P02\)") as raised:
        await Drill(world, cluster, database).backup()
    assert "of Ada" not in str(raised.value)


async def test_a_function_that_finds_nothing_is_named_with_what_helps(
    world: World, cluster: Cluster, database: str, owner: Connection
) -> None:
    await owner.execute("""
        set search_path = notes;
        create function lower_of(t text) returns text language sql immutable as 'select lower(t)';
        create function searched(t text) returns text language sql immutable as 'select lower_of(t)';
        create table t (id int primary key, v text, made text generated always as (searched(v)) stored);
        insert into t values (1, 'a'); reset search_path
    """)
    drill = Drill(world, cluster, database)
    [found] = (await drill.prove(await drill.backup())).differences
    assert "set search_path on that function" in found.found


# What says nothing about the backup.


async def test_a_value_that_names_an_object_which_is_made_later_says_nothing_of_the_backup(
    world: World, cluster: Cluster, database: str, owner: Connection
) -> None:
    await owner.execute(
        "create table notes.t (id int primary key); create view notes.v as select * from notes.t;"
        "create table notes.audit (id int primary key, about regclass); insert into notes.audit values (1, 'notes.t')"
    )
    drill = Drill(world, cluster, database)
    assert (await drill.prove(await drill.backup())).differences == []
    await owner.execute("insert into notes.audit values (2, 'notes.v')")
    with pytest.raises(ProofUnfinished, match=r"notes\.audit, block 1: a value of a column of type regclass"):
        await drill.prove(await drill.backup())


def changed(manifest: Manifest, **database: str) -> Manifest:
    return manifest.model_copy(update={"database": manifest.database | database})


def with_sql(manifest: Manifest, statement: str, part: str = "before_rows") -> Manifest:
    sql = manifest.schema_sql.model_copy(update={part: [*getattr(manifest.schema_sql, part), statement]})
    return manifest.model_copy(update={"schema_sql": sql})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: changed(m, server_version="17.2"), "use the same"),
        (lambda m: changed(m, locale_provider="libc", collate="xx_XX", ctype="xx_XX"), "like the one"),
        (lambda m: changed(m, locale_provider="icu", locale="en-US"), "install or create that"),
        (lambda m: with_sql(m, "create extension if not exists none_such with schema public;"), "none_such"),
        (lambda m: with_sql(m, "create policy p on notes.few to nobody_here;", "after_rows"), 'role "nobody_here"'),
        (lambda m: with_sql(m, "create function public.f() returns int language none_such as 'x';"), "none_such"),
        (lambda m: with_sql(m, "alter system set work_mem = '1MB';"), "denied.*only a superuser"),
        (lambda m: with_sql(m, "create extension file_fdw with schema public;"), "file_fdw.*only a superuser"),
        (lambda m: with_sql(m, "create function notes.f() returns int leakproof return 1;"), "only a superuser"),
        (lambda m: with_sql(m, "do $$ begin raise exception using errcode = 'disk_full'; end $$;"), "its disk is full"),
        (lambda m: with_sql(m, "select pg_terminate_backend(pg_backend_pid());", "after_rows"), "was lost"),
        (lambda m: with_sql(m, "set statement_timeout = 1; select pg_sleep(9);", "after_rows"), "statement timeout"),
    ],
)  # fmt: skip
async def test_a_proof_that_the_server_cannot_finish_says_nothing_of_the_backup(
    drill: Drill, server: Connection, change: Callable[[Manifest], Manifest], words: str
) -> None:
    with pytest.raises(ProofUnfinished, match=words):
        await drill.prove(change(await drill.backup()))
    assert await scratch_databases(server) == []


async def test_a_block_is_not_named_by_the_keys_of_its_rows() -> None:
    """Its name goes into reasons and mails."""
    block = Block(["of Ada"], ["of Bob"], 0, 1, 1, hashlib.sha256(b"of Ada\n").hexdigest())
    for rows, named in ((b"of Eve\n", "block 1 at 0"), (b"", "block 1 at 0")):
        compared = BlockComparison([block], lambda count: None)
        await compared.feed(rows)
        await compared.close()
        assert compared.differing == named


async def test_a_server_that_is_away_says_nothing_of_the_backup(drill: Drill) -> None:
    manifest = await drill.backup()
    wrong = {
        "Connect call failed": "postgresql://notes_proof:secret@127.0.0.1:9/postgres",
        "password authentication failed": drill.proof_url.replace("password-of", "no-password-of"),
        "cannot be used": "postgresql://127.0.0.1/postgres",
        "permission denied to create database": drill.cluster.url("notes_app", "postgres"),
    }
    for words, url in wrong.items():
        with pytest.raises(ProofUnfinished, match=words) as raised:
            await drill.prove(manifest, url=url)
        assert "secret" not in str(raised.value)


async def test_it_asks_for_room_first(drill: Drill, server: Connection) -> None:
    manifest = await drill.backup()
    needed = 2 * sum(table.bytes for table in manifest.tables)
    with pytest.raises(ProofUnfinished, match="HOLDFAST_PROOF_ROOM_BYTES"):
        await drill.prove(manifest, room_bytes=needed - 1)
    assert (await drill.prove(manifest, room_bytes=needed)).differences == []
    async with drill.restored(manifest):
        with pytest.raises(ProofUnfinished, match=r"others take \d"):
            await drill.prove(manifest.model_copy(update={"id": "20200101T000000Z-00000000"}), room_bytes=needed)


async def test_statements_of_a_backup_that_cannot_be_are_broken(drill: Drill) -> None:
    manifest = await drill.backup()
    for statement in ("create table notes.few ();", "create view v as select * from none_such;", "nonsense;"):
        [found] = (await drill.prove(with_sql(manifest, statement))).differences
        assert (found.what, found.where) == ("restore", statement)


async def test_sql_that_makes_something_else_than_it_says_is_found(drill: Drill) -> None:
    manifest = with_sql(await drill.backup(), "create view notes.v as select 1;", "after_rows")
    first, second = (await drill.prove(manifest)).differences
    assert (first.where, first.found) == ("after_rows, create view notes.v as select 1;", "nothing")
    assert (second.expected, second.what) == ("nothing", "catalogue")


# What it leaves behind, and what it leaves alone.


class Stalling(S3Store):
    """It gives the beginning of an object, and then nothing."""

    async def stream(self, key: str, etag: str) -> AsyncIterator[bytes]:
        async for piece in super().stream(key, etag):
            yield piece[:100]
            await asyncio.Event().wait()


class Breaking(S3Store):
    async def stream(self, key: str, etag: str) -> AsyncIterator[bytes]:
        async for piece in super().stream(key, etag):
            yield piece[:100]
            raise AwsUnavailable("it is gone")


async def test_nothing_stays_of_a_proof_that_is_cancelled(drill: Drill, server: Connection) -> None:
    manifest = await drill.backup()
    proving = asyncio.create_task(drill.prove(manifest, store=Stalling(drill.world.s3, drill.world.bucket)))
    await until(lambda: scratch_databases(server))
    while not proving.done():  # whoever is impatient
        proving.cancel()
        await asyncio.wait([proving], timeout=0.01)
    assert proving.cancelled()
    assert await scratch_databases(server) == []


async def test_nothing_stays_of_a_proof_that_is_cancelled_while_its_database_is_made(
    drill: Drill, server: Connection, cluster: Cluster
) -> None:
    manifest = await drill.backup()
    making = "select pid from pg_stat_activity where query ^@ 'create database' and wait_event_type = 'Lock'"
    other = await asyncpg.connect(cluster.url("postgres", "postgres"))
    holding = other.transaction()
    await holding.start()
    await other.execute("lock table pg_database in share mode")
    proving = asyncio.create_task(drill.prove(manifest))
    await until(lambda: server.fetch(making))
    proving.cancel()
    await asyncio.wait([proving], timeout=0.3)
    await holding.rollback()
    await other.close()
    await asyncio.wait([proving])
    assert proving.cancelled()
    assert not await server.fetch("select from pg_stat_activity where query ^@ 'create database' and state = 'active'")
    assert await scratch_databases(server) == []


async def test_nothing_stays_when_the_store_is_away(drill: Drill, server: Connection) -> None:
    manifest = await drill.backup()
    with pytest.raises(AwsUnavailable):
        await drill.prove(manifest, store=Breaking(drill.world.s3, drill.world.bucket))
    assert await scratch_databases(server) == []


async def test_what_dead_proofs_left_is_dropped_and_nothing_else(
    drill: Drill, cluster: Cluster, server: Connection
) -> None:
    manifest = await drill.backup()
    own = f"holdfast_proof_{manifest.id.lower().replace('-', '_')}"
    made = await server.fetchval("""select to_char(now() at time zone 'UTC', 'YYYYMMDD"t"HH24MISS"z"')""")
    gone = [f"{own}_{made}_0001", "holdfast_proof_20200101t000000z_00000001_20200101t000000z_0001"]
    kept = {
        f"holdfast_proof_20200101t000000z_00000001_{made}_0001": "notes_proof",  # another proof that runs
        "holdfast_proof_20200101t000000z_00000001_20200101t000000z_0002": "postgres",  # somebody else's
        "holdfast_proof_of_concept": "notes_proof",
    }
    for name, owner in {**dict.fromkeys(gone, "notes_proof"), **kept}.items():
        await server.execute(f"create database {name} owner {owner}")
    try:
        assert (await drill.prove(manifest)).differences == []
        assert await scratch_databases(server) == sorted(kept)
    finally:
        for name in [*gone, *kept]:
            await server.execute(f"drop database if exists {name}")


async def test_the_proofs_role_sees_no_live_row_and_others_see_no_scratch_database(
    drill: Drill, cluster: Cluster
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(cluster.url("notes_proof", "holdfast"))
    async with drill.restored(await drill.backup()) as url:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(url.replace("notes_proof", "notes_app"))


async def test_policies_that_bind_the_owner_are_restored_and_do_not_hide_rows(
    world: World, cluster: Cluster, database: str, owner: Connection
) -> None:
    await owner.execute(
        "create table notes.hidden (id int primary key); insert into notes.hidden values (1), (2);"
        "create policy none on notes.hidden using (false);"
        "alter table notes.hidden enable row level security; alter table notes.hidden force row level security"
    )
    drill = Drill(world, cluster, database, "postgres")
    manifest = await drill.backup()
    evidence = await drill.prove(manifest)
    assert (evidence.differences, evidence.rows) == ([], 2)
    forced = "alter table only notes.hidden force row level security;"
    assert forced in manifest.schema_sql.after_rows
    without = [line for line in manifest.schema_sql.after_rows if line != forced]
    sql = manifest.schema_sql.model_copy(update={"after_rows": without})
    [found] = (await drill.prove(manifest.model_copy(update={"schema_sql": sql}))).differences
    assert (found.what, found.where) == ("catalogue", "notes.hidden, row_security_forced")
