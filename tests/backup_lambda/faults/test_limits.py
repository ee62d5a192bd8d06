"""Time, memory, a person and the clock end a worker's work, or try to, at every stage."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from backup_lambda import backups
from backup_lambda.guards import KEPT_SECONDS
from backup_lambda.tasks import Task
from backup_lambda.worker import Worker
from tests.backup_lambda.faults import answers, wire
from tests.backup_lambda.faults.clients import Clients
from tests.backup_lambda.faults.gate import Gate
from tests.backup_lambda.faults.invoking import failed, invoked
from tests.backup_lambda.faults.matrix import End
from tests.backup_lambda.faults.process import settings_of, started
from tests.backup_lambda.faults.source import NOTES, digests
from tests.backup_lambda.faults.wire import wired
from tests.backup_lambda.world import Connection, World, a_long_time, until, utc_now
from tests.servers import Aws, Cluster

MEBIBYTE = 1024 * 1024
MakeWorker = Callable[[str, str], Worker]
MAKING = {
    "in the middle of COPY": ("UploadPart", "data/"),
    "completing an upload": ("CompleteMultipartUpload", "data/"),
    "reading back": ("GetObject", "data/"),
}
PROVING = {"reading for the proof": ("GetObject", "manifest.sig")}


def nearly_over(happened: asyncio.Event) -> Callable[[], float]:
    return lambda: KEPT_SECONDS - 1.0 if happened.is_set() else KEPT_SECONDS + 0.3


@pytest.mark.fault("the time is nearly over before anything began")
async def test_no_time(worker: Worker, world: World, ends: End) -> None:
    backup_id = await failed(worker, world, lambda: KEPT_SECONDS - 1.0)
    await ends(backup_id, "failed", reason="python -m backup_lambda run")


@pytest.mark.fault("the time is nearly over")
@pytest.mark.parametrize("stage", MAKING)
async def test_time_ends(worker: Worker, world: World, gate: Gate, ends: End, stage: str) -> None:
    broken = gate.break_(*MAKING[stage], answers.silent)
    backup_id = await failed(worker, world, nearly_over(broken.happened))
    assert broken.happened.is_set()
    await ends(backup_id, "failed", reason="python -m backup_lambda run")


@pytest.mark.fault("the time is nearly over")
@pytest.mark.parametrize("mark", [b"create schema", b"insert into", b"COPY"], ids=["schema", "restoring", "comparing"])
async def test_time_ends_in_the_proof(
    gated_worker: MakeWorker, source_url: str, proof_url: str, world: World, ends: End, mark: bytes
) -> None:
    happened = asyncio.Event()
    backup_id = await world.wish()
    async with wired(proof_url, sent=wire.at(mark, happened.set, asyncio.Event().wait)) as url:
        assert await gated_worker(source_url, url).back_up(backup_id, nearly_over(happened)) == "stored"
    await ends(backup_id, "stored", reason="not proven: deadline: ")


@pytest.mark.fault("it is cancelled before a worker came")
async def test_cancelled_in_the_queue(worker: Worker, world: World, ends: End) -> None:
    backup_id = await world.wish()
    await backups.cancel(world.store, backup_id, "ops", utc_now)
    assert await worker.back_up(backup_id, a_long_time) == "cancelled"
    await ends(backup_id, "cancelled", reason="cancelled by ops")


@pytest.mark.fault("it is cancelled")
@pytest.mark.parametrize("stage", MAKING | PROVING)
async def test_cancelled(
    worker: Worker, world: World, gate: Gate, ends: End, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored stays stored: then it is the proof that is cancelled."""
    monkeypatch.setattr("backup_lambda.guards.LOOK_AGAIN_SECONDS", 0.05)
    backup_id = await world.wish()
    broken = gate.break_(*(MAKING | PROVING)[stage], answers.silent, times=1)
    working = asyncio.create_task(worker.back_up(backup_id, a_long_time))
    await broken.happened.wait()
    await backups.cancel(world.store, backup_id, "ops", utc_now)
    await working
    await ends(backup_id, "stored" if stage in PROVING else "cancelled", reason="cancelled by ops")


@pytest.mark.fault("the process is told to end")
@pytest.mark.parametrize("stage", MAKING | PROVING)
async def test_stopped(worker: Worker, world: World, gate: Gate, ends: End, stage: str) -> None:
    backup_id = await world.wish()
    broken = gate.break_(*(MAKING | PROVING)[stage], answers.silent, times=1)
    working = asyncio.create_task(worker.back_up(backup_id, a_long_time))
    await broken.happened.wait()
    worker.stop.set()
    await working
    await ends(backup_id, "stored" if stage in PROVING else "failed", reason="the process was told to end")


@pytest.mark.fault("the clock is set back between two attempts")
@pytest.mark.parametrize("back", [timedelta(minutes=2), timedelta(days=1)], ids=["two minutes", "a day"])
async def test_the_clock_is_set_back(worker: Worker, world: World, gate: Gate, ends: End, back: timedelta) -> None:
    """The first attempt's lease seems to last; but it was given back, or nobody holds a lease so long."""
    ahead = replace(worker, means=replace(worker.means, now=lambda: utc_now() + back))
    backup_id = await world.wish()
    gate.break_("PutObject", "index/", answers.error(500, "InternalError"))
    await invoked(ahead, backup_id, times=1)
    gate.mend()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    shown = await ends(backup_id, "proven")
    assert shown.started_at
    assert shown.ended_at
    assert shown.started_at <= shown.ended_at


@pytest.mark.fault("the clock is set back by a day, and the worker ahead of it is dead")
async def test_a_lease_from_the_future(worker: Worker, world: World, gate: Gate, ends: End) -> None:
    backup_id = await world.wish()
    ahead = replace(worker, means=replace(worker.means, now=lambda: utc_now() + timedelta(days=1)))
    broken = gate.break_("PutObject", "index/", answers.silent)
    dead = asyncio.create_task(ahead.back_up(backup_id, a_long_time))
    await broken.happened.wait()
    gate.break_("PutObject", "progress.json", answers.error(500, "InternalError"))
    dead.cancel()
    await asyncio.gather(dead, return_exceptions=True)
    gate.mend()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    await ends(backup_id, "proven")


@pytest.mark.fault("the clock is set back in the middle of the work")
async def test_the_clock_is_set_back_meanwhile(worker: Worker, world: World, gate: Gate, ends: End) -> None:
    broken = gate.break_("UploadPart", "data/", answers.slow(0))

    def now() -> datetime:
        return utc_now() - (timedelta(hours=3) if broken.happened.is_set() else timedelta(0))

    backup_id = await world.wish()
    assert await replace(worker, means=replace(worker.means, now=now)).back_up(backup_id, a_long_time) == "proven"
    shown = await ends(backup_id, "proven")
    assert shown.started_at
    assert shown.ended_at
    assert shown.started_at <= shown.ended_at


@pytest.mark.fault("the process may have 256 MiB, and the table has more than the worker may hold")
async def test_little_memory(
    aws: Aws,
    clients: Clients,
    cluster: Cluster,
    database: str,
    owner: Connection,
    proof_url: str,
    world: World,
    ends: End,
) -> None:
    """Parts are as large as in production."""
    await owner.execute(f"drop table notes.oddities, notes.notes; {NOTES.format(rows=30_000)}")
    await owner.execute("grant select on notes.notes to notes_backup")
    ends.truth = await digests(owner)
    environment = await settings_of(aws, clients, world, cluster.url("notes_backup", database), proof_url)
    await ended(environment, backup_id := await world.wish())
    await ends(backup_id, "proven")


@pytest.mark.fault("the process may have 256 MiB, and a row has 100 MB")
async def test_too_little_memory(
    aws: Aws,
    clients: Clients,
    cluster: Cluster,
    database: str,
    owner: Connection,
    proof_url: str,
    world: World,
    ends: End,
) -> None:
    """It says so, or gets by."""
    await owner.execute("insert into notes.notes values (0, repeat('x', 100000000))")
    ends.truth = await digests(owner)
    environment = await settings_of(aws, clients, world, cluster.url("notes_backup", database), proof_url)
    backup_id = await world.wish()
    for _ in range(2):
        await ended(environment, backup_id)
    shown = await ends(backup_id, "proven", "stored", "failed")
    too_long = "a row of notes.notes is too long for this process's memory"
    assert shown.state != "failed" or too_long in (shown.reason or "")


async def ended(environment: dict[str, str], backup_id: str) -> None:
    task = Task(task="backup", backup_id=backup_id)
    process = started(environment, task, part_bytes=8 * MEBIBYTE, data_bytes=256 * MEBIBYTE)

    async def over() -> bool:
        return not process.is_alive()

    await until(over, 100)
    process.join()
    process.close()
