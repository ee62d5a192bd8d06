"""Whatever breaks, the backup is not stored, says why, and leaves nothing half-made behind."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from backup_lambda import backups
from backup_lambda.errors import AwsError
from backup_lambda.schemas import Backup
from backup_lambda.store import S3Store, Stored
from backup_lambda.worker import KEPT_SECONDS, Worker
from tests.backup_lambda.world import Connection, World, a_long_time, utc_now, worker_for
from tests.servers import Cluster, free_port, postgres

# Text with the entropy of hexadecimal digits: 1 kB a row, of which gzip leaves about 0.6 kB.
ROWS = """
create table notes.notes as
select i as id, (select string_agg(md5(i::text || j), '') from generate_series(1, 31) as j) as body
from generate_series(1, {rows}) as i;
alter table notes.notes add primary key (id);
grant select on notes.notes to notes_backup
"""
ENOUGH_FOR_PARTS = 20_000


async def failed(worker: Worker, world: World, seconds_left: Callable[[], float] = a_long_time) -> Backup:
    """Runs a backup that fails, and checks what is true of every one."""
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, seconds_left) == "failed"
    shown = await backups.show(world.store, backup_id, utc_now)
    names = await world.store.names(f"backups/{backup_id}/")
    assert (shown.state, names) == ("failed", {"request.json", "progress.json", "failure.json"})
    assert await world.open_uploads() == []
    assert [each["Subject"].startswith("Holdfast: backup FAILED") for each in await world.notices()] == [True]
    assert await worker.back_up(backup_id, a_long_time) == "left alone", "a failure is the end"
    return shown


async def test_postgresql_is_killed_in_the_middle(world: World) -> None:
    with postgres() as server:
        server.psql("holdfast", [ROWS.format(rows=60_000)])
        postmaster = int((server.data / "postmaster.pid").read_text().split()[0])

        async def kill(**_: Any) -> None:
            os.kill(postmaster, signal.SIGKILL)

        world.s3.meta.events.register_first("before-send.s3.CreateMultipartUpload", kill)
        shown = await failed(worker_for(world, server.url("notes_backup", "holdfast")), world)
    assert str(shown.reason).startswith("PostgreSQL: ")


async def test_the_session_is_ended_by_an_administrator(worker: Worker, world: World, owner: Connection) -> None:
    await owner.execute(ROWS.format(rows=60_000))

    async def end(**_: Any) -> None:
        await owner.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'holdfast backup' and datname = current_database()"
        )

    world.s3.meta.events.register("before-send.s3.CreateMultipartUpload", end)
    shown = await failed(worker, world)
    assert str(shown.reason).startswith("PostgreSQL: ")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            "create sequence notes.numbers; revoke all on sequence notes.numbers from notes_backup",
            "permission denied for sequence notes.numbers",
        ),
        ("drop table notes.notes", "no table was found in the schemas notes, scheduler: is the database migrated?"),
        ("revoke select on notes.notes from notes_backup", "permission denied for table notes"),
        ("alter table notes.notes enable row level security", "would be affected by row-level security policy"),
        ("drop schema scheduler cascade", 'schema "scheduler" does not exist'),
        ("revoke usage on schema notes from notes_backup", "permission denied for schema notes"),
    ],
)
async def test_what_may_not_be_read_is_not_skipped(
    worker: Worker, world: World, owner: Connection, change: str, reason: str
) -> None:
    await owner.execute(ROWS.format(rows=10))
    await owner.execute(change)  # a table, a schema, a sequence
    assert reason in str((await failed(worker, world)).reason)


async def test_nothing_answers_at_the_databases_address(world: World) -> None:
    shown = await failed(
        worker_for(world, f"postgresql://notes_backup:hunter2@127.0.0.1:{free_port()}/holdfast"), world
    )
    assert str(shown.reason).startswith("PostgreSQL: ")
    assert "hunter2" not in str(shown.reason)


async def test_a_wrong_password_is_not_told(world: World, cluster: Cluster, database: str) -> None:
    password = urlsplit(cluster.url("notes_backup", database)).password
    url = cluster.url("notes_backup", database).replace(str(password), "hunter2")
    shown = await failed(worker_for(world, url), world)
    assert "password authentication failed" in str(shown.reason)
    assert "hunter2" not in str(shown.reason)


async def test_a_database_that_does_not_answer_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backup_lambda.snapshot.CONNECT_SECONDS", 0.2)

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(-1)
        finally:
            await aborted(writer)

    async with await asyncio.start_server(be_silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        shown = await failed(worker_for(world, f"postgresql://u:hunter2@127.0.0.1:{port}/x?sslmode=disable"), world)
    assert shown.reason == "PostgreSQL: did not answer within 0.2 s"


@pytest.mark.parametrize(
    "secret",
    [
        "postgresql://notes_backup:pass/hunter2@host:5432/holdfast",
        "postgresql://notes_backup:hunter2@127.0.0.1:1/holdfast?sslmode=verify-full&sslrootcert=/no/such/file",
        "postgresql://notes_backup:hunter2@127.0.0.1:1/holdfast?sslmode=verify-full",
        "postgresql://hunter2@/holdfast",
        "postgresql://127.0.0.1:1/hunter2",
        "hunter2",
        "",
    ],
)
async def test_a_secret_that_cannot_be_used_is_not_told(world: World, secret: str) -> None:
    shown = await failed(worker_for(world, secret), world)
    assert str(shown.reason).startswith("the database secret cannot be used (")
    assert "or its TLS files are missing" in str(shown.reason)
    assert "hunter2" not in str(shown.reason)


Wire = Callable[[int, bytes], Awaitable[bytes]]


@asynccontextmanager
async def wired(url: str, change: Wire) -> AsyncIterator[str]:
    """A URL that reaches the server through a wire: `change` gets how many bytes passed before, and what comes."""
    server = urlsplit(url)
    connections: set[asyncio.Task[None]] = set()

    async def carry(source: asyncio.StreamReader, to: asyncio.StreamWriter, change: Wire) -> None:
        passed = 0
        with suppress(ConnectionError):
            while data := await source.read(65536):
                to.write(await change(passed, data))
                await to.drain()
                passed += len(data)

    async def same(passed: int, data: bytes) -> bytes:
        return data

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one side ends, or the test does."""
        ends = [writer]
        tasks: list[asyncio.Task[None]] = []
        try:
            there_reader, there_writer = await asyncio.open_connection(server.hostname, server.port)
            ends.append(there_writer)
            directions = [carry(reader, there_writer, same), carry(there_reader, writer, change)]
            tasks += [asyncio.create_task(each) for each in directions]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *(aborted(end) for end in ends), return_exceptions=True)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(connect(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as wire:
        port = wire.sockets[0].getsockname()[1]
        try:
            yield url.replace(f":{server.port}/", f":{port}/") + "?sslmode=disable"
        finally:
            wire.close()
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)


async def aborted(writer: asyncio.StreamWriter) -> None:
    """Closed now: one that only closes would first send what nobody reads."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize("after_bytes", [0, 100, 5_000, 200_000, 4_000_000])
async def test_the_connection_is_cut(
    world: World, cluster: Cluster, database: str, owner: Connection, after_bytes: int
) -> None:
    await owner.execute(ROWS.format(rows=5_000))

    async def cut(passed: int, data: bytes) -> bytes:
        if passed + len(data) > after_bytes:
            raise ConnectionResetError
        return data

    async with wired(cluster.url("notes_backup", database), cut) as url:
        shown = await failed(worker_for(world, url), world)
    assert str(shown.reason).startswith("PostgreSQL: ")


async def test_a_row_is_lost_on_the_way(world: World, cluster: Cluster, database: str, owner: Connection) -> None:
    """PostgreSQL says that it sent one more than arrived."""
    await owner.execute(ROWS.format(rows=3_000))

    async def one_more(passed: int, data: bytes) -> bytes:
        return data.replace(b"COPY 3000\0", b"COPY 3001\0")

    async with wired(cluster.url("notes_backup", database), one_more) as url:
        shown = await failed(worker_for(world, url), world)
    assert shown.reason == (
        "notes.notes: rows counted 3,000, copied 3,001, streamed 3,000, in the index 3,000, read back 3,000"
    )


async def test_the_time_ends_while_the_connection_is_stalled(
    world: World, cluster: Cluster, database: str, owner: Connection
) -> None:
    await owner.execute(ROWS.format(rows=ENOUGH_FOR_PARTS))
    stalled = asyncio.Event()

    async def stall(passed: int, data: bytes) -> bytes:
        if passed > 18_000_000:
            stalled.set()
            await asyncio.Event().wait()
        return data

    async with wired(cluster.url("notes_backup", database), stall) as url:
        shown = await failed(
            worker_for(world, url), world, lambda: KEPT_SECONDS - 1.0 if stalled.is_set() else a_long_time()
        )
    assert str(shown.reason).startswith("deadline: ")


async def test_an_invocation_with_too_little_time_does_not_begin(worker: Worker, world: World) -> None:
    assert str((await failed(worker, world, lambda: KEPT_SECONDS - 1.0)).reason).startswith("deadline: ")


@pytest.mark.parametrize(
    ("operation", "where"),
    [
        ("CreateMultipartUpload", "/data/"),
        ("UploadPart", "/data/"),
        ("CompleteMultipartUpload", "/data/"),
        ("PutObject", "/index/"),
        ("GetObject", "/index/"),
        ("GetObject", "/data/"),
        ("PutObject", "/manifest.json"),
    ],
)
async def test_the_store_refuses(worker: Worker, world: World, owner: Connection, operation: str, where: str) -> None:
    """Another attempt may heal that: it is asked for. When none comes, the backup is lost."""
    await owner.execute(ROWS.format(rows=ENOUGH_FOR_PARTS))
    refused = 0

    async def refuse(request: Any, **_: Any) -> None:
        nonlocal refused
        if where in request.url:
            refused += 1
            raise OSError("refused")

    world.s3.meta.events.register(f"before-send.s3.{operation}", refuse)
    backup_id = await world.wish()
    with pytest.raises(AwsError):
        await worker.back_up(backup_id, a_long_time)
    assert refused
    await world.lose(backup_id)
    shown = await backups.show(world.store, backup_id, utc_now)
    assert (shown.state, shown.reason) == ("failed", "lost: AWS did not answer: OSError")
    assert await world.open_uploads() == []
    assert await world.notices() == []


class Altered(S3Store):
    """A bucket whose objects do not come back as they were written."""

    def __init__(self, s3: Any, bucket: str, alter: Callable[[bytes], bytes], part: str) -> None:
        super().__init__(s3, bucket)
        self.alter, self.part = alter, part

    async def get(self, key: str) -> Stored:
        found = await super().get(key)
        return Stored(self.alter(found.body), found.etag) if self.part in key else found

    async def stream(self, key: str, etag: str) -> AsyncIterator[bytes]:
        whole = b"".join([piece async for piece in super().stream(key, etag)])
        yield self.alter(whole) if self.part in key else whole


def a_bit_flipped(stored: bytes) -> bytes:
    middle = len(stored) // 2
    return stored[:middle] + bytes([stored[middle] ^ 1]) + stored[middle + 1 :]


@pytest.mark.parametrize("part", ["/data/", "/index/"])
@pytest.mark.parametrize(
    "alter",
    [a_bit_flipped, lambda stored: stored[:-1], lambda stored: stored + b"\0", lambda stored: b""],
    ids=["a bit flipped", "the tail cut", "a byte too many", "nothing there"],
)
async def test_the_store_gives_back_something_else(
    worker: Worker, world: World, owner: Connection, alter: Callable[[bytes], bytes], part: str
) -> None:
    await owner.execute(ROWS.format(rows=3_000))
    altered = replace(worker, store=Altered(world.s3, world.bucket, alter, part))
    assert str((await failed(altered, world)).reason).startswith("notes.notes: ")
