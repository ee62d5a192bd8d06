"""The outbox to the notes topic, on a real FIFO topic with a real FIFO queue behind it."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from uuid import uuid4

import aioboto3
import asyncpg
import boto3
import pytest
from botocore.exceptions import ClientError

from notes_api import db, relay
from notes_api.db import Pool, Row
from notes_api.errors import TopicUnavailable
from notes_api.settings import DatabaseSettings
from tests.servers import Aws, Cluster

OUTBOX = "select count(*) from notes.outbox"


@pytest.fixture
async def pool(cluster: Cluster, database: str) -> AsyncIterator[Pool]:
    settings = DatabaseSettings.from_env({"HOLDFAST_DATABASE_URL": cluster.url("notes_app", database)})
    async with db.pool(settings) as pool:
        yield pool


class Queue:
    """Behind a topic of its own."""

    def __init__(self, aws: Aws) -> None:
        self.sns, self.sqs = (
            boto3.client(
                name,
                endpoint_url=aws.endpoint_url,
                region_name=aws.region,
                aws_access_key_id=aws.access_key,
                aws_secret_access_key=aws.secret_key,
            )
            for name in ("sns", "sqs")
        )
        name = f"notes-{uuid4().hex}.fifo"
        self.arn = self.sns.create_topic(Name=name, Attributes={"FifoTopic": "true"})["TopicArn"]
        self.url = self.sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})["QueueUrl"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])["Attributes"]
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "sns.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": attributes["QueueArn"],
                }
            ],
        }
        self.sqs.set_queue_attributes(QueueUrl=self.url, Attributes={"Policy": json.dumps(policy)})
        self.sns.subscribe(
            TopicArn=self.arn,
            Protocol="sqs",
            Endpoint=attributes["QueueArn"],
            Attributes={"RawMessageDelivery": "true"},
        )

    def events(self) -> list[dict[str, Any]]:
        """All that has arrived, in the order of arrival."""
        found: list[dict[str, Any]] = []
        while messages := self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages", []):
            found += [json.loads(message["Body"]) for message in messages]
            for message in messages:
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return found


@pytest.fixture
def queue(aws: Aws) -> Iterator[Queue]:
    queue = Queue(aws)
    yield queue
    for each in (queue.sns, queue.sqs):
        each.close()


@pytest.fixture
async def topic(aws: Aws, queue: Queue) -> AsyncIterator[relay.Topic]:
    session = aioboto3.Session(aws.access_key, aws.secret_key, region_name=aws.region)
    async with session.client("sns", endpoint_url=aws.endpoint_url) as sns:
        yield relay.Topic(sns, queue.arn)


async def write(pool: Pool, owners: int = 1, notes: int = 3, edits: int = 2) -> int:
    """How many changes that made."""
    async with db.connected(pool) as connection:
        for owner in [uuid4() for _ in range(owners)]:
            await connection.execute(
                "insert into notes.notes (owner, title, content, tags)"
                " select $1, 'secret ' || n, 'secret', '{}' from generate_series(1, $2) as n",
                owner,
                notes,
            )
            for number in range(edits):
                await connection.execute("update notes.notes set title = $2 where owner = $1", owner, f"{number}")
    return owners * notes * (1 + edits)


async def left(pool: Pool) -> int:
    async with db.connected(pool) as connection:
        count: int = await connection.fetchval(OUTBOX)
        return count


async def test_every_change_is_relayed_once_and_those_of_a_note_in_order(
    pool: Pool, topic: relay.Topic, queue: Queue
) -> None:
    count = await write(pool, owners=3, notes=4, edits=3)
    await relay.relay(pool, topic)
    await relay.relay(pool, topic)
    events = queue.events()
    assert (len(events), await left(pool)) == (count, 0)
    by_note = defaultdict(list)
    for event in events:
        by_note[event["subject"]].append((event["data"]["seq"], event["data"]["revision"]))
    assert len(by_note) == 12
    for told in by_note.values():
        assert told == sorted(told)
        assert [revision for _, revision in told] == [1, 2, 3, 4]


async def test_an_event_says_what_happened_and_nothing_that_is_in_the_note(
    pool: Pool, topic: relay.Topic, queue: Queue
) -> None:
    await write(pool, notes=1, edits=1)
    await relay.relay(pool, topic)
    created, updated = queue.events()
    assert (created["type"], updated["type"]) == ("note.created", "note.updated")
    assert updated["specversion"] == "1.0"
    assert updated["id"] == f"{updated['data']['owner']}:2"
    assert updated["data"] == updated["data"] | {
        "note_id": updated["subject"],
        "seq": 2,
        "revision": 2,
        "changed_fields": ["title"],
    }
    assert "secret" not in json.dumps([created, updated])


class Failing(relay.Topic):
    """A topic of which some answers are lost, after SNS has taken what was sent; and some entries are refused."""

    def __init__(self, topic: relay.Topic, answers: Sequence[str]) -> None:
        super().__init__(topic._sns, topic._arn)
        self.answers = list(answers)

    async def publish(self, changes: Sequence[Row]) -> list[int]:
        how = self.answers.pop(0) if self.answers else "whole"
        if how == "half":
            return await super().publish(changes[1:]) if changes[1:] else []
        taken = await super().publish(changes)
        if how == "lost":
            raise TopicUnavailable("no answer")
        return taken


async def test_what_was_not_acknowledged_is_sent_again_in_order(pool: Pool, topic: relay.Topic, queue: Queue) -> None:
    count = await write(pool, notes=4, edits=4)
    failing = Failing(topic, ["whole", "lost", "half", "half", "whole", "lost"])
    failures = 0
    while await left(pool):
        try:
            await relay.relay(pool, failing)
        except TopicUnavailable:
            failures += 1
    assert failures >= 2
    assert failing.answers == []
    events = queue.events()
    assert await left(pool) == 0
    assert len({event["id"] for event in events}) == count
    by_note = defaultdict(list)
    for event in events:  # SNS drops what it had already, within five minutes
        by_note[event["subject"]].append(event["data"]["revision"])
    assert [told for told in by_note.values() if told != sorted(told)] == []


async def test_two_processes_do_not_relay_at_once(
    cluster: Cluster, database: str, pool: Pool, topic: relay.Topic, queue: Queue
) -> None:
    await write(pool)
    other = await asyncpg.connect(cluster.url("notes_app", database))
    assert await other.fetchval(relay._LOCK)
    await relay.relay(pool, topic)
    assert queue.events() == []
    await other.close()  # as a process that is killed does
    while await left(pool):
        await relay.relay(pool, topic)
    assert len(queue.events()) == 9


async def test_a_topic_that_is_not_there_keeps_all_in_the_outbox(pool: Pool, topic: relay.Topic, queue: Queue) -> None:
    count = await write(pool)
    queue.sns.delete_topic(TopicArn=queue.arn)
    with pytest.raises(TopicUnavailable) as told:
        await relay.relay(pool, topic)
    assert isinstance(told.value.__cause__, ClientError)
    assert await left(pool) == count
    async with db.connected(pool) as connection:  # the lock is not kept
        assert await connection.fetchval(relay._LOCK)
        await connection.execute(relay._UNLOCK)
