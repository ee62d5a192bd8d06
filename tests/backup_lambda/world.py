"""What stands around the service in a test, and how a test reaches it."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar

import asyncpg
import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from backup_lambda import aws, backups
from backup_lambda.app import create_app
from backup_lambda.functions import answer_of, answered
from backup_lambda.keeper import Keeper
from backup_lambda.lease import TAKEN_OVER_WITHIN, Clock
from backup_lambda.making import Means
from backup_lambda.notices import Topic
from backup_lambda.retention import Policy
from backup_lambda.schemas import BackupIn
from backup_lambda.store import S3Store
from backup_lambda.tasks import Question, RetentionTask, Started, Task
from backup_lambda.worker import Worker

T = TypeVar("T")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SCHEMAS = ("notes", "scheduler")


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class World:
    """What stands around the service."""

    s3: Any
    sns: Any
    sqs: Any
    bucket: str
    topic: Topic
    queue_url: str
    started: list[str] = field(default_factory=list)  # the backups of the tasks
    tasks: list[Started] = field(default_factory=list)

    @property
    def store(self) -> S3Store:
        return S3Store(self.s3, self.bucket)

    async def start_worker(self, task: Started) -> None:
        if isinstance(task, Task):
            self.started.append(task.backup_id)
        self.tasks.append(task)

    async def wish(self, label: str | None = None) -> str:
        """Ask for a backup, as the API does; its id."""
        wanted = BackupIn(label=label)
        made = await backups.request(
            self.store, self.start_worker, wanted, key=None, requested_by="arn:aws:iam::1:user/ops", now=utc_now
        )
        return made.id

    async def read(self, key: str) -> bytes:
        answer = await self.s3.get_object(Bucket=self.bucket, Key=key)
        return bytes(await answer["Body"].read())

    async def read_json(self, key: str) -> Any:
        return json.loads(await self.read(key))

    async def write(self, key: str, value: Any) -> None:
        await self.s3.put_object(Bucket=self.bucket, Key=key, Body=json.dumps(value, default=str).encode())

    async def let_die(self, backup_id: str) -> None:
        """Let the lease of a backup be one that its worker left to run out."""
        key = f"backups/{backup_id}/progress.json"
        await self.write(key, await self.read_json(key) | {"lease_until": utc_now() - timedelta(seconds=1)})

    async def lose(self, backup_id: str) -> None:
        """Let the lease be one that nobody took over."""
        key = f"backups/{backup_id}/progress.json"
        await self.write(key, await self.read_json(key) | {"lease_until": utc_now() - TAKEN_OVER_WITHIN})

    async def keys(self, prefix: str = "") -> list[str]:
        return sorted(await self.store.etags(prefix))

    async def open_uploads(self) -> list[str]:
        answer = await self.s3.list_multipart_uploads(Bucket=self.bucket)
        return [each["Key"] for each in answer.get("Uploads", [])]

    async def notices(self) -> list[dict[str, Any]]:
        """What SNS delivered so far: the envelopes, whose `Message` is the CloudEvent."""
        found: list[dict[str, Any]] = []
        while True:
            answer = await self.sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10)
            if not answer.get("Messages"):
                return found
            for each in answer["Messages"]:
                found.append(json.loads(each["Body"]))
                await self.sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=each["ReceiptHandle"])


class Signing:
    """A signer whose key the tests hold."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()

    async def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    async def sign(self, message: bytes) -> bytes:
        return self.key.sign(message)


SIGNER = Signing()


def worker_for(world: World, url: str, proof_url: str = "", **means: Any) -> Worker:
    """Without a URL for proofs it only stores. `means` are fields of Means."""

    async def database_url() -> str:
        return url

    async def url_for_proofs() -> str:
        return proof_url

    given: dict[str, Any] = {
        "store": world.store,
        "database_url": database_url,
        "proof_url": url_for_proofs,
        "signer": SIGNER,
        "now": utc_now,
        "schemas": SCHEMAS,
        "proves_always": bool(proof_url),
    }
    return Worker(Means(**given | means), world.topic)


async def until(met: Callable[[], Awaitable[T | None]], seconds: float = 60) -> T:
    """What `met` gives once it gives something true."""
    async with asyncio.timeout(seconds):
        while True:
            if found := await met():
                return found
            await asyncio.sleep(0.05)


def a_long_time() -> float:
    """Seconds left of an invocation that has just begun."""
    return 900.0


def keeper_of(world: World, policy: Policy = Policy(), now: Clock = utc_now) -> Keeper:  # noqa: B008  # it is frozen
    return Keeper(world.store, SIGNER, policy, now)


def asks(keeper: Keeper) -> Callable[[Question], Awaitable[bytes]]:
    """What the API asks, answered in this process as the keeper's function would, through JSON."""

    async def ask(question: Question) -> bytes:
        task = RetentionTask.model_validate_json(question.model_dump_json())
        return answer_of(json.loads(json.dumps(await answered(keeper.apply(task, a_long_time)))))

    return ask


@asynccontextmanager
async def client_of(
    world: World,
    start_worker: Callable[[Started], Awaitable[None]],
    *,
    ask: Callable[[Question], Awaitable[bytes]] | None = None,
    policy: Policy = Policy(),  # noqa: B008  # it is frozen
    now: Clock = utc_now,
) -> AsyncIterator[httpx.AsyncClient]:
    """Without `ask` the API asks a keeper that has its policy and its clock."""
    ask = ask or asks(keeper_of(world, policy, now))
    app = create_app(world.store, world.topic, start_worker, now, ask=ask, policy=policy)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    """The environment names the account."""
    async with aws.clients("s3", "sns", "sqs") as (s3, sns, sqs):
        yield await a_world_of(s3, sns, sqs)


async def a_world_of(s3: Any, sns: Any, sqs: Any) -> World:
    """A bucket, a topic and a queue that hears it, all new."""
    name = f"test-{secrets.token_hex(6)}"
    await s3.create_bucket(Bucket=name)
    topic_arn = (await sns.create_topic(Name=name))["TopicArn"]
    queue_url = (await sqs.create_queue(QueueName=name))["QueueUrl"]
    attributes = await sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    queue_arn = attributes["Attributes"]["QueueArn"]
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": queue_arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
            }
        ],
    }
    await sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"Policy": json.dumps(policy)})
    await sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=queue_arn)
    return World(s3, sns, sqs, name, Topic(sns, topic_arn), queue_url)
