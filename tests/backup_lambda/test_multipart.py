"""The multipart upload, against the real protocol of S3."""

import asyncio
import os
from typing import Any

import pytest

from backup_lambda.errors import AwsError, ObjectChanged
from backup_lambda.multipart import PART_BYTES, PARTS_IN_FLIGHT
from tests.backup_lambda.world import World, until

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
