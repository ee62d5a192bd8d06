"""The worker's process is killed at every stage, and invoked again: the same backup, once.

It is the real function in a process of its own. It is killed while a call of it waits at the gate, or a statement on
the wire: before what it asks for is done, or after.
"""

import asyncio
import signal

import pytest

from backup_lambda.tasks import Started, Task
from backup_lambda.worker import Worker
from tests.backup_lambda.faults import wire
from tests.backup_lambda.faults.clients import Clients
from tests.backup_lambda.faults.gate import Answer, Call, Forward, Gate
from tests.backup_lambda.faults.matrix import End
from tests.backup_lambda.faults.process import settings_of, started
from tests.backup_lambda.faults.wire import Wire, wired
from tests.backup_lambda.world import World, a_long_time, until
from tests.servers import Aws

PART_BYTES = 256 * 1024


async def killed_at(happened: asyncio.Event, environment: dict[str, str], task: Started) -> None:
    """It never comes to its end."""
    process = started(environment, task, part_bytes=PART_BYTES)
    try:

        async def reached() -> bool:
            assert process.is_alive()
            return happened.is_set()

        await until(reached)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    process.close()


async def kept_waiting(call: Call, forward: Forward) -> Answer | None:
    await asyncio.Event().wait()
    return None


async def done_and_kept_waiting(call: Call, forward: Forward) -> Answer | None:
    await forward(call)
    await asyncio.Event().wait()
    return None


CALLS = {
    "taking the lock": ("PutObject", "progress.json", kept_waiting),
    "the lock is taken": ("PutObject", "progress.json", done_and_kept_waiting),
    "uploading a part": ("UploadPart", "data/", done_and_kept_waiting),
    "an upload is complete": ("CompleteMultipartUpload", "data/", done_and_kept_waiting),
    "an index": ("PutObject", "index/scheduler.runs", done_and_kept_waiting),
    "reading back": ("GetObject", "data/notes.notes", kept_waiting),
    "the signature is written": ("PutObject", "manifest.sig", done_and_kept_waiting),
    "writing the manifest": ("PutObject", "manifest.json", kept_waiting),
    "the manifest is written": ("PutObject", "manifest.json", done_and_kept_waiting),
    "the proof is written": ("PutObject", "proof/1.json", done_and_kept_waiting),
    "announcing": ("Publish", "", kept_waiting),
    "it was announced": ("Publish", "", done_and_kept_waiting),
}


@pytest.mark.fault("the worker is killed")
@pytest.mark.parametrize("at", CALLS)
async def test_at_a_call_of_aws(
    aws: Aws,
    gate: Gate,
    clients: Clients,
    worker: Worker,
    world: World,
    source_url: str,
    proof_url: str,
    ends: End,
    at: str,
) -> None:
    """What was announced, but not noted down, is announced once more."""
    backup_id = await world.wish()
    broken = gate.break_(*CALLS[at], times=1)
    environment = await settings_of(aws, clients, world, source_url, proof_url) | {"AWS_ENDPOINT_URL": gate.url}
    await killed_at(broken.happened, environment, Task(task="backup", backup_id=backup_id))
    gate.mend()
    if at != "taking the lock":
        assert await worker.back_up(backup_id, a_long_time) == "left alone", "its lease has not ended"
        await world.let_die(backup_id)
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    await ends(
        backup_id,
        "proven",
        notices=(2,) if at == "it was announced" else (1,),
        uploads_left=at == "uploading a part",
    )


@pytest.mark.fault("the worker is killed")
@pytest.mark.parametrize(
    ("change", "proof_sent"),
    [
        (b"", b"create schema"),
        (b"", b"insert into"),
        (b"", b"COPY"),
        (b'{"id":1100,', b""),
    ],
    ids=["making the scratch", "restoring", "comparing", "in the middle of COPY"],
)
async def test_at_a_statement(
    aws: Aws, clients: Clients, worker: Worker, world: World, source_url: str, proof_url: str, ends: End,
    change: bytes, proof_sent: bytes,
) -> None:  # fmt: skip
    """The scratch database that it left is dropped by the next attempt."""
    backup_id = await world.wish()
    happened = asyncio.Event()

    def stop(mark: bytes) -> Wire:
        return wire.at(mark, happened.set, asyncio.Event().wait) if mark else wire.same

    async with wired(source_url, stop(change)) as url, wired(proof_url, sent=stop(proof_sent)) as proving_url:
        environment = await settings_of(aws, clients, world, url, proving_url)
        await killed_at(happened, environment, Task(task="backup", backup_id=backup_id))
    await world.let_die(backup_id)
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    await ends(backup_id, "proven", uploads_left=True)
