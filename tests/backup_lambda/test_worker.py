"""Workers come twice, die, wake up and meet each other; one backup comes out, or a reason."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from backup_lambda import backups
from backup_lambda.errors import AwsUnavailable, BackupNotFound
from backup_lambda.lease import LAST_ATTEMPT, Lease
from backup_lambda.store import S3Store
from backup_lambda.worker import Worker
from tests.backup_lambda.world import Connection, World, a_long_time, until, utc_now, worker_for


@pytest.fixture(autouse=True)
async def notes(owner: Connection) -> None:
    await owner.execute(
        "create table notes.notes as select i as id, repeat(md5(i::text), 30) as body from generate_series(1, 3000) i;"
        "alter table notes.notes add primary key (id)"
    )


async def state(world: World, backup_id: str) -> str:
    return (await backups.show(world.store, backup_id, utc_now)).state


async def test_an_invocation_that_is_delivered_twice_does_no_harm(worker: Worker, world: World) -> None:
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "stored"
    before = await world.store.etags("")
    assert await worker.back_up(backup_id, a_long_time) == "left alone"
    assert await world.store.etags("") == before
    assert len(await world.notices()) == 1


async def test_two_workers_on_one_backup_make_it_once(worker: Worker, world: World) -> None:
    backup_id = await world.wish()
    ends = await asyncio.gather(*(worker.back_up(backup_id, a_long_time) for _ in range(4)))
    assert sorted(ends) == ["left alone", "left alone", "left alone", "stored"]
    assert len(await world.notices()) == 1


async def test_a_backup_that_nobody_asked_for_is_none(worker: Worker, world: World) -> None:
    with pytest.raises(BackupNotFound):
        await worker.back_up("20261122T020000Z-3f9a2c1b", a_long_time)
    assert await world.keys() == []


async def test_a_live_lease_is_left_alone_and_a_dead_one_taken_over(worker: Worker, world: World) -> None:
    backup_id = await world.wish()
    dead = await Lease.take(world.store, f"backups/{backup_id}/progress.json", utc_now)
    assert dead
    await world.write(f"backups/{backup_id}/data/notes.notes.json.gz", "half of a dead worker's work")
    assert await worker.back_up(backup_id, a_long_time) == "left alone"
    await world.let_die(backup_id)
    assert await state(world, backup_id) == "running", "another attempt is due"
    await world.lose(backup_id)
    assert await state(world, backup_id) == "failed"
    assert await worker.back_up(backup_id, a_long_time) == "stored"
    progress = await world.read_json(f"backups/{backup_id}/progress.json")
    assert (progress["attempt"], progress["announced"]) == (2, True)


async def test_a_worker_that_lost_its_lease_stops_without_a_manifest(worker: Worker, world: World) -> None:
    """Its lease ends while it copies, as if the machine had slept; the next renewal tells it."""
    backup_id = await world.wish()
    key = f"backups/{backup_id}/progress.json"

    async def another_takes_over(request: Any, **_: Any) -> None:
        if "data/notes.notes" in request.url:
            progress = await world.read_json(key)
            await world.write(key, progress | {"owner": "another"})

    world.s3.meta.events.register("before-send.s3.PutObject", another_takes_over)
    assert await worker.back_up(backup_id, a_long_time) == "left alone"
    assert (await world.read_json(key))["owner"] == "another"
    names = await world.store.names(f"backups/{backup_id}/")
    assert not names & {"manifest.json", "failure.json"}
    assert await world.notices() == []


async def test_a_worker_that_wakes_up_cannot_replace_what_its_successor_stored(worker: Worker, world: World) -> None:
    """It sleeps before it completes a table; meanwhile another one makes the whole backup."""
    backup_id = await world.wish()
    asleep, awake = asyncio.Event(), asyncio.Event()

    async def sleep(request: Any, **_: Any) -> None:
        if "data/notes.notes" in request.url and not asleep.is_set():
            asleep.set()
            await awake.wait()

    world.s3.meta.events.register("before-send.s3.PutObject", sleep)
    sleeper = asyncio.create_task(worker.back_up(backup_id, a_long_time))
    await asleep.wait()
    await world.let_die(backup_id)
    assert await worker.back_up(backup_id, a_long_time) == "stored"
    stored = await world.store.etags(f"backups/{backup_id}/")
    awake.set()
    assert await sleeper == "left alone"
    assert await world.store.etags(f"backups/{backup_id}/") == stored
    assert len(await world.notices()) == 1


async def test_a_lease_is_renewed_while_the_database_is_silent(worker: Worker, world: World, owner: Connection) -> None:
    backup_id = await world.wish()
    key = f"backups/{backup_id}/progress.json"
    async with owner.transaction():
        await owner.execute("lock table notes.notes in access exclusive mode")
        making = asyncio.create_task(worker.back_up(backup_id, a_long_time))

        async def read() -> Any:
            return await world.read_json(key) if key in await world.keys() else None

        taken = await until(read)

        async def renewed() -> bool:
            return bool((await read())["lease_until"] > taken["lease_until"])

        await until(renewed)
    assert await making == "stored"


async def test_a_notice_that_fails_is_published_by_the_next_attempt(worker: Worker, world: World) -> None:
    """The backup is stored all the same, and is not made again."""
    backup_id = await world.wish()
    away = True

    async def refuse(**_: Any) -> None:
        if away:
            raise OSError("SNS is away")

    world.sns.meta.events.register("before-send.sns.Publish", refuse)
    with pytest.raises(AwsUnavailable):
        await worker.back_up(backup_id, a_long_time)
    assert await state(world, backup_id) == "stored"
    manifest = await world.read(f"backups/{backup_id}/manifest.json")
    with pytest.raises(AwsUnavailable):
        await worker.back_up(backup_id, a_long_time)
    away = False
    assert await worker.back_up(backup_id, a_long_time) == "stored"
    assert await world.read(f"backups/{backup_id}/manifest.json") == manifest
    assert len(await world.notices()) == 1
    assert await worker.back_up(backup_id, a_long_time) == "left alone"


async def test_a_store_that_comes_back_is_tried_again(worker: Worker, world: World) -> None:
    backup_id = await world.wish()
    away = True

    async def refuse(request: Any, **_: Any) -> None:
        if away and "/data/" in request.url:
            raise OSError("S3 is away")

    world.s3.meta.events.register("before-send.s3.PutObject", refuse)
    with pytest.raises(AwsUnavailable):
        await worker.back_up(backup_id, a_long_time)
    shown = await backups.show(world.store, backup_id, utc_now)
    assert (shown.state, shown.reason) == ("running", "AWS did not answer: OSError"), "another attempt follows"
    away = False
    assert await worker.back_up(backup_id, a_long_time) == "stored"


async def test_a_store_that_stays_away_is_the_end_at_the_last_attempt(worker: Worker, world: World) -> None:
    backup_id = await world.wish()

    async def refuse(request: Any, **_: Any) -> None:
        if "/data/" in request.url:
            raise OSError("S3 is away")

    world.s3.meta.events.register("before-send.s3.PutObject", refuse)
    for _ in range(LAST_ATTEMPT - 1):
        with pytest.raises(AwsUnavailable):
            await worker.back_up(backup_id, a_long_time)
    assert await world.notices() == []
    assert await worker.back_up(backup_id, a_long_time) == "failed"
    [notice] = await world.notices()
    assert json.loads(notice["Message"])["data"]["backup"]["reason"] == "AWS did not answer: OSError"


class Unforeseen(S3Store):
    """A bucket that makes the worker fall over something that nobody thought of."""

    async def etags(self, prefix: str) -> dict[str, str]:
        raise RuntimeError("the row was hunter2")


async def test_what_nobody_foresaw_is_recorded_and_announced_at_the_last_attempt(worker: Worker, world: World) -> None:
    broken = replace(worker, store=Unforeseen(world.s3, world.bucket))
    backup_id = await world.wish()
    for _ in range(LAST_ATTEMPT - 1):
        with pytest.raises(RuntimeError):
            await broken.back_up(backup_id, a_long_time)
        shown = await backups.show(world.store, backup_id, utc_now)
        assert (shown.state, shown.reason) == ("running", "unforeseen: RuntimeError")
    assert await broken.back_up(backup_id, a_long_time) == "failed"
    shown = await backups.show(world.store, backup_id, utc_now)
    assert (shown.state, shown.reason, shown.announced) == ("failed", "unforeseen: RuntimeError", True)
    [notice] = await world.notices()
    assert "hunter2" not in notice["Message"]


async def test_a_renewal_that_hangs_before_the_end_writes_no_end(
    worker: Worker, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is answered at last, the lease may be another worker's."""
    monkeypatch.setattr("backup_lambda.worker.COMMIT_SECONDS", 0.5)
    backup_id = await world.wish()
    hung = asyncio.Event()

    async def hang_once(request: Any, **_: Any) -> None:
        if request.url.endswith("progress.json") and b'"checking"' in request.body.getvalue() and not hung.is_set():
            hung.set()
            await asyncio.Event().wait()

    world.s3.meta.events.register("before-send.s3.PutObject", hang_once)
    async with asyncio.timeout(60):
        with pytest.raises(AwsUnavailable, match="in time"):
            await worker.back_up(backup_id, a_long_time)
    assert hung.is_set()
    assert not {"manifest.json", "failure.json"} & await world.store.names(f"backups/{backup_id}/")


async def test_the_end_of_a_backup_whose_notice_is_refused_is_not_announced(world: World) -> None:
    """Whoever follows the backup sees that, and can tell others."""

    async def refuse(**_: Any) -> None:
        raise OSError("SNS is away")

    world.sns.meta.events.register("before-send.sns.Publish", refuse)
    backup_id = await world.wish()
    worker = worker_for(world, "nonsense")
    for _ in range(LAST_ATTEMPT):
        with pytest.raises(AwsUnavailable):
            await worker.back_up(backup_id, a_long_time)
    shown = await backups.show(world.store, backup_id, utc_now)
    assert (shown.state, shown.announced) == ("failed", False)


async def test_the_previous_backup_is_found_behind_many_that_failed(worker: Worker, world: World) -> None:
    first = await world.wish()
    assert await worker.back_up(first, a_long_time) == "stored"
    for number in range(101):
        await world.write(f"backups/21000101T000000Z-{number:08x}/request.json", {})
    second = await world.wish()
    assert await worker.back_up(second, a_long_time) == "stored"
    assert (await world.read_json(f"backups/{second}/manifest.json"))["previous"]["id"] == first


async def test_an_answer_that_got_lost_is_found_out(worker: Worker, world: World) -> None:
    """S3 did as it was asked, but we did not hear of it: the same request, sent again, meets its own object."""
    backup_id = await world.wish()
    sent: set[str] = set()

    async def send_twice(request: Any, **_: Any) -> None:
        name = request.url.rpartition("/")[2]
        if name in {"manifest.json", "progress.json"} and name not in sent:
            sent.add(name)
            body = request.body.read()
            request.body.seek(0)
            await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{backup_id}/{name}", Body=body)

    world.s3.meta.events.register("before-send.s3.PutObject", send_twice)
    assert await worker.back_up(backup_id, a_long_time) == "stored"
    assert sent == {"manifest.json", "progress.json"}
    assert len(await world.notices()) == 1
