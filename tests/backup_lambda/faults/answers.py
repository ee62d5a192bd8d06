"""What S3 may answer, when it is not what was wanted."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from tests.backup_lambda.faults.gate import Answer, Call, Fault, Forward

XML = {"content-type": "application/xml"}
PORTAL = b"<!doctype html><html><body><h1>Please sign in to the guest network</h1></body></html>"


def error(status: int, code: str) -> Fault:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>hunter2</Message></Error>"

    async def fault(call: Call, forward: Forward) -> Answer | None:
        return Answer(status, XML, body.encode())

    return fault


async def cut(call: Call, forward: Forward) -> Answer | None:
    """Nothing was done, and nothing is said."""
    return None


async def lost(call: Call, forward: Forward) -> Answer | None:
    """It was done, but nobody hears of it."""
    await forward(call)
    return None


async def silent(call: Call, forward: Forward) -> Answer | None:
    """The connection stays, and nothing comes."""
    await asyncio.Event().wait()
    return None


async def portal(call: Call, forward: Forward) -> Answer | None:
    """Some other server took the request, and answers with a page for people."""
    return Answer(200, {"content-type": "text/html"}, PORTAL)


async def empty(call: Call, forward: Forward) -> Answer | None:
    return Answer(200, {}, b"")


async def lie(call: Call, forward: Forward) -> Answer | None:
    """It says that it was done, as S3 would say it, and nothing was."""
    return Answer(200, {"etag": '"d41d8cd98f00b204e9800998ecf8427e"'}, b"")


async def half(call: Call, forward: Forward) -> Answer | None:
    """The answer ends in the middle."""
    answer = await forward(call)
    return replace(answer, body=answer.body[: len(answer.body) // 2], promised=len(answer.body))


def changed(change: Callable[[bytes], bytes]) -> Fault:
    """What is stored is other bytes, under the ETag that it had; and S3 knows no checksum of it."""

    async def fault(call: Call, forward: Forward) -> Answer | None:
        answer = await forward(call)
        headers = {name: value for name, value in answer.headers.items() if not name.startswith("x-amz-checksum")}
        return replace(answer, headers=headers, body=change(answer.body), promised=None)

    return fault


def a_bit_turned(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


rotten = changed(a_bit_turned)


async def turned_on_the_way(call: Call, forward: Forward) -> Answer | None:
    """A bit of what is to be stored turns before S3 has it."""
    return await forward(replace(call, body=a_bit_turned(call.body)))


async def unchecked(call: Call, forward: Forward) -> Answer | None:
    """A store that knows no checksums: it drops ours, and confirms none."""
    unknown = ("x-amz-checksum-sha256", "x-amz-checksum-algorithm", "x-amz-sdk-checksum-algorithm")
    answer = await forward(call)
    return replace(answer, headers={name: value for name, value in answer.headers.items() if name not in unknown})


def slow(seconds: float) -> Fault:
    async def fault(call: Call, forward: Forward) -> Answer | None:
        answer = await forward(call)
        await asyncio.sleep(seconds)
        return answer

    return fault
