"""PostgreSQL is away, takes another password, is killed."""

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import asyncpg
import pytest

from backup_lambda.worker import Worker
from tests.backup_lambda.faults import wire
from tests.backup_lambda.faults.gate import Answer, Call, Forward, Gate
from tests.backup_lambda.faults.invoking import failed
from tests.backup_lambda.faults.matrix import End
from tests.backup_lambda.faults.own import Own
from tests.backup_lambda.faults.source import NOTES, digests
from tests.backup_lambda.faults.wire import wired
from tests.backup_lambda.world import Connection, World, a_long_time
from tests.servers import free_port

MakeWorker = Callable[[str, str], Worker]


@pytest.fixture
def own_source(own: Own) -> str:
    """The URL of a server that may be killed, with more rows than fit into what lies between it and the worker."""
    if not own.server.psql("holdfast", ["select to_regclass('notes.notes')"]).strip():
        own.server.psql("holdfast", [NOTES.format(rows=20_000), "grant select on notes.notes to notes_backup"])
    return own.url("notes_backup", "holdfast")


@pytest.mark.fault("nothing answers at the database's address")
async def test_it_is_away(gated_worker: MakeWorker, proof_url: str, world: World, ends: End) -> None:
    url = f"postgresql://notes_backup:hunter2@127.0.0.1:{free_port()}/holdfast"
    await ends(await failed(gated_worker(url, proof_url), world), "failed", reason="PostgreSQL: ")


@pytest.mark.fault("the database takes another password")
async def test_its_password_changed(
    gated_worker: MakeWorker, source_url: str, proof_url: str, world: World, ends: End
) -> None:
    url = source_url.replace(str(urlsplit(source_url).password), "hunter2")
    backup_id = await failed(gated_worker(url, proof_url), world)
    await ends(backup_id, "failed", reason="password authentication failed")


@pytest.mark.fault("the database accepts connections and says nothing")
async def test_it_is_silent(
    gated_worker: MakeWorker, proof_url: str, world: World, ends: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_lambda.snapshot.CONNECT_SECONDS", 0.2)

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(-1)
        finally:
            await wire.aborted(writer)

    async with await asyncio.start_server(be_silent, "127.0.0.1", 0) as server:
        url = f"postgresql://u:hunter2@127.0.0.1:{server.sockets[0].getsockname()[1]}/x?sslmode=disable"
        backup_id = await failed(gated_worker(url, proof_url), world)
    await ends(backup_id, "failed", reason="PostgreSQL: did not answer within 0.2 s")


@pytest.mark.fault("the secret cannot be used")
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
    ids=["a slash in the password", "no such file", "no root certificate", "no host", "no user", "a word", "empty"],
)
async def test_the_secret_is_wrong(
    gated_worker: MakeWorker, proof_url: str, world: World, ends: End, secret: str
) -> None:
    shown = await ends(
        await failed(gated_worker(secret, proof_url), world), "failed", reason="the database's URL cannot be used ("
    )
    assert "or its TLS files are missing" in str(shown.reason)


@pytest.mark.fault("PostgreSQL is killed before COPY")
async def test_killed_before_copy(
    gated_worker: MakeWorker, own: Own, own_source: str, proof_url: str, world: World, ends: End
) -> None:
    async with wired(own_source, sent=wire.at(b"lock table", own.kill)) as url:
        backup_id = await failed(gated_worker(url, proof_url), world)
    await ends(backup_id, "failed", reason="PostgreSQL: ")


@pytest.mark.fault("PostgreSQL is killed in the middle of COPY")
@pytest.mark.parametrize("how", ["all of it", "its postmaster"])
async def test_killed_during_copy(
    gated_worker: MakeWorker, own: Own, own_source: str, proof_url: str, world: World, ends: End, gate: Gate, how: str
) -> None:
    kill = own.kill if how == "all of it" else own.kill_the_postmaster

    async def and_goes_on(call: Call, forward: Forward) -> Answer | None:
        kill()
        return await forward(call)

    gate.break_("UploadPart", "data/", and_goes_on, times=1)
    backup_id = await failed(gated_worker(own_source, proof_url), world)
    await ends(backup_id, "failed", reason="PostgreSQL: ")


@pytest.mark.fault("PostgreSQL is killed after COPY")
async def test_killed_after_copy(
    gated_worker: MakeWorker, own: Own, own_source: str, proof_url: str, world: World, ends: End, gate: Gate
) -> None:
    """All rows are there, but their hash can no longer be asked for."""
    async with wired(own_source, wire.at(b"COPY 20000\0", own.kill)) as url:
        backup_id = await failed(gated_worker(url, proof_url), world)
    await ends(backup_id, "failed", reason="PostgreSQL: ")


@pytest.mark.fault("PostgreSQL is killed when all is read")
async def test_killed_when_all_is_read(
    gated_worker: MakeWorker, own: Own, own_source: str, proof_url: str, world: World, ends: End, gate: Gate
) -> None:
    """The proof server is another one: nothing is missing."""
    superuser = await asyncpg.connect(own.url("postgres", "holdfast"))
    ends.truth = await digests(superuser)
    superuser.terminate()

    async def and_goes_on(call: Call, forward: Forward) -> Answer | None:
        own.kill()
        return await forward(call)

    gate.break_("GetObject", "index/", and_goes_on, times=1)
    backup_id = await world.wish()
    assert await gated_worker(own_source, proof_url).back_up(backup_id, a_long_time) == "proven"
    await ends(backup_id, "proven")


@pytest.mark.fault("the session is ended by an administrator")
async def test_the_session_is_ended(
    worker: Worker, world: World, superuser: Connection, source: str, ends: End, gate: Gate
) -> None:
    async def end(call: Call, forward: Forward) -> Answer | None:
        await superuser.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'notes_backup' and datname = $1",
            source,
        )
        return await forward(call)

    gate.break_("PutObject", "index/notes.notes", end)
    await ends(await failed(worker, world), "failed", reason="PostgreSQL: ")
