"""The header Idempotency-Key."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from tests.notes_api.doors import client, new_token
from tests.servers import Cluster

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"
WAITING = "select exists (select from pg_locks where not granted)"
MERGE_PATCH = "application/merge-patch+json"


async def _made(somebody: httpx.AsyncClient, content: str = "tea") -> dict[str, Any]:
    return dict((await somebody.post("/v1/notes", json={"title": "Tea", "content": content})).json())


def _request(route: str, note: dict[str, Any], trashed: dict[str, Any]) -> dict[str, Any]:
    """What to send, once and again."""
    path, to_change = f"/v1/notes/{note['id']}", {"Idempotency-Key": KEY, "If-Match": note["etag"]}
    requests: dict[str, dict[str, Any]] = {
        "create": {"method": "POST", "url": "/v1/notes", "json": {"title": "x"}, "headers": {"Idempotency-Key": KEY}},
        "put": {"method": "PUT", "url": path, "json": {"title": "x"}, "headers": to_change},
        "put new": {
            "method": "PUT",
            "url": "/v1/notes/018f0000-0000-7000-8000-000000000000",
            "json": {"title": "x"},
            "headers": {"Idempotency-Key": KEY, "If-None-Match": "*"},
        },
        "patch": {
            "method": "PATCH",
            "url": path,
            "content": b'{"title": "x"}',
            "headers": to_change | {"Content-Type": MERGE_PATCH},
        },
        "append": {"method": "POST", "url": f"{path}:append", "json": {"content": "x"}, "headers": to_change},
        "replace": {
            "method": "POST",
            "url": f"{path}:replace",
            "json": {"find": "tea", "replace": "x"},
            "headers": to_change,
        },
        "restore": {
            "method": "POST",
            "url": f"/v1/notes/{trashed['id']}:restore",
            "headers": {"Idempotency-Key": KEY, "If-Match": trashed["etag"]},
        },
        "revision": {"method": "POST", "url": f"{path}/revisions/1:restore", "headers": to_change},
    }
    return requests[route]


def _changes(cluster: Cluster, database: str) -> int:
    return int(cluster.server.psql(database, ["select count(*) from notes.changes"]))


@pytest.mark.parametrize("route", ["create", "put", "put new", "patch", "append", "replace", "restore", "revision"])
async def test_a_request_that_is_sent_again_is_answered_again_and_not_done_again(
    ada: httpx.AsyncClient, cluster: Cluster, database: str, route: str
) -> None:
    """Its `If-Match` is stale by then: the answer comes before that is looked at."""
    first, trashed = await _made(ada, "first"), await _made(ada)
    named = {"If-Match": first["etag"]}
    note = (await ada.put(f"/v1/notes/{first['id']}", json={"title": "y", "content": "tea"}, headers=named)).json()
    trashed = (await ada.delete(f"/v1/notes/{trashed['id']}", headers={"If-Match": trashed["etag"]})).json()
    before = _changes(cluster, database)

    answer = await ada.request(**_request(route, note, trashed))
    assert answer.is_success, answer.text
    assert "Idempotent-Replayed" not in answer.headers
    for _ in range(3):
        again = await ada.request(**_request(route, note, trashed))
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (again.status_code, again.content) == (answer.status_code, answer.content)
        for name in ("ETag", "Location", "Content-Type", "Cache-Control"):
            assert again.headers.get(name) == answer.headers.get(name), name
    assert _changes(cluster, database) == before + 1


async def test_the_answer_stays_what_it_was_when_the_note_does_not(ada: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": KEY}
    made = await ada.post("/v1/notes", json={"title": "Tea"}, headers=headers)
    await ada.put(made.headers["Location"], json={"title": "Coffee"}, headers={"If-Match": made.headers["ETag"]})
    assert (await ada.post("/v1/notes", json={"title": "Tea"}, headers=headers)).content == made.content


async def test_the_key_may_have_quotes_as_the_draft_has_it(ada: httpx.AsyncClient) -> None:
    made = await ada.post("/v1/notes", json={"title": "Tea"}, headers={"Idempotency-Key": KEY})
    again = await ada.post("/v1/notes", json={"title": "Tea"}, headers={"Idempotency-Key": f'"{KEY}"'})
    assert again.content == made.content


async def test_another_request_with_the_key_is_refused(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    note = await _made(ada)
    path, headers = f"/v1/notes/{note['id']}", {"Idempotency-Key": KEY, "If-Match": note["etag"]}
    assert (await ada.post(f"{path}:append", json={"content": "x"}, headers=headers)).status_code == 200
    before = _changes(cluster, database)
    for refused in (
        await ada.post(f"{path}:append", json={"content": "y"}, headers=headers),
        await ada.post(f"{path}:append", json={"content": "x"}, headers=headers | {"If-Match": '"2-1"'}),
        await ada.post(f"/v1/notes/{uuid4()}:append", json={"content": "x"}, headers=headers),
        await ada.post("/v1/notes", json={"title": "x"}, headers=headers),
        await ada.put(path, json={"title": "x"}, headers=headers),
    ):
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert _changes(cluster, database) == before


@pytest.mark.parametrize("key", ["", "x" * 256, "é", '""', '"', " "])
async def test_a_key_that_is_none_is_refused(ada: httpx.AsyncClient, key: str) -> None:
    headers = {b"Idempotency-Key": key.encode()}
    refused = await ada.post("/v1/notes", json={"title": "Tea"}, headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-request")


async def test_a_refused_request_keeps_no_key(ada: httpx.AsyncClient) -> None:
    note = await _made(ada)
    key = {"Idempotency-Key": KEY}
    path = f"/v1/notes/{note['id']}:append"
    for body, headers, status in (
        ({"content": "x"}, {}, 428),
        ({"content": "x"}, {"If-Match": '"2-1"'}, 412),
        ({"content": 5}, {"If-Match": note["etag"]}, 422),
        ({"content": "x" * 1024 * 1024}, {"If-Match": note["etag"]}, 422),
    ):
        assert (await ada.post(path, json=body, headers=key | headers)).status_code == status
    done = await ada.post(path, json={"content": "x"}, headers=key | {"If-Match": note["etag"]})
    assert (done.status_code, done.json()["content"]) == (200, "teax")


async def test_a_commit_that_fails_keeps_no_key(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    refuse = "returns trigger language plpgsql as $$ begin raise exception 'at commit'; end $$"
    trigger = "after insert on notes.notes deferrable initially deferred for each row execute function notes.refuse()"
    cluster.server.psql(
        database, [f"create function notes.refuse() {refuse}", f"create constraint trigger refuse {trigger}"]
    )
    headers = {"Idempotency-Key": KEY}
    assert (await ada.post("/v1/notes", json={"title": "x"}, headers=headers)).status_code == 500
    cluster.server.psql(database, ["drop trigger refuse on notes.notes"])
    made = await ada.post("/v1/notes", json={"title": "x"}, headers=headers)
    assert (made.status_code, made.headers.get("Idempotent-Replayed")) == (201, None)


async def test_the_keys_of_two_owners_do_not_meet(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": KEY}
    adas = await ada.post("/v1/notes", json={"title": "Tea"}, headers=headers)
    bobs = await bob.post("/v1/notes", json={"title": "Tea"}, headers=headers)
    assert bobs.status_code == 201
    assert "Idempotent-Replayed" not in bobs.headers
    assert adas.json()["id"] != bobs.json()["id"]
    assert (await bob.post("/v1/notes", json={"title": "Other"}, headers=headers)).status_code == 422


async def test_a_key_is_the_owners_whichever_token_sends_it(app: FastAPI) -> None:
    owner = uuid4()
    made = []
    for _ in range(2):
        async with client(app, await new_token(app, "notes:write", owner=owner)) as ada:
            made.append(await ada.post("/v1/notes", json={"title": "Tea"}, headers={"Idempotency-Key": KEY}))
    assert made[0].content == made[1].content


async def test_a_token_that_may_not_write_gets_no_answer_of_one_that_may(app: FastAPI) -> None:
    owner = uuid4()
    request: dict[str, Any] = {"json": {"title": "Tea"}, "headers": {"Idempotency-Key": KEY}}
    async with client(app, await new_token(app, "notes:write", owner=owner)) as writer:
        await writer.post("/v1/notes", **request)
    async with client(app, await new_token(app, "notes:read", owner=owner)) as reader:
        assert (await reader.post("/v1/notes", **request)).status_code == 403


async def test_after_a_day_a_key_is_free_again(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    headers = {"Idempotency-Key": KEY}

    async def made_later(interval: str, title: str) -> httpx.Response:
        earlier = f"update notes.idempotency_keys set created_at = created_at - interval '{interval}'"
        cluster.server.psql(database, [earlier])
        return await ada.post("/v1/notes", json={"title": title}, headers=headers)

    first = await ada.post("/v1/notes", json={"title": "Tea"}, headers=headers)
    assert (await made_later("23 hours 59 minutes", "Tea")).content == first.content
    other = await made_later("1 minute", "Coffee")
    assert (other.status_code, other.json()["title"]) == (201, "Coffee")
    assert (await made_later("1 minute", "Coffee")).content == other.content


async def test_while_the_first_has_not_ended_the_second_is_refused(
    ada: httpx.AsyncClient, bob: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    """Somebody else has locked the row, so that the first request waits in the middle of its transaction."""
    note = await _made(ada)
    holder = await asyncpg.connect(cluster.url("postgres", database))
    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("select from notes.notes for update")
        send: dict[str, Any] = {"json": {"content": "x"}, "headers": {"Idempotency-Key": KEY, "If-Match": note["etag"]}}
        path = f"/v1/notes/{note['id']}:append"
        first = asyncio.create_task(ada.post(path, **send))
        async with asyncio.timeout(30):
            # Who waits says so only to PostgreSQL.
            while not await holder.fetchval(WAITING):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        second = await ada.post(path, **send)
        bobs = await bob.post("/v1/notes", json={"title": "x"}, headers={"Idempotency-Key": KEY})
        await transaction.rollback()
    finally:
        await holder.close()

    assert (second.status_code, second.json()["type"]) == (409, "/problems/request-in-flight")
    assert second.headers["Retry-After"] == "1"
    assert bobs.status_code == 201, "another owner's key is another key"
    done = await first
    assert (done.status_code, done.json()["content"]) == (200, "teax")
    third = await ada.post(path, **send)
    assert (third.content, third.headers["Idempotent-Replayed"]) == (done.content, "true")


async def test_of_many_at_once_one_is_done(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    async def send() -> httpx.Response:
        while True:
            answer = await ada.post("/v1/notes", json={"title": "Tea"}, headers={"Idempotency-Key": KEY})
            if answer.status_code != 409:
                return answer

    answers = await asyncio.gather(*(send() for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len([answer for answer in answers if "Idempotent-Replayed" not in answer.headers]) == 1
    assert _changes(cluster, database) == 1


async def test_keys_are_kept_as_hashes(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    await ada.post("/v1/notes", json={"title": "Tea"}, headers={"Idempotency-Key": KEY})
    kept = cluster.server.psql(database, ["select row_to_json(k) from notes.idempotency_keys as k"])
    assert json.loads(kept)["status"] == 201
    assert KEY not in kept
