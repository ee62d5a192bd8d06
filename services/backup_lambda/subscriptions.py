"""Who gets mail about backups: the email subscriptions of the topic. Who hears of them: every other one, too."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

from botocore.exceptions import ClientError

from backup_lambda import aws
from backup_lambda.errors import AlreadySubscribed, InvalidRequest, SubscriptionNotFound
from backup_lambda.notices import Topic
from backup_lambda.schemas import TRIAL, Subscription, SubscriptionIn

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
# SNS says the first of one that is gone, and the others of what cannot be the ARN of one.
_NOT_THERE = {"NotFound", "NotFoundException", "InvalidParameter", "InvalidParameterException"}
_ONLY_KEEP = {"sqs", "firehose"}
_UNKNOWN = "GET /subscriptions names those that there are."


async def subscribe(topic: Topic, wanted: SubscriptionIn) -> Subscription:
    """AWS mails a link to the address, which gets nothing before it was followed. The same again changes nothing."""
    events = sorted(set(wanted.events)) if wanted.events else None
    with aws.errors_named():
        try:
            answer = await topic.sns.subscribe(
                TopicArn=topic.arn,
                Protocol="email",
                Endpoint=wanted.email,
                Attributes={"FilterPolicy": json.dumps({"type": [*events, TRIAL]})} if events else {},
                ReturnSubscriptionArn=True,
            )
        except ClientError as error:
            if aws.error_code(error) not in {"InvalidParameter", "InvalidParameterException"}:
                raise
            if "already exists" in str(error):
                raise AlreadySubscribed("Unsubscribe the address first.") from error
            raise InvalidRequest("AWS does not take this address.") from error
    made = await _show(topic, {"SubscriptionArn": answer["SubscriptionArn"], "Endpoint": wanted.email})
    if made.events != events:  # the emulator keeps the old filter and says nothing, where AWS refuses
        raise AlreadySubscribed("Unsubscribe the address first.")
    return made


async def subscribed(topic: Topic) -> list[Subscription]:
    return [await _show(topic, each) async for each in _all(topic) if each["Protocol"] == "email"]


async def unsubscribe(topic: Topic, subscription_id: str) -> None:
    """Raises SubscriptionNotFound: also of one that is no email, or that waits for its confirmation."""
    if not _ID.fullmatch(subscription_id):
        raise SubscriptionNotFound(_UNKNOWN)
    arn = f"{topic.arn}:{subscription_id}"
    with aws.errors_named():
        try:
            found = await topic.sns.get_subscription_attributes(SubscriptionArn=arn)
            if found["Attributes"].get("Protocol") != "email":
                raise SubscriptionNotFound(_UNKNOWN)
            if found["Attributes"].get("PendingConfirmation") == "true":
                raise SubscriptionNotFound("It waits to be confirmed, and gets no mail. AWS forgets it by itself.")
            await topic.sns.unsubscribe(SubscriptionArn=arn)
        except ClientError as error:
            if aws.error_code(error) not in _NOT_THERE:
                raise
            raise SubscriptionNotFound(_UNKNOWN) from error


def warning(items: Sequence[Subscription]) -> str | None:
    """Says so when nobody gets mail."""
    if any(each.confirmed for each in items):
        return None
    waiting = f"{len(items)} wait to be confirmed" if items else "there is no subscription"
    return f"Nobody gets mail about backups: {waiting}."


async def confirmed(topic: Topic) -> int:
    """How many addresses get mail."""
    return sum(each["Protocol"] == "email" for each in await _heard_by(topic))


async def listeners(topic: Topic) -> int:
    """How many confirmed subscriptions bring an event to somebody, whatever they filter.

    Whoever confirmed an address, or gave a function or an endpoint that answers, hears. A queue, or a stream into
    storage, only keeps: nobody knows whether anybody reads it.
    """
    return sum(each["Protocol"] not in _ONLY_KEEP for each in await _heard_by(topic))


async def _heard_by(topic: Topic) -> list[dict[str, Any]]:
    return [each async for each in _all(topic) if each["SubscriptionArn"].startswith("arn:")]


async def _all(topic: Topic) -> AsyncIterator[dict[str, Any]]:
    query: dict[str, str] = {}
    while True:
        with aws.errors_named():
            page = await topic.sns.list_subscriptions_by_topic(TopicArn=topic.arn, **query)
        for each in page["Subscriptions"]:
            yield each
        if not page.get("NextToken"):
            return
        query = {"NextToken": page["NextToken"]}


async def _show(topic: Topic, found: dict[str, Any]) -> Subscription:
    arn = found["SubscriptionArn"]
    if not arn.startswith("arn:"):  # the words PendingConfirmation
        return Subscription(id=None, email=found["Endpoint"], events=None, confirmed=False)
    with aws.errors_named():
        answer = await topic.sns.get_subscription_attributes(SubscriptionArn=arn)
    attributes = answer["Attributes"]
    events = json.loads(attributes.get("FilterPolicy", "{}")).get("type")
    return Subscription(
        id=arn.rpartition(":")[2],
        email=found["Endpoint"],
        events=None if events is None else [each for each in events if each != TRIAL],
        confirmed=attributes.get("PendingConfirmation") == "false",
    )
