"""Email subscriptions, by the API, on the real protocol of SNS."""

import json

import httpx
import pytest

from tests.backup_lambda.world import World


async def test_an_address_subscribes_to_some_events(api: httpx.AsyncClient, world: World) -> None:
    wanted = {"email": "ada@example.com", "events": ["backup.failed"]}
    answer = await api.post("/subscriptions", json=wanted)
    assert answer.status_code == 201
    made = answer.json()
    assert (made["email"], made["events"]) == ("ada@example.com", ["backup.failed"])
    attributes = await world.sns.get_subscription_attributes(SubscriptionArn=f"{world.topic.arn}:{made['id']}")
    assert attributes["Attributes"]["Protocol"] == "email"
    assert json.loads(attributes["Attributes"]["FilterPolicy"]) == {"type": ["backup.failed"]}
    assert (await api.post("/subscriptions", json=wanted)).json() == made, "the same again changes nothing"


async def test_all_subscriptions_are_listed_but_no_queue(api: httpx.AsyncClient) -> None:
    """More than SNS gives in one answer."""
    for number in range(101):
        answer = await api.post("/subscriptions", json={"email": f"reader{number}@example.com"})
        assert answer.json()["events"] is None
    page = (await api.get("/subscriptions")).json()
    assert [item["email"] for item in page["items"]] == [f"reader{number}@example.com" for number in range(101)]
    assert (page["next_cursor"], page["has_more"]) == (None, False)


async def test_other_events_for_a_subscribed_address_are_refused(api: httpx.AsyncClient) -> None:
    assert (await api.post("/subscriptions", json={"email": "ada@example.com"})).status_code == 201
    again = await api.post("/subscriptions", json={"email": "ada@example.com", "events": ["backup.stored"]})
    assert (again.status_code, again.json()["type"]) == (409, "/problems/already-subscribed")


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
