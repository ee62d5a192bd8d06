"""One row out of a backup: the very text that is stored, by an index and a block."""

import base64
import gzip
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from backup_lambda import rows
from backup_lambda.manifest import object_name
from backup_lambda.worker import Worker
from tests.backup_lambda.keyed import Tables, small_blocks
from tests.backup_lambda.recorded import have_progress
from tests.backup_lambda.test_api import FIRST, assert_problem
from tests.backup_lambda.world import Connection, World, a_long_time, utc_now, worker_for
from tests.servers import Cluster

SEVERAL_BLOCKS = """
create table notes.many (id int primary key, body text);
insert into notes.many select n, repeat(md5(n::text), 4) from generate_series(10, 60000, 10) n
"""


@pytest.fixture
def storing(world: World, cluster: Cluster, database: str) -> Worker:
    """It only stores."""
    return worker_for(world, cluster.url("notes_backup", database))


def encoded(*values: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(values, ensure_ascii=False).encode()).decode().rstrip("=")


async def backed_up(world: World, worker: Worker) -> str:
    """The id of a backup of the database as it is."""
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) in ("stored", "proven", "suspect")
    return backup_id


async def damage(world: World, backup_id: str, table: str, key: int) -> None:
    """Let the block that has a row hold other bytes, of an object that the manifest knows."""
    manifest = await world.read_json(f"backups/{backup_id}/manifest.json")
    entry = next(each for each in manifest["tables"] if each["name"] == table)
    index = gzip.decompress(await world.read(f"backups/{backup_id}/{entry['index']}")).splitlines()
    block = next(each for each in map(json.loads, index) if int(each["first"][0]) <= key <= int(each["last"][0]))
    body = bytearray(await world.read(f"backups/{backup_id}/{entry['object']}"))
    body[block["offset"] + block["length"] // 2] ^= 0x55
    put = await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{backup_id}/{entry['object']}", Body=bytes(body))
    entry["etag"] = put["ETag"]
    await world.write(f"backups/{backup_id}/manifest.json", manifest)


async def test_a_row_is_one_index_and_one_block(
    api: httpx.AsyncClient, world: World, storing: Worker, owner: Connection
) -> None:
    await owner.execute(SEVERAL_BLOCKS)
    backup_id = await backed_up(world, storing)
    sent: list[tuple[str, Any]] = []

    def note(request: Any, **_: object) -> None:
        sent.append((request.url.partition(backup_id)[2], request.headers.get("Range")))

    world.s3.meta.events.register("before-send.s3.GetObject", note)
    for number in (10, 29990, 60000):
        sent.clear()
        answer = await api.get(f"/backups/{backup_id}/tables/many/rows/{number}")
        wanted = await owner.fetchval("select row_to_json(m)::text from notes.many m where id = $1", number)
        assert answer.json() == {
            "backup_id": backup_id,
            "table": "notes.many",
            "key": [str(number)],
            "row": json.loads(wanted),
        }
        assert [name for name, _ in sent] == [
            "/manifest.json",
            "/index/notes.many.json.gz",
            "/data/notes.many.json.gz",
        ]
        first, last = map(int, sent[-1][1].removeprefix(b"bytes=").split(b"-"))
        assert last - first < 256 * 1024
    for number in (0, 15, 29995, 60010):
        problem = assert_problem(await api.get(f"/backups/{backup_id}/tables/many/rows/{number}"), 404, "row-not-found")
        assert "notes.many has no row with this key" in problem["detail"]


@pytest.mark.parametrize("seed", [4])
async def test_a_row_is_found_by_a_key_of_any_type(
    world: World, storing: Worker, owner: Connection, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    small_blocks(monkeypatch)
    tables = Tables(owner, seed)
    await tables.make()
    backup_id, all_rows = await backed_up(world, storing), await tables.rows()
    for name, of_table in all_rows.items():
        for key, (text, _) in tables.chance.sample(sorted(of_table.items()), 2):
            body = await rows.row(world.store, backup_id, name, encoded(*map(plain, json.loads(key))), utc_now)
            assert body.endswith(f'"row": {text}}}'.encode()), (name, key)
            assert json.dumps(json.loads(body)["key"]) == key


def plain(value: str) -> object:
    """As one would write an array in JSON."""
    return json.loads(value) if value.startswith("[") else value


async def test_a_key_is_typed_in_many_ways(
    api: httpx.AsyncClient, world: World, storing: Worker, owner: Connection
) -> None:
    await owner.execute("""
        create table notes.whole (id int primary key); insert into notes.whole values (7), (-3);
        create table notes.exact (id numeric primary key);
        insert into notes.exact values (1.10), (12345678901234567890.1);
        create table notes.named (id text primary key);
        insert into notes.named values ('7'), ('a b/c'), ('WzFd'), ('é');
        create table notes.ids (id uuid primary key);
        insert into notes.ids values ('0e37df36-f698-11e6-8dd4-cb9ced3df976');
        create table notes.pairs (a text, b int, primary key (b, a)); insert into notes.pairs values ('x', 1);
        create table notes.moments (at timestamptz primary key);
        insert into notes.moments values ('2026-11-22 02:00:00.5+00');
        create table notes.yes (is_so bool primary key); insert into notes.yes values (true);
        create table notes.keyless (id int); insert into notes.keyless values (1);
        create table notes."a/b" (id int primary key); insert into notes."a/b" values (1)
    """)
    backup_id = await backed_up(world, storing)
    uuid = "0E37DF36-F698-11E6-8DD4-CB9CED3DF976"
    found = [
        ("whole", "7", ["7"]), ("whole", "007", ["7"]), ("whole", "-3", ["-3"]), ("whole", encoded(7), ["7"]),
        ("whole", encoded("7"), ["7"]),
        ("exact", "1.1", ["1.10"]), ("exact", "12345678901234567890.1", ["12345678901234567890.1"]),
        ("named", "7", ["7"]), ("named", encoded("7"), ["7"]), ("named", encoded(7), ["7"]),
        ("named", encoded("a b/c"), ["a b/c"]), ("named", encoded("WzFd"), ["WzFd"]), ("named", "%C3%A9", ["é"]),
        ("ids", uuid, [uuid.lower()]), ("ids", uuid.lower().replace("-", ""), [uuid.lower()]),
        ("pairs", encoded(1, "x"), ["1", "x"]),
        ("moments", "2026-11-22T02:00:00.5Z", ["2026-11-22T02:00:00.5+00:00"]),
        ("moments", encoded("2026-11-22 02:00:00.5+00:00"), ["2026-11-22T02:00:00.5+00:00"]),
        ("yes", "true", ["true"]), ("yes", encoded(True), ["true"]),
        (quote("notes.a/b", safe=""), "1", ["1"]), (quote(object_name("notes", "a/b"), safe=""), "1", ["1"]),
    ]  # fmt: skip
    for table, key, stored in found:
        answer = await api.get(f"/backups/{backup_id}/tables/{table}/rows/{key}")
        assert (answer.status_code, answer.json().get("key")) == (200, stored), (table, key, answer.text)
    for table, key, said in [
        ("whole", "x", "It consists of: id (integer)"),
        ("whole", encoded(None), "No row can have this key"),
        ("whole", "8", "has no row with this key"),
        ("whole", "7" * 400, "has no row with this key"),
        ("exact", "1e" + "9" * 30, "No row can have this key"),
        ("named", "WzFd", "has no row with this key"),  # it is the encoded form of 1
        ("pairs", "1", "It consists of: b (integer), a (text)"),
        ("ids", "0", "No row can have this key"),
        ("keyless", "1", "no primary key"),
    ]:
        problem = assert_problem(await api.get(f"/backups/{backup_id}/tables/{table}/rows/{key}"), 404, "row-not-found")
        assert said in problem["detail"], (table, key)
    assert_problem(await api.get(f"/backups/{backup_id}/tables/nothing/rows/1"), 404, "table-not-found")


async def test_what_a_row_holds_is_not_read(world: World, storing: Worker, owner: Connection) -> None:
    """Numbers keep every digit, and a document may be deeper than a parser goes."""
    deep = 5000 * "[" + 5000 * "]"
    await owner.execute(f"""
        create table notes.raw (n numeric, doc jsonb, id int primary key, f float8);
        insert into notes.raw values (3.{"0123456789" * 30}00, '{deep}', 1, 'NaN')
    """)  # noqa: S608  # our own
    backup_id = await backed_up(world, storing)
    body = await rows.row(world.store, backup_id, "raw", "1", utc_now)
    text = await owner.fetchval("select row_to_json(r)::text from notes.raw r")
    head = {"backup_id": backup_id, "table": "notes.raw", "key": ["1"]}
    assert body.decode() == json.dumps(head)[:-1] + f', "row": {text}}}'


async def test_a_row_that_is_too_large_is_refused(
    api: httpx.AsyncClient, world: World, storing: Worker, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the answer as the gateway gets it: a text in JSON, and ASCII."""
    await owner.execute("""
        create table notes.large (id int primary key, t text);
        insert into notes.large values (1, repeat('x', 4900000)), (2, repeat('雪', 900000)), (3, 'small')
    """)
    backup_id = await backed_up(world, storing)
    sizes = {}
    for number in (1, 2, 3):
        answer = await api.get(f"/backups/{backup_id}/tables/large/rows/{number}")
        sizes[number] = answer.status_code
    assert sizes == {1: 200, 2: 413, 3: 200}
    monkeypatch.setattr("backup_lambda.tables.LARGEST_BLOCK_BYTES", 4_000_000)
    answer = await api.get(f"/backups/{backup_id}/tables/large/rows/1")
    problem = assert_problem(answer, 413, "row-too-large")
    assert f"GET /backups/{backup_id}/tables/notes.large" in problem["detail"]
    monkeypatch.setattr("backup_lambda.tables.SEARCHED_BYTES", 1000)
    monkeypatch.setattr("backup_lambda.tables.RUN_BYTES", 500)
    small_blocks(monkeypatch)
    await owner.execute("""
        create table notes.nets (at inet primary key);
        insert into notes.nets select '10.0.0.0'::inet + n from generate_series(1, 1000) n
    """)
    backup_id = await backed_up(world, storing)
    assert (await api.get(f"/backups/{backup_id}/tables/nets/rows/10.0.0.2")).json()["row"] == {"at": "10.0.0.2"}
    answer = await api.get(f"/backups/{backup_id}/tables/nets/rows/10.0.3.200")
    problem = assert_problem(answer, 413, "row-too-large")
    assert "in an order that only PostgreSQL knows, that of its key (inet)" in problem["detail"]
    assert f"GET /backups/{backup_id}/tables/notes.nets" in problem["detail"]


async def test_a_damaged_block_is_refused_and_the_others_are_not(
    api: httpx.AsyncClient, world: World, storing: Worker, owner: Connection
) -> None:
    await owner.execute(SEVERAL_BLOCKS)
    backup_id = await backed_up(world, storing)
    await damage(world, backup_id, "notes.many", key=30000)
    path = f"/backups/{backup_id}/tables/many/rows"
    assert (await api.get(f"{path}/10")).status_code == 200
    said = assert_problem(await api.get(f"{path}/30000"), 409, "block-damaged")["detail"]
    for part in (backup_id, "notes.many", "the block at ", f"POST /backups/{backup_id}/proofs", "/{key}/history"):
        assert part in said
    index = f"backups/{backup_id}/index/notes.many.json.gz"
    body = await world.read(index)
    for harm, what in [(gzip.compress(b"{}\n"), "its index is not the one"), (None, "its index is missing")]:
        if harm:
            await world.s3.put_object(Bucket=world.bucket, Key=index, Body=harm)
        else:
            await world.s3.delete_object(Bucket=world.bucket, Key=index)
        assert what in assert_problem(await api.get(f"{path}/10"), 409, "block-damaged")["detail"]
    await world.s3.put_object(Bucket=world.bucket, Key=index, Body=body)
    await world.s3.put_object(
        Bucket=world.bucket, Key=f"backups/{backup_id}/data/notes.many.json.gz", Body=b"something else"
    )
    assert "its rows are missing" in assert_problem(await api.get(f"{path}/10"), 409, "block-damaged")["detail"]


async def test_a_row_of_a_backup_without_data(
    api: httpx.AsyncClient, world: World, storing: Worker, owner: Connection
) -> None:
    await owner.execute("create table notes.x (id int primary key); insert into notes.x values (1)")
    expired, running = await backed_up(world, storing), await world.wish()
    await have_progress(world, running)
    await world.write(f"backups/{expired}/expired.json", {})
    for backup_id, status, kind in [
        (expired, 410, "backup-expired"),
        (running, 409, "backup-not-ready"),
        (FIRST, 404, "backup-not-found"),
        ("x", 404, "backup-not-found"),
    ]:
        assert_problem(await api.get(f"/backups/{backup_id}/tables/x/rows/1"), status, kind)
