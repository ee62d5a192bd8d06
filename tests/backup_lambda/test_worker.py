"""Workers come twice, die, wake up and meet each other; one backup comes out, or a reason."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from aiobotocore.awsrequest import AioAWSResponse
from botocore.awsrequest import HeadersDict

from backup_lambda import attempt, backups, guards, live, multipart, restoring, scratch
from backup_lambda.errors import AwsRefused, AwsUnavailable, BackupNotFound
from backup_lambda.lease import LAST_ATTEMPT, LEASE, Lease
from backup_lambda.multipart import Upload
from backup_lambda.store import S3Store
from backup_lambda.tasks import Task
from backup_lambda.worker import Worker
from tests.backup_lambda.world import Connection, World, a_long_time, until, utc_now, worker_for
from tests.servers import Cluster


@pytest.fixture
def storing(world: World, cluster: Cluster, database: str) -> Worker:
    """A worker that proves nothing."""
    return worker_for(world, cluster.url("notes_backup", database))


@pytest.fixture(autouse=True)
async def notes(owner: Connection) -> None:
    await owner.execute(
        "create table notes.notes as select i as id, repeat(md5(i::text), 30) as body from generate_series(1, 3000) i;"
        "alter table notes.notes add primary key (id)"
    )


async def state(world: World, backup_id: str) -> str:
    return (await backups.show(world.store, backup_id, utc_now)).state


async def test_an_invocation_that_is_delivered_twice_does_no_harm(storing: Worker, world: World) -> None:
    backup_id = await world.wish()
    assert await storing.back_up(backup_id, a_long_time) == "stored"
    before = await world.store.etags("")
    assert await storing.back_up(backup_id, a_long_time) == "left alone"
    assert await world.store.etags("") == before
    assert len(await world.notices()) == 1


async def test_two_workers_on_one_backup_make_it_once(storing: Worker, world: World) -> None:
    backup_id = await world.wish()
    ends = await asyncio.gather(*(storing.back_up(backup_id, a_long_time) for _ in range(4)))
    assert sorted(ends) == ["left alone", "left alone", "left alone", "stored"]
    assert len(await world.notices()) == 1


async def test_a_backup_that_nobody_asked_for_is_none(storing: Worker, world: World) -> None:
    with pytest.raises(BackupNotFound):
        await storing.back_up("20261122T020000Z-3f9a2c1b", a_long_time)
    assert await world.keys() == []


async def test_a_live_lease_is_left_alone_and_a_dead_one_taken_over(storing: Worker, world: World) -> None:
    backup_id = await world.wish()
    dead = await Lease.take(world.store, f"backups/{backup_id}/progress.json", utc_now)
    assert dead
    await world.write(f"backups/{backup_id}/data/notes.notes.json.gz", "half of a dead worker's work")
    assert await storing.back_up(backup_id, a_long_time) == "left alone"
    await world.let_die(backup_id)
    assert await state(world, backup_id) == "running", "another attempt is due"
    await world.lose(backup_id)
    assert await state(world, backup_id) == "failed"
    assert await storing.back_up(backup_id, a_long_time) == "stored"
    progress = await world.read_json(f"backups/{backup_id}/progress.json")
    assert (progress["attempt"], progress["announced"]) == (2, True)


async def test_a_worker_that_lost_its_lease_stops_without_a_manifest(storing: Worker, world: World) -> None:
    """Its lease ends while it copies, as if the machine had slept; the next renewal tells it."""
    backup_id = await world.wish()
    key = f"backups/{backup_id}/progress.json"

    async def another_takes_over(request: Any, **_: Any) -> None:
        if "data/notes.notes" in request.url:
            progress = await world.read_json(key)
            await world.write(key, progress | {"owner": "another"})

    world.s3.meta.events.register("before-send.s3.PutObject", another_takes_over)
    assert await storing.back_up(backup_id, a_long_time) == "left alone"
    assert (await world.read_json(key))["owner"] == "another"
    names = await world.store.names(f"backups/{backup_id}/")
    assert not names & {"manifest.json", "failure.json"}
    assert await world.notices() == []


async def test_a_worker_that_wakes_up_cannot_replace_what_its_successor_stored(storing: Worker, world: World) -> None:
    """It sleeps before it completes a table; meanwhile another one makes the whole backup."""
    backup_id = await world.wish()
    asleep, awake = asyncio.Event(), asyncio.Event()

    async def sleep(request: Any, **_: Any) -> None:
        if "data/notes.notes" in request.url and not asleep.is_set():
            asleep.set()
            await awake.wait()

    world.s3.meta.events.register("before-send.s3.PutObject", sleep)
    sleeper = asyncio.create_task(storing.back_up(backup_id, a_long_time))
    await asleep.wait()
    await world.let_die(backup_id)
    assert await storing.back_up(backup_id, a_long_time) == "stored"
    stored = await world.store.etags(f"backups/{backup_id}/")
    awake.set()
    assert await sleeper == "left alone"
    assert await world.store.etags(f"backups/{backup_id}/") == stored
    assert len(await world.notices()) == 1


async def test_a_lease_is_renewed_while_the_database_is_silent(
    storing: Worker, world: World, owner: Connection
) -> None:
    backup_id = await world.wish()
    key = f"backups/{backup_id}/progress.json"
    async with owner.transaction():
        await owner.execute("lock table notes.notes in access exclusive mode")
        making = asyncio.create_task(storing.back_up(backup_id, a_long_time))

        async def read() -> Any:
            return await world.read_json(key) if key in await world.keys() else None

        taken = await until(read)

        async def renewed() -> bool:
            return bool((await read())["lease_until"] > taken["lease_until"])

        await until(renewed)
    assert await making == "stored"


async def test_a_lease_is_renewed_while_sns_is_slow(
    storing: Worker, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_lambda.lease.RENEW_SECONDS", 0.02)
    backup_id = await world.wish()

    async def lease_until() -> str:
        return str((await world.read_json(f"backups/{backup_id}/progress.json"))["lease_until"])

    async def be_slow(**_: Any) -> None:
        before = await lease_until()

        async def renewed() -> bool:
            return await lease_until() > before

        await until(renewed, 10)

    world.sns.meta.events.register("before-send.sns.Publish", be_slow)
    assert await storing.back_up(backup_id, a_long_time) == "stored"


async def test_a_notice_that_fails_is_published_by_the_next_attempt(storing: Worker, world: World) -> None:
    """The backup is stored all the same, and is not made again."""
    backup_id = await world.wish()
    away = True

    async def refuse(**_: Any) -> None:
        if away:
            raise OSError("SNS is away")

    world.sns.meta.events.register("before-send.sns.Publish", refuse)
    with pytest.raises(AwsUnavailable):
        await storing.back_up(backup_id, a_long_time)
    assert await state(world, backup_id) == "running", "another attempt is due"
    manifest = await world.read(f"backups/{backup_id}/manifest.json")
    with pytest.raises(AwsUnavailable):
        await storing.back_up(backup_id, a_long_time)
    shown = await backups.show(world.store, backup_id, utc_now)
    assert (shown.state, shown.announced) == ("stored", False), "nobody else comes, and nobody was told"
    away = False
    assert await storing.back_up(backup_id, a_long_time) == "stored"
    assert await world.read(f"backups/{backup_id}/manifest.json") == manifest
    assert len(await world.notices()) == 1
    assert await storing.back_up(backup_id, a_long_time) == "left alone"


async def test_a_store_that_comes_back_is_tried_again(storing: Worker, world: World) -> None:
    backup_id = await world.wish()
    away = True

    async def refuse(request: Any, **_: Any) -> None:
        if away and "/data/" in request.url:
            raise OSError("S3 is away")

    world.s3.meta.events.register("before-send.s3.PutObject", refuse)
    with pytest.raises(AwsUnavailable):
        await storing.back_up(backup_id, a_long_time)
    shown = await backups.show(world.store, backup_id, utc_now)
    assert (shown.state, shown.reason) == ("running", "AWS did not answer: OSError"), "another attempt follows"
    away = False
    assert await storing.back_up(backup_id, a_long_time) == "stored"


async def test_a_store_that_stays_away_is_the_end_at_the_last_attempt(storing: Worker, world: World) -> None:
    backup_id = await world.wish()

    async def refuse(request: Any, **_: Any) -> None:
        if "/data/" in request.url:
            raise OSError("S3 is away")

    world.s3.meta.events.register("before-send.s3.PutObject", refuse)
    for _ in range(LAST_ATTEMPT - 1):
        with pytest.raises(AwsUnavailable):
            await storing.back_up(backup_id, a_long_time)
    assert await world.notices() == []
    assert await storing.back_up(backup_id, a_long_time) == "failed"
    [notice] = await world.notices()
    assert json.loads(notice["Message"])["data"]["backup"]["reason"] == "AWS did not answer: OSError"


async def test_a_notice_that_hangs_leaves_the_time_to_say_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backup_lambda.attempt.ANNOUNCE_SECONDS", 0.5)

    async def hang(**_: Any) -> None:
        await asyncio.Event().wait()

    world.sns.meta.events.register("before-send.sns.Publish", hang)
    backup_id = await world.wish()
    async with asyncio.timeout(60):
        with pytest.raises(AwsUnavailable, match="could not be announced in time"):
            await worker_for(world, "nonsense").back_up(backup_id, a_long_time)
    shown = await backups.show(world.store, backup_id, utc_now)
    assert (shown.state, shown.announced) == ("failed", False)
    assert "announced in time" in (await world.read_json(f"backups/{backup_id}/progress.json"))["reason"]


def test_the_end_fits_into_the_time_that_is_kept_for_it() -> None:
    """The manifest or the failure, and the record of the proof, are two commits."""
    to_stop = max(multipart.ABORT_SECONDS, scratch.DROP_SECONDS)
    assert to_stop + 2 * attempt.COMMIT_SECONDS + attempt.ANNOUNCE_SECONDS < guards.KEPT_SECONDS
    assert LEASE.total_seconds() / 2 > attempt.COMMIT_SECONDS
    to_ask = max(restoring.ASK_SECONDS, scratch.DROP_SECONDS)  # what was prepared, or what was not has to be dropped
    assert to_ask + attempt.COMMIT_SECONDS + attempt.ANNOUNCE_SECONDS < guards.KEPT_SECONDS
    assert live.ENDS_WITHIN_SECONDS < restoring.ASK_SECONDS / 2


async def test_everything_that_a_backup_consists_of_is_locked(worker: Worker, world: World) -> None:
    bucket = f"locked-{world.bucket}"
    await world.s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    locked = replace(world, bucket=bucket)
    store = S3Store(world.s3, bucket, object_lock_days=3)
    worker = replace(worker, means=replace(worker.means, store=store))
    backup_id = await locked.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    again = Task(task="proof", backup_id=backup_id, number=2)
    assert await worker.do(again, a_long_time) == "proven"
    free = set()
    for key in await locked.keys():
        head = await world.s3.head_object(Bucket=bucket, Key=key)
        if head.get("ObjectLockMode") != "GOVERNANCE":
            free.add(key.removeprefix(f"backups/{backup_id}/"))
    assert free == {"request.json", "progress.json"}
    assert len(await locked.keys()) == len(free) + len(["data", "index"]) + len(["json", "sig"]) * 3


async def test_a_failure_is_not_locked(world: World) -> None:
    """It says that there is no backup."""
    bucket = f"locked-{world.bucket}"
    await world.s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    locked = replace(world, bucket=bucket)
    backup_id = await locked.wish()
    worker = worker_for(locked, "nonsense", store=S3Store(world.s3, bucket, object_lock_days=3))
    assert await worker.back_up(backup_id, a_long_time) == "failed"
    head = await world.s3.head_object(Bucket=bucket, Key=f"backups/{backup_id}/failure.json")
    assert "ObjectLockMode" not in head


class Unforeseen(S3Store):
    """A bucket that makes the worker fall over something that nobody thought of."""

    def upload(self, key: str, replaces: str | None = None) -> Upload:
        raise RuntimeError("the row was hunter2")


async def test_what_nobody_foresaw_is_recorded_and_announced_at_the_last_attempt(storing: Worker, world: World) -> None:
    broken = replace(storing, means=replace(storing.means, store=Unforeseen(world.s3, world.bucket)))
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
    storing: Worker, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is answered at last, the lease may be another worker's."""
    monkeypatch.setattr("backup_lambda.attempt.COMMIT_SECONDS", 0.5)
    backup_id = await world.wish()
    hung = asyncio.Event()

    async def hang_once(request: Any, **_: Any) -> None:
        if request.url.endswith("progress.json") and b'"checking"' in request.body.getvalue() and not hung.is_set():
            hung.set()
            await asyncio.Event().wait()

    world.s3.meta.events.register("before-send.s3.PutObject", hang_once)
    async with asyncio.timeout(60):
        with pytest.raises(AwsUnavailable, match="in time"):
            await storing.back_up(backup_id, a_long_time)
    assert hung.is_set()
    assert not {"manifest.json", "failure.json"} & await world.store.names(f"backups/{backup_id}/")


async def test_the_end_of_a_backup_whose_notice_is_refused_is_not_announced(world: World) -> None:
    """Whoever follows the backup sees that, and can tell others."""

    async def refuse(**_: Any) -> None:
        raise OSError("SNS is away")

    world.sns.meta.events.register("before-send.sns.Publish", refuse)
    backup_id = await world.wish()
    storing = worker_for(world, "nonsense")
    for _ in range(LAST_ATTEMPT):
        with pytest.raises(AwsUnavailable):
            await storing.back_up(backup_id, a_long_time)
    shown = await backups.show(world.store, backup_id, utc_now)
    assert (shown.state, shown.announced) == ("failed", False)


async def test_the_previous_backup_is_found_behind_many_that_failed(storing: Worker, world: World) -> None:
    first = await world.wish()
    assert await storing.back_up(first, a_long_time) == "stored"
    for number in range(101):
        await world.write(f"backups/21000101T000000Z-{number:08x}/request.json", {})
    second = await world.wish()
    assert await storing.back_up(second, a_long_time) == "stored"
    assert (await world.read_json(f"backups/{second}/manifest.json"))["previous"]["id"] == first


async def test_an_answer_that_got_lost_is_found_out(storing: Worker, world: World) -> None:
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
    assert await storing.back_up(backup_id, a_long_time) == "stored"
    assert sent == {"manifest.json", "progress.json"}
    assert len(await world.notices()) == 1


class Body:
    """Of an answer."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    async def read(self) -> bytes:
        return self._text


def answer(url: str, status: int, body: bytes, **headers: str) -> AioAWSResponse:
    return AioAWSResponse(url, status, HeadersDict(headers), Body(body))


@pytest.mark.parametrize("name", ["manifest.json", "proof/1.json", "failure.json"])
async def test_an_end_that_s3_did_not_keep_is_not_announced(worker: Worker, world: World, name: str) -> None:
    """It says that it wrote it."""
    if name == "failure.json":
        worker = worker_for(world, "nonsense")
    forgotten = 0

    async def forget(request: Any, **_: Any) -> Any:
        nonlocal forgotten
        if request.url.endswith(f"/{name}") and not forgotten:
            forgotten += 1
            return answer(request.url, 200, b"", ETag='"0"')
        return None

    world.s3.meta.events.register("before-send.s3.PutObject", forget)
    backup_id = await world.wish()
    with pytest.raises(AwsUnavailable, match="was written, and is not there"):
        await worker.back_up(backup_id, a_long_time)
    assert (await state(world, backup_id), forgotten) == ("running", 1)
    assert await world.notices() == []
    assert await worker.back_up(backup_id, a_long_time) == ("failed" if name == "failure.json" else "proven")


@pytest.mark.parametrize("name", ["manifest.json", "proof/1.json"])
async def test_an_end_whose_answer_got_lost_at_the_last_attempt_is_the_end(
    worker: Worker, world: World, name: str
) -> None:
    """No failure is written beside the manifest, and no second verdict beside the first."""
    backup_id = await world.wish()
    dead = await Lease.take(world.store, f"backups/{backup_id}/progress.json", utc_now)
    assert dead
    await world.let_die(backup_id)

    written: dict[Any, str] = {}

    async def remember(request: Any, **_: Any) -> None:
        written[asyncio.current_task()] = request.url

    async def lose_the_answer(**_: Any) -> None:
        if written[asyncio.current_task()].endswith(f"/{name}"):
            raise OSError("the connection broke")

    world.s3.meta.events.register("before-send.s3.PutObject", remember)
    world.s3.meta.events.register("response-received.s3.PutObject", lose_the_answer)
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    assert "failure.json" not in await world.store.names(f"backups/{backup_id}/")
    assert len(await world.notices()) == 1


async def test_credentials_that_expire_in_the_middle_are_another_attempt(worker: Worker, world: World) -> None:
    backup_id = await world.wish()
    expired = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
    valid = False

    async def refuse(request: Any, **_: Any) -> Any:
        if not valid and "/index/" in request.url:
            return answer(request.url, 400, expired)
        return None

    world.s3.meta.events.register("before-send.s3.PutObject", refuse)
    with pytest.raises(AwsRefused, match="PutObject was answered ExpiredToken"):
        await worker.back_up(backup_id, a_long_time)
    shown = await backups.show(world.store, backup_id, utc_now)
    assert (shown.state, shown.reason) == ("running", "PutObject was answered ExpiredToken")
    valid = True
    assert await worker.back_up(backup_id, a_long_time) == "proven"
