"""A worker that restores is killed, sleeps, or loses its connection: what it began is done once, or not at all.

A live restore that was done twice would find its own rows, and one that was done by halves leaves some behind.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
import pytest_asyncio

from backup_lambda import live, restores
from backup_lambda.errors import FateUnknown
from backup_lambda.lease import TAKEN_OVER_WITHIN
from backup_lambda.schemas import Restore
from backup_lambda.store import S3Store
from backup_lambda.tasks import RestoreTask
from backup_lambda.worker import Worker
from tests.backup_lambda.faults import wire
from tests.backup_lambda.faults.clients import Clients
from tests.backup_lambda.faults.gate import Gate
from tests.backup_lambda.faults.process import settings_of
from tests.backup_lambda.faults.test_killed import done_and_kept_waiting, kept_waiting, killed_at
from tests.backup_lambda.faults.wire import Wire, wired
from tests.backup_lambda.restored import asked, make_example, restoring, stored
from tests.backup_lambda.world import Connection, World, a_long_time, utc_now
from tests.servers import Aws, Cluster

ROWS = "select t::text from notes.notes t order by id"
LIVE = {"tables": [{"table": "notes.people"}, {"table": "notes.notes"}]}


@pytest_asyncio.fixture(loop_scope="session")
async def owner(owner: Connection, database: str) -> Connection:
    """Its database is the example."""
    await owner.execute("drop schema notes cascade; drop schema scheduler cascade; create schema scheduler")
    await owner.execute("create schema notes; grant usage on schema notes, scheduler to notes_backup, notes_restore")
    await make_example(owner, database)
    await owner.execute("grant select on all tables in schema notes to notes_backup")
    await owner.execute("grant select on all sequences in schema notes to notes_backup")
    return owner


@pytest.fixture
def healthy(world: World, cluster: Cluster, database: str) -> Worker:
    return restoring(world, cluster, database)


async def shown(world: World, restore_id: str) -> Restore:
    return await restores.show(world.store, restore_id, utc_now)


async def let_die(world: World, restore_id: str, *, attempts: int = 1) -> None:
    """Its worker is gone for long enough, after so many attempts."""
    key = f"restores/{restore_id}/progress.json"
    ended = {"lease_until": utc_now() - TAKEN_OVER_WITHIN + timedelta(seconds=5 * (2 - attempts)), "attempt": attempts}
    await world.write(key, await world.read_json(key) | ended)


KILLED = {
    "reading the rows": ("", "", b"insert into pg_temp"),
    "writing the rows": ("", "", b'insert into "notes"'),
    "before the end is prepared": ("prepared.json", kept_waiting, b""),
    "when the end is prepared": ("prepared.json", done_and_kept_waiting, b""),
    "after the COMMIT": ("result.json", kept_waiting, b""),
    "when the result is written": ("result.json", done_and_kept_waiting, b""),
}


@pytest.mark.parametrize("at", KILLED)
async def test_a_live_restore_whose_worker_is_killed_is_done_once(
    aws: Aws, gate: Gate, clients: Clients, healthy: Worker, world: World, owner: Connection, cluster: Cluster,
    database: str, proof_url: str, at: str,
) -> None:  # fmt: skip
    backup_id = await stored(healthy, world)
    before = await owner.fetch(ROWS)
    await owner.execute("delete from notes.notes where id < 2000; delete from notes.people where name = 'Ada'")
    await owner.execute("truncate notes.feed")
    restore_id = await asked(world, backup_id, **LIVE)
    name, fault, mark = KILLED[at]
    happened = asyncio.Event()
    change: Wire = wire.at(mark, happened.set, asyncio.Event().wait) if mark else wire.same
    if fault:
        happened = gate.break_("PutObject", name, fault, times=1).happened  # type: ignore[arg-type]
    async with wired(cluster.url("notes_restore", database), sent=change) as url:
        environment = await settings_of(aws, clients, world, cluster.url("notes_backup", database), proof_url, url)
        await killed_at(happened, environment | {"AWS_ENDPOINT_URL": gate.url}, RestoreTask(restore_id=restore_id))
    gate.mend()
    assert (await shown(world, restore_id)).state == ("completed" if "is written" in at else "running")
    task = RestoreTask(restore_id=restore_id)
    assert await healthy.restore(task, a_long_time) == "left alone", "its lease has not ended"
    await let_die(world, restore_id)
    assert await healthy.restore(task, a_long_time) == "completed"
    restore = await shown(world, restore_id)
    assert {each.name: (each.added, each.same) for each in restore.tables} == {
        "notes.notes": (1999, 4), "notes.people": (1, 1),
    }  # fmt: skip
    assert await owner.fetch(ROWS) == before
    assert await owner.fetchval("select count(*) from notes.feed") == 1999, "every row was written once"
    events = [each["MessageAttributes"]["type"]["Value"] for each in await world.notices()]
    assert events == ["backup.stored", "restore.completed"]


WHOLE = {
    "restoring": ("", "", b"insert into"),
    "when it is about to get its name": ("", "", b"rename to"),
    "when it has its name": ("result.json", kept_waiting, b""),
}


@pytest.mark.parametrize("at", WHOLE)
async def test_a_whole_restore_whose_worker_is_killed_is_done_once(
    aws: Aws, gate: Gate, clients: Clients, healthy: Worker, world: World, owner: Connection, cluster: Cluster,
    superuser: Connection, database: str, proof_url: str, at: str,
) -> None:  # fmt: skip
    """What the dead worker left is dropped."""
    backup_id = await stored(healthy, world)
    new = f"again_{database}"
    restore_id = await asked(world, backup_id, database=new)
    name, fault, mark = WHOLE[at]
    happened = asyncio.Event()
    change: Wire = wire.at(mark, happened.set, asyncio.Event().wait) if mark else wire.same
    if fault:
        happened = gate.break_("PutObject", name, fault, times=1).happened  # type: ignore[arg-type]
    async with wired(proof_url, sent=change) as url:
        environment = await settings_of(aws, clients, world, cluster.url("notes_backup", database), url)
        await killed_at(happened, environment | {"AWS_ENDPOINT_URL": gate.url}, RestoreTask(restore_id=restore_id))
    gate.mend()
    try:
        await let_die(world, restore_id)
        oid = await superuser.fetchval("select oid from pg_database where datname = $1", new)
        assert (oid is not None) == bool(fault)
        assert await healthy.restore(RestoreTask(restore_id=restore_id), a_long_time) == "completed"
        left = await superuser.fetch("select datname, oid from pg_database where datdba = 'notes_proof'::regrole")
        assert [each["datname"] for each in left] == [new]
        assert oid in (None, left[0]["oid"]), "it was not made anew"
        restore = await shown(world, restore_id)
        assert (restore.state, restore.rows, restore.tokens_revoked) == ("completed", 4011, 2)
    finally:
        await superuser.execute(f"drop database if exists {new} with (force)")


async def test_nobody_calls_a_restore_failed_that_was_committed(
    healthy: Worker, world: World, owner: Connection, cluster: Cluster, database: str
) -> None:
    """The connection is lost in the COMMIT, and then nobody can be asked, until a worker looks after what is left."""
    backup_id = await stored(healthy, world)
    await owner.execute("delete from notes.notes where id = 1")
    restore_id = await asked(world, backup_id, tables=[{"table": "notes", "keys": [[1]]}])
    task = RestoreTask(restore_id=restore_id)
    answers = [wire.cut_at(b"COMMIT\x00", 0), *[wire.cut_at(b"S", 0)] * 3]  # each attempt asks again
    async with wired(cluster.url("notes_restore", database), wire.one_after_the_other(answers)) as url:

        async def lost() -> str:
            return url

        losing = replace(healthy, means=replace(healthy.means, restore_url=lost))
        with pytest.raises(FateUnknown):
            await losing.restore(task, a_long_time)
        restore = await shown(world, restore_id)
        assert restore.state == "running"
        assert (restore.reason or "").startswith("whether it was committed could not be asked: ")
        with pytest.raises(FateUnknown):
            await losing.restore(task, a_long_time)
    restore = await shown(world, restore_id)
    assert (restore.state, "asks the database" in (restore.reason or "")) == ("running", True), "there is no third one"
    await healthy.keep_house(a_long_time)
    restore = await shown(world, restore_id)
    assert (restore.state, restore.tables[0].added, restore.announced) == ("completed", 1, True)
    assert await owner.fetchval("select count(*) from notes.feed where note_id = 1") == 2, "it was written once more"


async def test_a_worker_that_sleeps_before_its_commit_is_ended_by_its_successor(
    healthy: Worker, world: World, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has prepared its end. When it wakes up its transaction is gone, and the other one's has been committed."""
    monkeypatch.setattr(live, "ENDS_WITHIN_SECONDS", 0.5)
    backup_id = await stored(healthy, world)
    await owner.execute("delete from notes.notes where id = 1")
    restore_id = await asked(world, backup_id, tables=[{"table": "notes", "keys": [[1]]}])
    asleep, awake = asyncio.Event(), asyncio.Event()

    class Sleeps(S3Store):
        async def put(self, key: str, body: bytes, replaces: str | None = None, *, keep: bool = False) -> str:
            etag = await super().put(key, body, replaces, keep=keep)
            if key.endswith("prepared.json"):
                asleep.set()
                await awake.wait()
            return etag

    sleeping = replace(healthy, means=replace(healthy.means, store=Sleeps(world.s3, world.bucket)))
    sleeper = asyncio.create_task(sleeping.restore(RestoreTask(restore_id=restore_id), a_long_time))
    await asleep.wait()
    await let_die(world, restore_id)
    assert await healthy.restore(RestoreTask(restore_id=restore_id), a_long_time) == "completed"
    awake.set()
    assert await sleeper == "left alone"
    assert (await shown(world, restore_id)).tables[0].added == 1
    assert await owner.fetchval("select count(*) from notes.feed where note_id = 1") == 2


async def test_the_time_of_an_invocation_ends_a_restore(healthy: Worker, world: World, owner: Connection) -> None:
    backup_id = await stored(healthy, world)
    await owner.execute("delete from notes.notes where id = 1")
    restore_id = await asked(world, backup_id, tables=[{"table": "notes"}])
    assert await healthy.restore(RestoreTask(restore_id=restore_id), lambda: 1.0) == "failed"
    restore = await shown(world, restore_id)
    assert (restore.reason or "").startswith("deadline: the invocation's time was nearly over")
    assert await owner.fetchval("select count(*) from notes.notes where id = 1") == 0
