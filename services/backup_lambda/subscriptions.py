"""Who gets mail about backups: the email subscriptions of the topic."""

import json
from typing import Any

from botocore.exceptions import ClientError

from backup_lambda import aws
from backup_lambda.errors import AlreadySubscribed, InvalidRequest
from backup_lambda.notices import Topic
from backup_lambda.schemas import Subscription, SubscriptionIn


async def subscribe(topic: Topic, wanted: SubscriptionIn) -> Subscription:
    """AWS mails a link to the address, which gets nothing before it was followed. The same again changes nothing."""
    events = sorted(set(wanted.events)) if wanted.events else None
    with aws.errors_named():
        try:
            answer = await topic.sns.subscribe(
                TopicArn=topic.arn,
                Protocol="email",
                Endpoint=wanted.email,
                Attributes={"FilterPolicy": json.dumps({"type": events})} if events else {},
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
    found: list[Subscription] = []
    query: dict[str, str] = {}
    while True:
        with aws.errors_named():
            page = await topic.sns.list_subscriptions_by_topic(TopicArn=topic.arn, **query)
        found += [await _show(topic, each) for each in page["Subscriptions"] if each["Protocol"] == "email"]
        if not page.get("NextToken"):
            return found
        query = {"NextToken": page["NextToken"]}


async def _show(topic: Topic, found: dict[str, Any]) -> Subscription:
    arn = found["SubscriptionArn"]
    if not arn.startswith("arn:"):  # the words PendingConfirmation
        return Subscription(id=None, email=found["Endpoint"], events=None, confirmed=False)
    with aws.errors_named():
        answer = await topic.sns.get_subscription_attributes(SubscriptionArn=arn)
    attributes = answer["Attributes"]
    return Subscription(
        id=arn.rpartition(":")[2],
        email=found["Endpoint"],
        events=json.loads(attributes.get("FilterPolicy", "{}")).get("type"),
        confirmed=attributes.get("PendingConfirmation") == "false",
    )
