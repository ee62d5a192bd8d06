"""The multipart upload, against the real protocol of S3."""

import asyncio
import os
import secrets
from datetime import timedelta
from typing import Any

import pytest
from aiobotocore.awsrequest import AioAWSResponse
from botocore.exceptions import ClientError, ReadTimeoutError

from backup_lambda.errors import AwsError, AwsUnavailable, ObjectChanged
from backup_lambda.multipart import PART_BYTES, PARTS_IN_FLIGHT
from backup_lambda.store import S3Store
from tests.backup_lambda.world import World, until, utc_now

MEBIBYTE = 1024 * 1024


async def upload_parts(world: World, count: int) -> None:
    async with world.store.upload("object") as upload:
        for _ in range(count):
            await upload.write(bytes(PART_BYTES))
        await upload.finish()


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES + 1])
async def test_every_size_arrives(world: World, size: int) -> None:
    content = os.urandom(size)
    async with world.store.upload("object") as upload:
        for start in range(0, size, 3 * MEBIBYTE):
            await upload.write(content[start : start + 3 * MEBIBYTE])
        etag = await upload.finish()
    assert upload.bytes == size
    assert await world.read("object") == content
    assert await world.store.etags("") == {"object": etag}
    assert await world.open_uploads() == []


async def test_it_is_made_once_or_replaced_knowingly(world: World) -> None:
    async def make(size: int, replaces: str | None) -> str:
        async with world.store.upload("object", replaces) as upload:
            await upload.write(os.urandom(size))
            return await upload.finish()

    small = await make(1, None)
    for size in (1, PART_BYTES):
        for stale in (None, '"0123456789abcdef0123456789abcdef"'):
            with pytest.raises(ObjectChanged):
                await make(size, stale)
    large = await make(PART_BYTES, small)
    await make(1, large)
    assert await world.open_uploads() == []


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
async def test_a_refusal_leaves_nothing_behind(world: World, operation: str) -> None:
    async def refuse(**_: Any) -> None:
        raise OSError("the cable was cut")

    world.s3.meta.events.register(f"before-send.s3.{operation}", refuse)
    with pytest.raises(AwsError):
        await upload_parts(world, 6)
    assert await world.keys() == []
    assert await world.open_uploads() == []


async def test_a_part_that_was_altered_on_its_way_is_refused(world: World) -> None:
    async def alter(request: Any, **_: Any) -> None:
        request.body = b"X" + request.body.read()[1:]

    world.s3.meta.events.register("before-send.s3.UploadPart", alter)
    with pytest.raises(AwsError):
        await upload_parts(world, 1)
    assert await world.keys() == []


async def test_a_cancel_leaves_nothing_behind(world: World) -> None:
    """Also when it comes while all parts hang."""
    hanging = asyncio.Event()

    async def hang(**_: Any) -> None:
        hanging.set()
        await asyncio.Event().wait()

    async def upload() -> None:
        async with world.store.upload("object") as upload:
            while True:
                await upload.write(bytes(PART_BYTES))

    world.s3.meta.events.register("before-send.s3.UploadPart", hang)
    task = asyncio.create_task(upload())
    await hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await world.open_uploads() == []


async def test_a_slow_store_slows_the_writer_down(world: World) -> None:
    begun = 0
    gate = asyncio.Event()

    async def wait(**_: Any) -> None:
        nonlocal begun
        begun += 1
        await gate.wait()

    world.s3.meta.events.register("before-send.s3.UploadPart", wait)
    async with world.store.upload("object") as upload:
        for _ in range(PARTS_IN_FLIGHT):
            await upload.write(bytes(PART_BYTES))
        one_more = asyncio.create_task(upload.write(bytes(PART_BYTES)))

        async def all_begun() -> bool:
            return begun == PARTS_IN_FLIGHT

        await until(all_begun)
        assert not one_more.done()
        gate.set()
        await one_more
        await upload.finish()
    assert begun == PARTS_IN_FLIGHT + 1


OPERATIONS = ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"]
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
INTERNAL = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"


class _Raw:
    """What aiohttp gives."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self) -> bytes:
        return self._body


class Answers:
    """Stands before S3, and answers the first `times` requests of an operation itself."""

    def __init__(self, world: World, operation: str, times: float, status: int, body: bytes) -> None:
        self.requests = 0
        self._times, self._status, self._body = times, status, body
        world.s3.meta.events.register(f"before-send.s3.{operation}", self)

    async def __call__(self, request: Any, **_: Any) -> AioAWSResponse | None:
        self.requests += 1
        if self.requests > self._times:
            return None
        return AioAWSResponse(request.url, self._status, {"content-type": "application/xml"}, _Raw(self._body))


async def an_upload(world: World, operation: str) -> None:
    """One that needs the operation."""
    async with world.store.upload("object") as upload:
        await upload.write(bytes(1000 if operation == "PutObject" else PART_BYTES))
        await upload.finish()


@pytest.mark.parametrize(
    ("operation", "status", "body"),
    [
        *((operation, 503, SLOW_DOWN) for operation in OPERATIONS),
        ("UploadPart", 500, INTERNAL),
        ("UploadPart", 502, b"<html>Bad Gateway</html>"),
        ("CompleteMultipartUpload", 200, INTERNAL),
    ],
)
async def test_a_store_that_is_well_again_is_asked_again(
    world: World, operation: str, status: int, body: bytes
) -> None:
    answers = Answers(world, operation, 1, status, body)
    await an_upload(world, operation)
    assert answers.requests == 2
    assert await world.keys() == ["object"]


async def test_only_one_layer_asks_again(world: World) -> None:
    """botocore: a first attempt, and three more."""
    answers = Answers(world, "UploadPart", 1000, 503, SLOW_DOWN)
    with pytest.raises(AwsUnavailable):
        await an_upload(world, "UploadPart")
    assert answers.requests == 4
    assert await world.keys() == []
    assert await world.open_uploads() == []


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("CreateMultipartUpload", b""),
        ("UploadPart", b"<html>it works!</html>"),
        ("CompleteMultipartUpload", b"<html>it works!</html>"),
        ("CompleteMultipartUpload", INTERNAL),
        ("PutObject", b""),
    ],
)
async def test_garbage_is_no_success(world: World, operation: str, body: bytes) -> None:
    """S3 itself answers 200 with an error in the body, when putting the parts together went wrong."""
    Answers(world, operation, 1000, 200, body)
    with pytest.raises(AwsError):
        await an_upload(world, operation)
    assert await world.keys() == []
    assert await world.open_uploads() == []


async def test_a_store_that_does_not_answer_is_given_up(world: World) -> None:
    async def time_out(request: Any, **_: Any) -> None:
        raise ReadTimeoutError(endpoint_url=request.url)

    world.s3.meta.events.register("before-send.s3.UploadPart", time_out)
    with pytest.raises(AwsUnavailable):
        await an_upload(world, "UploadPart")
    assert await world.open_uploads() == []


async def test_what_is_kept_is_locked(world: World) -> None:
    bucket = f"locked-{secrets.token_hex(6)}"
    await world.s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    store = S3Store(world.s3, bucket, object_lock_days=3)
    async with store.upload("data") as upload:
        await upload.write(b"a small table")
        await upload.finish()
    await store.put("manifest.json", b"{}", keep=True)
    await store.put("progress.json", b"{}")
    listed = await world.s3.list_object_versions(Bucket=bucket)
    versions = {each["Key"]: each["VersionId"] for each in listed["Versions"]}
    for key in ("data", "manifest.json"):
        head = await world.s3.head_object(Bucket=bucket, Key=key)
        assert head["ObjectLockMode"] == "GOVERNANCE"
        left = head["ObjectLockRetainUntilDate"] - utc_now()
        assert timedelta(days=3) - timedelta(minutes=1) < left <= timedelta(days=3)
        with pytest.raises(ClientError):
            await world.s3.delete_object(Bucket=bucket, Key=key, VersionId=versions[key])
    assert "ObjectLockMode" not in await world.s3.head_object(Bucket=bucket, Key="progress.json")
    await world.s3.delete_object(Bucket=bucket, Key="progress.json", VersionId=versions["progress.json"])


async def test_a_large_table_is_locked_too(world: World) -> None:
    """The emulator forgets the lock of an upload in parts: so the request is looked at."""
    asked: dict[str, str] = {}

    async def look(request: Any, **_: Any) -> None:
        asked.update({name.lower(): str(value) for name, value in request.headers.items()})

    bucket = f"locked-{secrets.token_hex(6)}"
    await world.s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    world.s3.meta.events.register("before-send.s3.CreateMultipartUpload", look)
    async with S3Store(world.s3, bucket, object_lock_days=3).upload("data") as upload:
        await upload.write(bytes(PART_BYTES))
        await upload.finish()
    assert "GOVERNANCE" in asked["x-amz-object-lock-mode"]
    assert f"{utc_now() + timedelta(days=3):%Y-%m-%dT}" in asked["x-amz-object-lock-retain-until-date"]


async def test_without_days_nothing_is_locked(world: World) -> None:
    """A bucket without Object Lock would refuse it."""
    await an_upload(world, "PutObject")
    await world.store.put("manifest.json", b"{}", keep=True)
    for key in ("object", "manifest.json"):
        assert "ObjectLockMode" not in await world.s3.head_object(Bucket=world.bucket, Key=key)
