"""The server that proofs run on is away, full or wrong, or dies in the middle: the backup is stored, and says why."""

import asyncio
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from backup_lambda import backups
from backup_lambda.guards import KEPT_SECONDS
from backup_lambda.worker import Worker
from tests.backup_lambda.faults import wire
from tests.backup_lambda.faults.invoking import proven_again
from tests.backup_lambda.faults.matrix import End, told_of
from tests.backup_lambda.faults.own import Own
from tests.backup_lambda.faults.wire import Wire, wired
from tests.backup_lambda.world import Connection, World, a_long_time, utc_now
from tests.servers import Cluster, free_port

MakeWorker = Callable[[str, str], Worker]


@pytest_asyncio.fixture(loop_scope="session")
async def proving(own: Own, ends: End) -> AsyncIterator[Own]:
    """A server of our own for proofs, on which nothing may be left."""
    others = ends.servers
    await reconnected(ends, own)
    yield own
    for each in ends.servers:
        if each not in others:
            each.terminate()


async def reconnected(ends: End, own: Own) -> None:
    superuser = await asyncpg.connect(own.url("postgres", "postgres"))
    ends.servers = [each for each in ends.servers if not each.is_closed()] + [superuser]


async def is_stored(worker: Worker, world: World) -> str:
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "stored"
    return backup_id


@pytest.mark.fault("nothing answers at the proof server's address")
async def test_it_is_away(gated_worker: MakeWorker, source_url: str, world: World, ends: End) -> None:
    url = f"postgresql://notes_proof:hunter2@127.0.0.1:{free_port()}/postgres"
    backup_id = await is_stored(gated_worker(source_url, url), world)
    await ends(backup_id, "stored", reason="not proven: the proof server: PostgreSQL: ")


@pytest.mark.fault("the proof server takes another password")
async def test_its_password_changed(
    gated_worker: MakeWorker, source_url: str, cluster: Cluster, world: World, ends: End
) -> None:
    url = cluster.url("notes_proof", "postgres")
    url = url.replace(str(urlsplit(url).password), "hunter2")
    backup_id = await is_stored(gated_worker(source_url, url), world)
    await ends(backup_id, "stored", reason="password authentication failed")


@pytest.mark.fault("the proof server has no connection left")
async def test_it_is_full_of_connections(
    gated_worker: MakeWorker, source_url: str, proving: Own, world: World, ends: End
) -> None:
    proving.server.psql("postgres", ["alter role notes_proof connection limit 0"])
    try:
        backup_id = await is_stored(gated_worker(source_url, proving.url("notes_proof", "postgres")), world)
    finally:
        proving.server.psql("postgres", ["alter role notes_proof connection limit -1"])
    await ends(backup_id, "stored", reason="too many connections")


@pytest.mark.fault("the proof server's role may make no database")
async def test_its_role_may_not(
    gated_worker: MakeWorker, source_url: str, proving: Own, world: World, ends: End
) -> None:
    proving.server.psql("postgres", ["alter role notes_proof nocreatedb"])
    try:
        backup_id = await is_stored(gated_worker(source_url, proving.url("notes_proof", "postgres")), world)
    finally:
        proving.server.psql("postgres", ["alter role notes_proof createdb"])
    await ends(backup_id, "stored", reason="permission denied to create database")


@pytest.mark.fault("the proof server may give a scratch database too little room")
async def test_there_is_no_room(worker: Worker, world: World, ends: End) -> None:
    object.__setattr__(worker.means, "proof_room_bytes", 1000)
    backup_id = await is_stored(worker, world)
    await ends(backup_id, "stored", reason="HOLDFAST_PROOF_ROOM_BYTES allows 1,000")


# Two thousand bytes a row that are stored as they are, so that the file of the table grows; compressed they are few.
LONG = """
drop table if exists notes.long;
create table notes.long as select i as id, repeat('x', 1900) as body from generate_series(1, 10000) as i;
grant select on notes.long to notes_backup
"""
ABOVE_WAL = 17 * 1024 * 1024 + 4096


@pytest.mark.fault("a file of the scratch database cannot grow")
async def test_its_disk_is_full(
    gated_worker: MakeWorker, cluster: Cluster, database: str, owner: Connection, proving: Own, world: World, ends: End
) -> None:
    """By the limit of a file's size, which needs no right, a little above the size of a file of WAL.

    PostgreSQL raises `could not extend file ...: File too large` (XX000) or, where a write ends short, the same words
    with 53100, as for a full disk.
    """
    await owner.execute(LONG)
    proving.kill()
    proving.start_with_small_files(ABOVE_WAL)
    try:
        worker = gated_worker(cluster.url("notes_backup", database), proving.url("notes_proof", "postgres"))
        backup_id = await is_stored(worker, world)
    finally:
        proving.kill()
        proving.start()
        await reconnected(ends, proving)
    await ends(backup_id, "stored", reason="could not extend file")


@pytest.mark.fault("the proof server is killed")
@pytest.mark.parametrize(
    "mark", [b"create database", b"insert into", b"COPY"], ids=["making", "restoring", "comparing"]
)
async def test_it_is_killed(
    gated_worker: MakeWorker, source_url: str, proving: Own, world: World, ends: End, mark: bytes
) -> None:
    """What it has of the scratch database is dropped by the next proof of the backup."""
    url = proving.url("notes_proof", "postgres")
    async with wired(url, sent=wire.at(mark, proving.kill)) as wired_url:
        backup_id = await is_stored(gated_worker(source_url, wired_url), world)
    proving.start()
    await reconnected(ends, proving)
    assert "not proven: the proof server" in str((await backups.show(world.store, backup_id, utc_now)).reason)
    assert [event["type"] for event in await told_of(world)] == ["backup.stored"]
    await proven_again(gated_worker(source_url, url), backup_id)
    await ends(backup_id, "proven")


@pytest.mark.fault("the connection to the proof server is cut")
@pytest.mark.parametrize(
    ("change", "sent"),
    [
        (wire.cut_at(b"", 0), wire.same),
        (wire.same, wire.cut_at(b"create database", 9)),
        (wire.same, wire.cut_at(b"create schema", 9)),
        (wire.same, wire.cut_at(b"insert into", 200)),
        (wire.same, wire.cut_at(b"setval", 3)),
        (wire.cut_at(b'{"id":1,', 8), wire.same),
        (wire.cut_at(b"COPY 2200\0", 6), wire.same),
    ],
    ids=["at once", "making", "schema", "rows", "sequences", "comparing the first row", "the tag of COPY"],
)
async def test_it_is_cut(
    gated_worker: MakeWorker, source_url: str, proof_url: str, world: World, ends: End, change: Wire, sent: Wire
) -> None:
    async with wired(proof_url, change, sent=sent) as url:
        backup_id = await is_stored(gated_worker(source_url, url), world)
    await ends(backup_id, "stored", reason="not proven: the proof server")


@pytest.mark.fault("the connection to the proof server stalls")
@pytest.mark.parametrize(
    "mark", [b"create database", b"insert into", b"COPY"], ids=["making", "restoring", "comparing"]
)
async def test_it_stalls(
    gated_worker: MakeWorker, source_url: str, proof_url: str, world: World, ends: End, mark: bytes
) -> None:
    """Until the invocation's time is over; other connections, by which the scratch database is dropped, do not."""
    stalled = asyncio.Event()

    def seconds_left() -> float:
        return KEPT_SECONDS - 1.0 if stalled.is_set() else KEPT_SECONDS + 0.5

    backup_id = await world.wish()
    async with wired(proof_url, sent=wire.at(mark, stalled.set, asyncio.Event().wait)) as url:
        assert await gated_worker(source_url, url).back_up(backup_id, seconds_left) == "stored"
    await ends(backup_id, "stored", reason="not proven: deadline: ")


@pytest.mark.fault("on the way from the proof server a byte is altered")
@pytest.mark.parametrize(
    "change",
    [wire.altered(b'{"id":1100,', b'{"id":9100,'), wire.altered(b"COPY 2200\0", b"COPY 2201\0")],
    ids=["in a row", "in the tag of COPY"],
)
async def test_it_gives_something_else(
    gated_worker: MakeWorker, source_url: str, proof_url: str, world: World, ends: End, change: Wire
) -> None:
    """It cannot be told from a backup that is broken: better a false alarm than none."""
    backup_id = await world.wish()
    async with wired(proof_url, change) as url:
        assert await gated_worker(source_url, url).back_up(backup_id, a_long_time) == "broken"
    await ends(backup_id, "broken", reason="notes.notes")
