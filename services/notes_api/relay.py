"""The outbox to the notes topic: every change, at least once, those of a note in order.

The topic is FIFO: a note is a group of messages, within which SNS keeps the order, and a change that is sent again
within five minutes is dropped there. Whoever receives one twice all the same knows it by its number.
"""

import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import aioboto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from notes_api.db import Connection, Pool, Row, connected
from notes_api.errors import TopicUnavailable
from notes_api.settings import Settings

EVERY_SECONDS = 1
BATCH = 10  # as many as SNS takes at once
_CONFIG = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})

# One process at a time: a lock of the session, so that no transaction is open while SNS is waited for.
_LOCK = "select pg_try_advisory_lock(hashtext('notes_api.relay'))"
_UNLOCK = "select pg_advisory_unlock(hashtext('notes_api.relay'))"
# From owner to owner by the index, however many rows each has.
_OWNERS = """
with recursive found as (
    (select owner from notes.outbox order by owner limit 1)
    union all
    select (select o.owner from notes.outbox as o where o.owner > f.owner order by o.owner limit 1)
    from found as f where f.owner is not null
)
select owner from found where owner is not null
"""
_NEXT = """
select owner, seq, note_id, type, revision, changed_fields, at
from notes.outbox join notes.changes using (owner, seq) where owner = $1 order by seq limit $2
"""
_SENT = "delete from notes.outbox where owner = $1 and seq = any ($2)"

log = logging.getLogger(__name__)


class Topic:
    def __init__(self, sns: Any, arn: str) -> None:
        self._sns, self._arn = sns, arn

    async def publish(self, changes: Sequence[Row]) -> list[int]:
        """The numbers of those that SNS has taken, of one owner's. Raises TopicUnavailable."""
        entries = [
            {
                "Id": str(change["seq"]),
                "Message": json.dumps(event(change)),
                "MessageGroupId": str(change["note_id"]),
                "MessageDeduplicationId": f"{change['owner']}:{change['seq']}",
                "MessageAttributes": {"type": {"DataType": "String", "StringValue": change["type"]}},
            }
            for change in changes
        ]
        try:
            answer = await self._sns.publish_batch(TopicArn=self._arn, PublishBatchRequestEntries=entries)
        except (BotoCoreError, ClientError, OSError, TimeoutError) as error:
            raise TopicUnavailable(f"{type(error).__name__}: {error}") from error
        for failed in answer.get("Failed", ()):
            log.warning("the topic refused change %s: %s", failed["Id"], failed.get("Code"))
        return [int(taken["Id"]) for taken in answer.get("Successful", ())]


@asynccontextmanager
async def topic(settings: Settings) -> AsyncIterator[Topic | None]:
    """None when none is set."""
    if not settings.topic_arn:
        yield None
        return
    region = settings.topic_arn.split(":")[3]
    async with aioboto3.Session().client("sns", region_name=region, config=_CONFIG) as sns:
        yield Topic(sns, settings.topic_arn)


def event(change: Row) -> dict[str, Any]:
    """CloudEvents 1.0: what happened to which note, and nothing that is in it."""
    return {
        "specversion": "1.0",
        "id": f"{change['owner']}:{change['seq']}",
        "source": "/v1/changes",
        "type": change["type"],
        "subject": str(change["note_id"]),
        "time": change["at"].isoformat(),
        "datacontenttype": "application/json",
        "data": {
            "owner": str(change["owner"]),
            "seq": change["seq"],
            "note_id": str(change["note_id"]),
            "revision": change["revision"],
            "changed_fields": change["changed_fields"],
        },
    }


async def relay(pool: Pool, topic: Topic) -> None:
    """All that is in the outbox, unless another process is at it. Raises TopicUnavailable and DatabaseUnavailable."""
    async with connected(pool) as connection:
        if not await connection.fetchval(_LOCK):
            return
        try:
            while owners := [row["owner"] for row in await connection.fetch(_OWNERS)]:
                sent = [
                    await _relay(connection, topic, owner) for owner in owners
                ]  # in turn: none waits for a busy one
                if not any(sent):
                    raise TopicUnavailable("It took none of them.")
        finally:
            if not connection.is_closed():
                await connection.execute(_UNLOCK)


async def _relay(connection: Connection, topic: Topic, owner: UUID) -> int:
    """The next few of an owner. How many were taken."""
    changes = _one_of_each_note(await connection.fetch(_NEXT, owner, BATCH))
    if not changes:
        return 0
    taken = await topic.publish(changes)
    await connection.execute(_SENT, owner, taken)
    return len(taken)


def _one_of_each_note(changes: Sequence[Row]) -> list[Row]:
    """Up to a note's second change: SNS may refuse the first one and take the second."""
    seen: set[UUID] = set()
    for number, change in enumerate(changes):
        if change["note_id"] in seen:
            return list(changes[:number])
        seen.add(change["note_id"])
    return list(changes)
