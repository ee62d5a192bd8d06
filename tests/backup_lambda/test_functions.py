"""One function asks another, in the emulator of Lambda."""

import asyncio
import io
import json
import secrets
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backup_lambda import aws
from backup_lambda.errors import AwsRefused, AwsUnavailable, BackupNotFound, StalePlan
from backup_lambda.functions import Functions, answered
from backup_lambda.schemas import ProofAsked
from backup_lambda.tasks import DiffTask, RetentionTask, Task
from tests.backup_lambda.test_handler import ANYBODY
from tests.backup_lambda.world import World

# What stands in for a function of ours: it answers, or fails, as it is told.
ANSWERING = """
import json, os
def handler(event, context):
    told = json.loads(os.environ["TOLD"])
    return told | {"asked": event} if told else told["nothing"]
"""
AN_ID = "20261122T020000Z-3f9a2c1b"
PLAN, DIFF = RetentionTask(digest="1f0c", requested_by="ops"), DiffTask(backup_id=AN_ID)


@asynccontextmanager
async def function(told: dict[str, Any]) -> AsyncIterator[str]:
    """The name of a function that answers so; with nothing to tell it fails."""
    name, package = f"answering-{secrets.token_hex(4)}", io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("answering.py", ANSWERING)
    async with aws.clients("lambda", "iam") as (functions, iam):
        role = await iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(ANYBODY))
        await functions.create_function(
            FunctionName=name,
            Runtime="python3.13",
            Role=role["Role"]["Arn"],
            Handler="answering.handler",
            Code={"ZipFile": package.getvalue()},
            Environment={"Variables": {"TOLD": json.dumps(told)}},
            Timeout=30,
        )
        yield name
        await functions.delete_function(FunctionName=name)


@asynccontextmanager
async def asking(worker: str = "no-such-function", keeper: str = "no-such-function") -> AsyncIterator[Functions]:
    async with aws.clients("lambda", aws.ASKING) as (starting, asking):
        yield Functions(starting, asking, worker, keeper)


async def test_each_question_is_for_one_function_and_the_answer_is_what_that_answered(world: World) -> None:
    found = {"answer": {"before": AN_ID, "rows": 12345678901234567890}}
    async with (
        function(found) as worker,
        function({"answer": {"complete": True}}) as keeper,
        asking(worker, keeper) as functions,
    ):
        assert json.loads(await functions.ask(DIFF)) == found["answer"]
        assert json.loads(await functions.ask(PLAN)) == {"complete": True}


async def test_an_error_of_ours_comes_through_as_what_it_is(world: World) -> None:
    async def refused() -> ProofAsked:
        raise StalePlan("The plan is another one by now.")

    async with function(await answered(refused())) as keeper, asking(keeper=keeper) as functions:
        with pytest.raises(StalePlan) as raised:
            await functions.ask(PLAN)
    assert (raised.value.status, raised.value.detail) == (409, "The plan is another one by now.")


async def test_a_function_that_failed_is_unavailable_and_one_that_is_not_there_is_refused(world: World) -> None:
    async with function({}) as keeper, asking(keeper=keeper) as functions:
        with pytest.raises(AwsUnavailable, match="the retention ended without an answer; the log of answering-"):
            await functions.ask(PLAN)
        with pytest.raises(AwsRefused, match="ResourceNotFoundException"):
            await functions.ask(DIFF)


async def test_what_somebody_answers_is_told_as_json() -> None:
    async def found() -> ProofAsked:
        return ProofAsked(backup_id=AN_ID, number=2)

    async def not_found() -> ProofAsked:
        raise BackupNotFound("No backup has this id.")

    assert await answered(found()) == {"answer": {"backup_id": AN_ID, "number": 2}}
    assert await answered(not_found()) == {"error": "BackupNotFound", "detail": "No backup has this id."}


@pytest.fixture
async def busy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[], int]]:
    """A Lambda that answers 503 to the first request. Gives how many there were."""
    requests = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        requests += 1
        status = b"503 Service Unavailable" if requests == 1 else b"202 Accepted"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    async with server:
        yield lambda: requests


async def test_a_question_is_asked_once(busy: Callable[[], int]) -> None:
    """Whoever asks has no time for another."""
    async with asking() as functions:
        with pytest.raises(AwsUnavailable):
            await functions.ask(PLAN)
    assert busy() == 1


async def test_a_start_is_tried_again(busy: Callable[[], int]) -> None:
    async with asking() as functions:
        await functions.start(Task(task="backup", backup_id=AN_ID))
    assert busy() == 2
