"""Restores: asked for, refused, followed; a whole backup in a new database; and what becomes of those that fail."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from backup_lambda import backups, notices, restores
from backup_lambda.lease import TAKEN_OVER_WITHIN
from backup_lambda.objects import folder
from backup_lambda.schemas import Restore
from backup_lambda.states import STARTED_WITHIN
from backup_lambda.tasks import RestoreTask, TrialTask
from backup_lambda.worker import Worker
from tests.backup_lambda.faults.rewriting import put, sign_again
from tests.backup_lambda.recorded import AT, a_manifest, a_table, have_manifest, have_proof
from tests.backup_lambda.restored import asked, make_example, proven, restored, restoring, stored
from tests.backup_lambda.world import Connection, World, a_long_time, client_of, utc_now, worker_for
from tests.servers import Cluster


@pytest.fixture
def worker(world: World, cluster: Cluster, database: str) -> Worker:
    return restoring(world, cluster, database)


@pytest.fixture
async def example(owner: Connection, database: str) -> Connection:
    await make_example(owner, database)
    return owner


@pytest.fixture
async def name(database: str, server: Connection) -> AsyncIterator[str]:
    """Of a database that is there, perhaps, until the test ends."""
    yield f"again_{database}"
    await server.execute(f"drop database if exists again_{database} with (force)")


@pytest.fixture
async def server(cluster: Cluster) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(cluster.url("postgres", "postgres"))
    yield connection
    await connection.close()


async def databases(server: Connection, name: str) -> list[str]:
    """That one, and such as are being filled."""
    query = "select datname from pg_database where datname = $1 or datname like 'holdfast_new_%'"
    return [each["datname"] for each in await server.fetch(query, name)]


async def test_a_whole_backup_comes_back_as_a_new_database(
    worker: Worker, world: World, api: httpx.AsyncClient, example: Connection, cluster: Cluster, server: Connection,
    name: str,
) -> None:  # fmt: skip
    """Two workers are given the task: one does it."""
    backup_id = await proven(worker, world)
    await world.notices()
    answer = await api.post(f"/backups/{backup_id}/restores", json={"database": name})
    queued = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"../../restores/{queued['id']}")
    assert (queued["state"], queued["backup_id"], queued["database"]) == ("queued", backup_id, name)
    [task] = [each for each in world.tasks if isinstance(each, RestoreTask)]
    ends = await asyncio.gather(worker.restore(task, a_long_time), worker.restore(task, a_long_time))
    assert sorted(ends) == ["completed", "left alone"]
    shown = (await api.get(f"/restores/{queued['id']}")).json()
    assert (shown["state"], shown["rows"], shown["tokens_revoked"], shown["reason"]) == ("completed", 4011, 2, None)
    assert {each["name"]: each["added"] for each in shown["tables"]} == {
        "notes.feed": 2003, "notes.notes": 2003, "notes.people": 2, "notes.tokens": 3,
    }  # fmt: skip
    comment = await server.fetchval(
        "select shobj_description(oid, 'pg_database') from pg_database where datname = $1", name
    )
    assert comment == f"holdfast: backup {backup_id}, restored by {queued['id']}"
    assert await databases(server, name) == [name]
    there = await asyncpg.connect(cluster.url("postgres", name))
    query = "select t::text from notes.notes t order by id"
    assert await there.fetch(query) == await example.fetch(query)
    assert await there.fetchval("select count(*) from notes.tokens where expires_at > now() or expires_at is null") == 0
    assert await there.fetchval("select relforcerowsecurity from pg_class where relname = 'people'"), "as it was"
    assert await there.fetchval("insert into notes.notes (body) values ('next') returning id") == 2004
    await there.close()
    [notice] = await world.notices()
    assert notice["Subject"] == f"Holdfast: restore completed, 4,011 rows into database {name}"[:99]
    event = json.loads(notice["Message"])
    assert (event["id"], event["type"]) == (f"{queued['id']}.restore.completed", "restore.completed")
    assert "2 were made invalid" in event["data"]["text"]
    assert await worker.restore(task, a_long_time) == "left alone"
    again = await restored(worker, world, backup_id, database=name)
    taken = f"there is a database {name} on the proof server: choose another name, or drop it"
    assert (again.state, again.reason) == ("failed", taken)
    assert await databases(server, name) == [name], "it was not touched"


async def test_only_what_is_proven_is_restored_without_a_reason(api: httpx.AsyncClient, world: World) -> None:
    backup_id = await world.wish()
    body: dict[str, Any] = {"tables": [{"table": "notes"}]}

    async def answer(**changes: Any) -> tuple[int, str]:
        given = await api.post(f"/backups/{backup_id}/restores", json=body | changes)
        return given.status_code, str(given.json().get("type") or given.json()["state"]).rpartition("/")[2]

    assert await answer() == (409, "backup-not-ready")
    columns = [{"name": "id"}, {"name": "expires_at"}]
    tables = [a_table(catalogue={"columns": columns}), a_table("notes.tokens", catalogue={"columns": columns})]
    tables += [a_table("notes.alembic_version", catalogue={"columns": []})]
    tables += [a_table("notes.loose", catalogue={"columns": []}, primary_key=[])]
    await have_manifest(world, backup_id, tables=tables)
    assert await answer() == (409, "restore-refused")
    assert await answer(because="nobody proves here") == (202, "queued")
    await have_proof(world, backup_id, 1, "broken")
    assert await answer() == (409, "restore-refused")
    assert await answer(because="better than nothing") == (202, "queued")
    await have_proof(world, backup_id, 2)
    assert await answer() == (202, "queued")
    assert await answer(tables=[{"table": "notes.other"}]) == (404, "table-not-found")
    for refused in ("tokens", "alembic_version", "loose"):
        assert await answer(tables=[{"table": refused}]) == (409, "restore-refused"), refused
    assert await answer(tables=[{"table": "notes"}, {"table": "notes.notes"}]) == (422, "invalid-request")
    assert await answer(tables=[{"table": "notes", "keys": [[1, 2]]}]) == (422, "invalid-request")
    assert await answer(tables=None, database="holdfast_new_one") == (422, "invalid-request")
    await world.write(f"backups/{backup_id}/expired.json", {})
    assert await answer() == (410, "backup-expired")
    assert (await api.get(f"/restores/{backup_id}")).status_code == 404
    assert (await api.get("/restores/..")).status_code == 404


async def test_a_request_that_is_repeated_with_its_key_makes_one_restore(api: httpx.AsyncClient, world: World) -> None:
    backup_id = await world.wish()
    await have_manifest(world, backup_id, tables=[a_table(catalogue={"columns": []})])

    async def answer(database: str = "one", key: str = "a key") -> httpx.Response:
        body = {"database": database, "because": "a test"}
        return await api.post(f"/backups/{backup_id}/restores", json=body, headers={"Idempotency-Key": key})

    first, second = await answer(), await answer()
    assert first.json() == second.json()
    started = [each.restore_id for each in world.tasks if isinstance(each, RestoreTask)]
    assert started == [first.json()["id"]] * 2, "as long as no worker has begun"
    assert (await answer("other")).json()["type"].endswith("idempotency-key-reused")
    backup = await api.post("/backups", json={}, headers={"Idempotency-Key": "a key"})
    assert backup.json()["type"].endswith("idempotency-key-reused")


async def test_a_key_whose_first_request_was_refused_may_ask_again_much_later(
    api: httpx.AsyncClient, world: World
) -> None:
    backup_id, key = await world.wish(), {"Idempotency-Key": "a key"}
    await have_manifest(world, backup_id, tables=[a_table(catalogue={"columns": []})])
    refused = await api.post(f"/backups/{backup_id}/restores", json={"database": "one"}, headers=key)
    assert refused.status_code == 409
    [record] = await world.keys("idempotency/")
    hours_ago = f"{utc_now() - timedelta(hours=2):%Y%m%dT%H%M%SZ}-00000000"
    await world.write(record, await world.read_json(record) | {"restore_id": hours_ago})
    await have_proof(world, backup_id)
    given = await api.post(f"/backups/{backup_id}/restores", json={"database": "one"}, headers=key)
    assert (given.status_code, given.json()["id"], given.json()["state"]) == (202, hours_ago, "queued")


async def test_a_damaged_block_is_named_and_what_is_left_can_be_had(
    worker: Worker, world: World, example: Connection, cluster: Cluster, server: Connection, name: str
) -> None:
    """Notes have several blocks, of which the first is damaged. People have one, and notes refer to them."""
    backup_id = await stored(worker, world)
    [first, *others] = await damage(world, backup_id, "notes.notes")
    left = sum(block["rows"] for block in others)
    await example.execute("delete from notes.notes where id <> 2003")
    restore = await restored(worker, world, backup_id, database=name)
    said, _, why = (restore.reason or "").partition(", found ")
    assert (restore.state, said) == (
        "failed",
        "what came back is not what was backed up: block of notes.notes: expected what was written",
    )
    assert why.startswith("the block at 0 cannot be decompressed")
    assert await databases(server, name) == []
    restore = await restored(worker, world, backup_id, tables=[{"table": "notes"}])
    assert (restore.state, restore.reason) == ("failed", why)
    restore = await restored(worker, world, backup_id, tables=[{"table": "notes", "keys": [[1], [2003]]}])
    assert (restore.state, "not what was stored" in (restore.reason or "")) == ("failed", True)

    words = f"{first['rows']} rows with keys from {first['first']} to {first['last']}: {{}}"
    wanted = {"tables": [{"table": "notes", "keys": [[1], [2002]]}], "skip_damaged": True}
    restore = await restored(worker, world, backup_id, **wanted)
    assert restore.tables[0].damaged == [
        words.format("the block at 0 is not what was stored"),
        "so these keys may be there, or not: [['1']]",
    ]
    assert (restore.state, restore.tables[0].added, restore.tables[0].missing) == ("completed", 1, [])
    restore = await restored(worker, world, backup_id, tables=[{"table": "notes"}], skip_damaged=True)
    assert (restore.tables[0].added, restore.tables[0].same) == (left - 2, 2)
    assert restore.tables[0].damaged == [words.format(why)]

    await damage(world, backup_id, "notes.people")
    restore = await restored(worker, world, backup_id, database=name, skip_damaged=True)
    assert (restore.state, restore.rows) == ("completed", 2003 + left + 3)
    assert restore.reason == (
        f"NOT complete: {first['rows'] + 2:,} rows of notes.notes, notes.people are damaged in the backup, and were"
        " left out; rows refer to them by notes_owner_fkey, which is NOT VALID now"
    )
    events = [json.loads(each["Message"]) for each in await world.notices()]
    told = next(each for each in events if each["id"] == f"{restore.id}.restore.completed")
    assert "is NOT COMPLETE:\nwhat is left of the backup" in told["data"]["text"]
    assert str(first["last"]) not in json.dumps(told), "no value of a row"


async def damage(world: World, backup_id: str, table: str) -> list[dict[str, Any]]:
    """Some bytes of the first block. All blocks of the table, as its index has them."""
    index = gzip.decompress(await world.read(f"{folder(backup_id)}index/{table}.json.gz"))
    blocks = [json.loads(line) for line in index.splitlines()]
    key = f"{folder(backup_id)}data/{table}.json.gz"
    body, middle = await world.read(key), blocks[0]["length"] // 2
    await put(world, key, body[:middle] + bytes(8) + body[middle + 8 :])
    return blocks


async def test_a_server_without_room_or_of_another_version_gets_nothing(
    worker: Worker, world: World, example: Connection, server: Connection, name: str
) -> None:
    backup_id = await stored(worker, world)
    narrow = replace(worker, means=replace(worker.means, proof_room_bytes=1000))
    restore = await restored(narrow, world, backup_id, database=name)
    assert (restore.state, "HOLDFAST_PROOF_ROOM_BYTES allows 1,000" in (restore.reason or "")) == ("failed", True)

    def older(values: dict[str, Any]) -> None:
        values["database"]["server_version"] = "16.1"

    await sign_again(world, backup_id, older)
    restore = await restored(worker, world, backup_id, database=name)
    assert (restore.state, "and the backup of 16.1: use the same" in (restore.reason or "")) == ("failed", True)
    assert await databases(server, name) == []


async def test_a_backup_that_expires_meanwhile_is_not_restored(
    worker: Worker, world: World, example: Connection
) -> None:
    """Its rows are gone already when they are looked for; or the worker sees before that it has expired."""
    backup_id = await stored(worker, world)
    first, second = [await asked(world, backup_id, tables=[{"table": "notes"}]) for _ in range(2)]

    async def expire(request: Any, **_: Any) -> None:
        if "data/notes.notes" in request.url:
            await world.write(f"backups/{backup_id}/expired.json", {})
            await world.s3.delete_object(Bucket=world.bucket, Key=f"backups/{backup_id}/data/notes.notes.json.gz")

    world.s3.meta.events.register("before-send.s3.GetObject", expire)
    for restore_id, reason in (
        (first, "retention removed the data of the backup"),
        (second, backups.EXPIRED),
    ):
        assert await worker.restore(RestoreTask(restore_id=restore_id), a_long_time) == "failed"
        assert (await restores.show(world.store, restore_id, utc_now)).reason == reason


MAILS = [
    {"state": "completed", "tables": [{"name": "notes.notes", "rows": 5, "added": 1, "changed": 2, "same": 2}]},
    {"state": "completed", "tables": [{"name": "notes.notes", "rows": 2, "left": 1, "missing": [["hunter2"]]}]},
    {"state": "completed", "database": "again", "tokens_revoked": 3, "because": "it was asked for"},
    {"state": "completed", "database": "again", "reason": "NOT complete: 3 rows of notes.notes are damaged"},
    {"state": "failed", "reason": "rows are there with other values", "tables": [{"name": "notes.notes", "rows": 5}]},
    {"state": "failed", "reason": "x" * 1000, "database": "again", "requested_by": "Ada\nBcc: Bob"},
]


@pytest.mark.parametrize("changes", MAILS)
def test_every_mail_about_a_restore_says_what_happened_and_what_to_do(changes: dict[str, Any]) -> None:
    values = {
        "id": "20261122T030000Z-3f9a2c1b",
        "backup_id": "20261122T020000Z-3f9a2c1b",
        "database": None,
        "dry_run": False,
        "on_conflict": "fail",
        "created_at": AT,
        "ended_at": AT,
        "requested_by": "arn:aws:iam::1:user/ops",
    }
    notice = notices.of_restore(Restore.model_validate(values | changes))
    assert notice.kind == f"restore.{changes['state']}"
    assert notice.text.startswith("The restore 20261122T030000Z-3f9a2c1b ")
    assert "Backup:    20261122T020000Z-3f9a2c1b\n" in notice.text
    assert "\nWhat to do next:\n" in notice.text
    assert "None" not in notice.text
    assert "\nBcc" not in notice.text
    assert max(len(line) for line in notice.text.splitlines() if not line.startswith("Reason")) <= 120
    assert len(notice.title) < 100
    assert "hunter2" not in notice.message


async def test_what_we_did_not_sign_is_not_restored(
    worker: Worker, world: World, example: Connection, server: Connection, name: str
) -> None:
    """Neither what somebody else changed, nor what a later release may have written."""
    backup_id = await stored(worker, world)
    manifest = await world.read(f"{folder(backup_id)}manifest.json")
    await put(world, f"{folder(backup_id)}manifest.json", manifest.replace(b'"format": 1', b'"format":  1'))
    wanted: list[dict[str, Any]] = [{"database": name}, {"tables": [{"table": "notes"}]}]
    for each in wanted:
        restore = await restored(worker, world, backup_id, **each)
        assert (restore.state, restore.reason) == (
            "failed",
            "manifest.json of the backup is not to be trusted: it is not what was signed. Nothing of it was restored",
        )
    await put(world, f"{folder(backup_id)}manifest.json", manifest)
    restore_id = await asked(world, backup_id, database=name)
    await put(world, f"{folder(backup_id)}manifest.json", manifest.replace(b'"format": 1', b'"format": 2'))
    assert await worker.restore(RestoreTask(restore_id=restore_id), a_long_time) == "failed"
    shown = await restores.show(world.store, restore_id, utc_now)
    assert shown.reason == "manifest.json is not one that this release reads: its format is 2"
    await put(world, f"{folder(backup_id)}manifest.json", manifest)

    def unknown(values: dict[str, Any]) -> None:
        values["schema_sql"]["before_rows"] = [
            each.replace("jsonb", "from_the_future") for each in values["schema_sql"]["before_rows"]
        ]

    await sign_again(world, backup_id, unknown)
    restore = await restored(worker, world, backup_id, database=name)
    assert (restore.state, 'type "from_the_future" does not exist' in (restore.reason or "")) == ("failed", True)
    assert await databases(server, name) == []


async def test_a_restore_that_no_worker_ends_is_lost_and_another_worker_says_so(
    worker: Worker, world: World, example: Connection
) -> None:
    """One that was never begun, and one whose worker died twice. One that waits for its other attempt is left."""
    backup_id = await stored(worker, world)
    tables = [{"table": "notes"}]
    never, died, waits = [await asked(world, backup_id, tables=tables) for _ in range(3)]
    for restore_id, ago, attempt in ((died, TAKEN_OVER_WITHIN, 2), (waits, timedelta(seconds=1), 1)):
        progress = {"owner": "dead", "task": "restore", "attempt": attempt, "started_at": utc_now()}
        progress |= {"updated_at": utc_now(), "lease_until": utc_now() - ago}
        await world.write(f"restores/{restore_id}/progress.json", progress)

    async def states() -> list[str]:
        shown = [await restores.show(world.store, each, worker.means.now) for each in (never, died, waits)]
        return [f"{each.state}: {each.reason}" for each in shown]

    silent = "failed: lost: its worker was not heard of any more"
    assert await states() == ["queued: None", silent, "running: None"]
    asked_at = {"created_at": utc_now() - STARTED_WITHIN}
    key = f"restores/{never}/request.json"
    await world.write(key, await world.read_json(key) | asked_at)
    lost = "failed: lost: it was never started"
    assert await states() == [lost, silent, "running: None"]
    await world.notices()
    await worker.keep_house(a_long_time)
    assert await states() == [lost, silent, "running: None"]
    told = {json.loads(each["Message"])["id"] for each in await world.notices()}
    assert told == {f"{each}.restore.failed" for each in (never, died)}
    assert await worker.restore(RestoreTask(restore_id=never), a_long_time) == "left alone", "it was given up"
    assert await worker.restore(RestoreTask(restore_id=waits), a_long_time) == "completed"


async def test_a_test_message_reaches_everybody(worker: Worker, world: World) -> None:
    async with client_of(world, world.start_worker) as api:
        answer = await api.post("/subscriptions/test")
    assert (answer.status_code, answer.json()) == (202, {"confirmed": 0})
    [task] = world.tasks
    assert isinstance(task, TrialTask)
    await worker.send_trial(TrialTask(requested_by="Ada"))
    [notice] = await world.notices()
    assert (notice["Subject"], notice["MessageAttributes"]["type"]["Value"]) == ("Holdfast: test message", "test")
    assert "by Ada" in json.loads(notice["Message"])["data"]["text"]


async def test_a_mass_change_is_told_beside_the_end_of_the_backup(
    world: World, cluster: Cluster, database: str
) -> None:
    """Once: not with a later proof."""
    storing = worker_for(world, cluster.url("notes_backup", database))
    backup_id = await world.wish()
    request = await world.read_json(f"backups/{backup_id}/request.json")
    changed = "since yesterday: about 80% of the 5,000 rows of notes.notes were changed or removed"
    manifest = a_manifest(request, changed=changed, tables=[a_table()])
    await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{backup_id}/manifest.json", Body=manifest.body())
    assert await storing.back_up(backup_id, a_long_time) == "stored"
    events = {json.loads(each["Message"])["id"]: each for each in await world.notices()}
    assert {*events} == {f"{backup_id}.backup.stored", f"{backup_id}.backup.changed"}
    told = events[f"{backup_id}.backup.changed"]
    assert told["MessageAttributes"]["severity"]["Value"] == "warning"
    assert told["Subject"].startswith("Holdfast: MUCH CHANGED: since yesterday: about 80%")
    assert changed in json.loads(told["Message"])["data"]["text"]
