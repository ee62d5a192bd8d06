"""The same is asked for twice, delivered twice, and worked on by two at once: one backup, one end."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from backup_lambda.tasks import Task
from backup_lambda.worker import Worker
from tests.backup_lambda.faults.gate import Answer, Call, Forward, Gate
from tests.backup_lambda.faults.matrix import End
from tests.backup_lambda.world import World, a_long_time, client_of


@pytest_asyncio.fixture(loop_scope="session")
async def api(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(world, world.start_worker) as client:
        yield client


@pytest.mark.fault("the same invocation is delivered twice at once")
async def test_at_once(worker: Worker, world: World, ends: End) -> None:
    backup_id = await world.wish()
    outcomes = await asyncio.gather(*(worker.back_up(backup_id, a_long_time) for _ in range(2)))
    assert sorted(outcomes) == ["left alone", "proven"]
    await ends(backup_id, "proven")


@pytest.mark.fault("the same invocation is delivered again after the end")
async def test_after_the_end(worker: Worker, world: World, ends: End) -> None:
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    before = await world.store.etags("")
    assert await worker.back_up(backup_id, a_long_time) == "left alone"
    assert await world.store.etags("") == before
    await ends(backup_id, "proven")


@pytest.mark.fault("two workers are on one backup")
@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("UploadPart", "data/"),
        ("CompleteMultipartUpload", "data/"),
        ("PutObject", "index/notes.notes"),
        ("PutObject", "manifest.sig"),
        ("PutObject", "manifest.json"),
        ("PutObject", "proof/1.json"),
        ("Publish", ""),
    ],
    ids=["a part", "completing", "an index", "the signature", "the manifest", "the proof", "announcing"],
)
async def test_a_sleeper_wakes_up(
    worker: Worker, world: World, gate: Gate, ends: End, operation: str, name: str
) -> None:
    """One sleeps so long that another takes its lease and makes all of it; then the first one goes on."""
    awake = asyncio.Event()

    async def sleep(call: Call, forward: Forward) -> Answer | None:
        await awake.wait()
        return await forward(call)

    backup_id = await world.wish()
    asleep = gate.break_(operation, name, sleep, times=1)
    sleeper = asyncio.create_task(worker.back_up(backup_id, a_long_time))
    await asleep.happened.wait()
    await world.let_die(backup_id)
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    stored = await world.store.etags(f"backups/{backup_id}/")
    awake.set()
    assert await sleeper == "left alone"
    assert await world.store.etags(f"backups/{backup_id}/") == stored
    await ends(backup_id, "proven", notices=(1, 2) if operation == "Publish" else (1,))


@pytest.mark.fault("the same Idempotency-Key comes twice with the same body")
async def test_the_same_key(worker: Worker, world: World, api: httpx.AsyncClient, ends: End) -> None:
    headers = {"Idempotency-Key": "nightly-2026-11-22"}
    answers = await asyncio.gather(
        *(api.post("/backups", json={"label": "nightly"}, headers=headers) for _ in range(2))
    )
    [backup_id] = {answer.json()["id"] for answer in answers}
    await asyncio.gather(*(worker.back_up(each, a_long_time) for each in world.started))
    again = await api.post("/backups", json={"label": "nightly"}, headers=headers)
    assert (again.json()["id"], again.json()["state"]) == (backup_id, "proven")
    assert [key for key in await world.keys("backups/") if key.endswith("request.json")] == [
        f"backups/{backup_id}/request.json"
    ]
    await ends(backup_id, "proven")


@pytest.mark.fault("the same Idempotency-Key comes with another body")
async def test_the_same_key_for_something_else(worker: Worker, world: World, api: httpx.AsyncClient, ends: End) -> None:
    headers = {"Idempotency-Key": "nightly-2026-11-22"}
    backup_id = (await api.post("/backups", json={"label": "nightly"}, headers=headers)).json()["id"]
    refused = await api.post("/backups", json={"label": "weekly"}, headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    assert world.started == [backup_id]
    await ends(backup_id, "proven")


@pytest.mark.fault("a later proof is delivered twice at once")
async def test_a_proof_twice(worker: Worker, world: World, api: httpx.AsyncClient, ends: End) -> None:
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    await world.notices()
    assert (await api.post(f"/backups/{backup_id}/proofs", json={})).status_code == 202
    task = world.tasks[-1]
    assert isinstance(task, Task)
    outcomes = await asyncio.gather(*(worker.do(task, a_long_time) for _ in range(2)))
    assert sorted(outcomes) == ["left alone", "proven"]
    await ends(backup_id, "proven")
