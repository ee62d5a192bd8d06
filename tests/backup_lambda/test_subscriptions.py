"""Email subscriptions, by the API, on the real protocol of SNS."""

import asyncio
import json
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from backup_lambda import subscriptions
from backup_lambda.tasks import TrialTask
from tests.backup_lambda.test_api import answering, assert_problem
from tests.backup_lambda.world import World, a_long_time, worker_for


async def test_an_address_subscribes_to_some_events(api: httpx.AsyncClient, world: World) -> None:
    wanted = {"email": "ada@example.com", "events": ["backup.failed"]}
    answer = await api.post("/subscriptions", json=wanted)
    assert answer.status_code == 201
    made = answer.json()
    assert (made["email"], made["events"]) == ("ada@example.com", ["backup.failed"])
    attributes = await world.sns.get_subscription_attributes(SubscriptionArn=f"{world.topic.arn}:{made['id']}")
    assert attributes["Attributes"]["Protocol"] == "email"
    assert json.loads(attributes["Attributes"]["FilterPolicy"]) == {"type": ["backup.failed", "test"]}
    assert (await api.post("/subscriptions", json=wanted)).json() == made, "the same again changes nothing"


async def test_all_subscriptions_are_listed_but_no_queue(api: httpx.AsyncClient) -> None:
    """More than SNS gives in one answer."""
    for number in range(101):
        answer = await api.post("/subscriptions", json={"email": f"reader{number}@example.com"})
        assert answer.json()["events"] is None
    page = (await api.get("/subscriptions")).json()
    assert [item["email"] for item in page["items"]] == [f"reader{number}@example.com" for number in range(101)]
    assert (page["next_cursor"], page["has_more"], page["warning"]) == (None, False, None)
    assert (await api.post("/subscriptions/test")).json() == {"confirmed": 101}


async def test_other_events_for_a_subscribed_address_are_refused(api: httpx.AsyncClient) -> None:
    assert (await api.post("/subscriptions", json={"email": "ada@example.com"})).status_code == 201
    again = await api.post("/subscriptions", json={"email": "ada@example.com", "events": ["backup.stored"]})
    assert (again.status_code, again.json()["type"]) == (409, "/problems/already-subscribed")


async def test_somebody_unsubscribes_and_may_subscribe_again(api: httpx.AsyncClient) -> None:
    made = (await api.post("/subscriptions", json={"email": "ada@example.com"})).json()
    other = (await api.post("/subscriptions", json={"email": "bob@example.com"})).json()
    assert (await api.delete(f"/subscriptions/{made['id']}")).status_code == 204
    assert (await api.get("/subscriptions")).json()["items"] == [other]
    assert_problem(await api.delete(f"/subscriptions/{made['id']}"), 404, "subscription-not-found")
    again = {"email": "ada@example.com", "events": ["backup.stored"]}
    assert (await api.post("/subscriptions", json=again)).status_code == 201


async def test_only_emails_of_this_topic_are_unsubscribed(api: httpx.AsyncClient, world: World) -> None:
    elsewhere = (await world.sns.create_topic(Name=f"{world.bucket}-other"))["TopicArn"]
    theirs = await world.sns.subscribe(
        TopicArn=elsewhere, Protocol="email", Endpoint="eve@example.com", ReturnSubscriptionArn=True
    )
    queues = (await world.sns.list_subscriptions_by_topic(TopicArn=world.topic.arn))["Subscriptions"]
    ids = [each.rpartition(":")[2] for each in (theirs["SubscriptionArn"], queues[0]["SubscriptionArn"])]
    for each in (*ids, "nothing", "other:0", "PendingConfirmation", "%20", f"{'0' * 65}"):
        assert_problem(await api.delete(f"/subscriptions/{each}"), 404, "subscription-not-found")
    for topic_arn in (elsewhere, world.topic.arn):
        assert len((await world.sns.list_subscriptions_by_topic(TopicArn=topic_arn))["Subscriptions"]) == 1


async def test_sns_has_many_words_for_what_is_not_there(api: httpx.AsyncClient, world: World) -> None:
    made = (await api.post("/subscriptions", json={"email": "ada@example.com"})).json()
    for operation in ("GetSubscriptionAttributes", "Unsubscribe"):
        for code in ("NotFound", "NotFoundException", "InvalidParameter", "InvalidParameterException"):
            refuse, event = answering(code, 404), f"before-call.sns.{operation}"
            world.sns.meta.events.register(event, refuse)
            assert_problem(await api.delete(f"/subscriptions/{made['id']}"), 404, "subscription-not-found")
            world.sns.meta.events.unregister(event, refuse)
    assert (await api.delete(f"/subscriptions/{made['id']}")).status_code == 204


async def test_an_address_that_has_not_confirmed_gets_no_mail(api: httpx.AsyncClient, world: World) -> None:
    """The emulator confirms every address by itself; this is what AWS says of one that has not."""
    assert (await api.get("/subscriptions")).json()["warning"] == (
        "Nobody gets mail about backups: there is no subscription."
    )
    assert (await api.post("/subscriptions/test")).json() == {"confirmed": 0}
    made = (await api.post("/subscriptions", json={"email": "ada@example.com"})).json()
    waiting = {"Protocol": "email", "Endpoint": "ada@example.com", "SubscriptionArn": "PendingConfirmation"}
    queue = {"Protocol": "sqs", "Endpoint": "arn:aws:sqs:x:1:q", "SubscriptionArn": f"{world.topic.arn}:q"}
    listed = {"Subscriptions": [waiting, queue]}
    world.sns.meta.events.register("before-call.sns.ListSubscriptionsByTopic", saying(listed))
    attributes = {"Attributes": {"Protocol": "email", "PendingConfirmation": "true"}}
    world.sns.meta.events.register("before-call.sns.GetSubscriptionAttributes", saying(attributes))
    page = (await api.get("/subscriptions")).json()
    assert page["items"] == [{"id": None, "email": "ada@example.com", "events": None, "confirmed": False}]
    assert page["warning"] == "Nobody gets mail about backups: 1 wait to be confirmed."
    assert (await api.post("/subscriptions/test")).json() == {"confirmed": 0}
    assert await subscriptions.listeners(world.topic) == 0
    problem = assert_problem(await api.delete(f"/subscriptions/{made['id']}"), 404, "subscription-not-found")
    assert problem["detail"].startswith("It waits to be confirmed")


def saying(told: dict[str, Any]) -> Callable[..., Any]:
    """For the client's `before-call` events: this is the answer."""

    async def say(**_: Any) -> tuple[SimpleNamespace, dict[str, Any]]:
        return SimpleNamespace(status_code=200), told | {"ResponseMetadata": {"HTTPStatusCode": 200}}

    return say


async def test_a_test_message_is_asked_for(api: httpx.AsyncClient, world: World) -> None:
    await api.post("/subscriptions", json={"email": "ada@example.com", "events": ["backup.broken"]})
    answer = await api.post("/subscriptions/test")
    assert (answer.status_code, answer.json()) == (202, {"confirmed": 1})
    assert world.tasks == [TrialTask(requested_by=None)]


@pytest.mark.parametrize(
    ("protocol", "endpoint", "heard"),
    [(None, None, False), ("email", "ada@example.com", True), ("sms", "+15550100", True)],
)
async def test_an_end_that_nobody_hears_says_so(
    api: httpx.AsyncClient, world: World, caplog: pytest.LogCaptureFixture, protocol: Any, endpoint: Any, heard: bool
) -> None:
    """The queue of these tests keeps what it gets, which nobody need read."""
    if protocol:
        await world.sns.subscribe(TopicArn=world.topic.arn, Protocol=protocol, Endpoint=endpoint)
    backup_id = await world.wish()
    with caplog.at_level(logging.WARNING, "backup_lambda"):
        assert await worker_for(world, "nonsense").back_up(backup_id, a_long_time) == "failed"
    backup = (await api.get(f"/backups/{backup_id}")).json()
    assert (backup["announced"], backup["unheard"] is None) == (True, heard)
    assert ("nobody who would hear of its end is subscribed" in caplog.text) == (not heard)
    if not heard:
        assert backup["unheard"].startswith("its end was published, and nobody was subscribed")
    assert len(await world.notices()) == 1


@pytest.mark.parametrize("fault", ["refused", "silent"])
async def test_whoever_cannot_ask_who_hears_ends_all_the_same(
    api: httpx.AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    async def silent(**_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("backup_lambda.attempt.LISTENERS_SECONDS", 0.05)
    happens = answering("AuthorizationError", 403) if fault == "refused" else silent
    world.sns.meta.events.register("before-call.sns.ListSubscriptionsByTopic", happens)
    backup_id = await world.wish()
    assert await worker_for(world, "nonsense").back_up(backup_id, a_long_time) == "failed"
    backup = (await api.get(f"/backups/{backup_id}")).json()
    assert (backup["state"], backup["announced"], backup["unheard"]) == ("failed", True, None)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "nobody"},
        {"email": "a@b@c"},
        {"email": "a b@example.com"},
        {"email": "a@example.com\r\nBcc: all@example.com"},
        {"email": f"{'a' * 250}@example.com"},
        {"email": "a@example.com", "events": []},
        {"email": "a@example.com", "events": ["backup.unknown"]},
        {"email": "a@example.com", "protocol": "sms"},
    ],
)
async def test_what_is_no_subscription_is_refused(api: httpx.AsyncClient, body: object) -> None:
    answer = await api.post("/subscriptions", json=body)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
