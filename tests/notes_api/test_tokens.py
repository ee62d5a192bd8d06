"""POST, GET and DELETE /v1/tokens."""

import re
from collections.abc import AsyncIterator
from typing import get_args
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI

from notes_api.routes.tokens import ScopeName
from notes_api.tokens import SCOPES
from tests.notes_api.doors import client, new_token
from tests.servers import Cluster

OWNER = UUID("018f0000-0000-7000-8000-00000000ada0")
NOTES = f"/v1/notes/{uuid4()}"
SYNC = {"name": "sync", "scopes": ["notes:read"]}
KEY = {"Idempotency-Key": "first-token"}


@pytest.fixture
async def admin(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app, await new_token(app, "tokens:admin", "notes:read", owner=OWNER)) as somebody:
        yield somebody


async def test_a_token_that_was_made_works_and_reaches_the_same_notes(app: FastAPI, admin: httpx.AsyncClient) -> None:
    made = await admin.post("/v1/tokens", json={"name": "writes", "scopes": ["notes:read", "notes:read"]})
    assert made.status_code == 201
    assert re.fullmatch(r"hf_[A-Za-z0-9_-]{43}", made.json()["token"])
    assert made.json()["scopes"] == ["notes:read"]
    assert made.json()["expires_at"] is None
    assert made.headers["Location"] == f"/v1/tokens/{made.json()['id']}"
    assert made.headers["Cache-Control"] == "no-store"
    async with client(app, await new_token(app, "notes:write", owner=OWNER)) as writer:
        note = await writer.post("/v1/notes", json={"title": "x"})
    async with client(app, made.json()["token"]) as reader:
        assert (await reader.get(note.headers["Location"])).status_code == 200
        assert (await reader.post("/v1/notes", json={"title": "x"})).status_code == 403


async def test_it_is_shown_once_and_kept_nowhere(admin: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    made = (await admin.post("/v1/tokens", json=SYNC, headers=KEY)).json()
    listed = await admin.get("/v1/tokens")
    kept = cluster.server.psql(
        database, ["select * from notes.tokens", "select encode(body, 'escape'), * from notes.idempotency_keys"]
    )
    assert "sync" in kept
    for text in (listed.text, kept):
        assert made["token"].removeprefix("hf_") not in text


async def test_a_replay_shows_the_same_token(app: FastAPI, admin: httpx.AsyncClient) -> None:
    first = await admin.post("/v1/tokens", json=SYNC, headers=KEY)
    again = await admin.post("/v1/tokens", json=SYNC, headers=KEY)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.json() == first.json()
    assert len((await admin.get("/v1/tokens")).json()["items"]) == 2
    async with client(app, again.json()["token"]) as reader:
        assert (await reader.get(NOTES)).status_code == 404


async def test_another_key_makes_another_token(admin: httpx.AsyncClient) -> None:
    made = [await admin.post("/v1/tokens", json=SYNC, headers={"Idempotency-Key": key}) for key in ("one", "two")]
    assert made[0].json()["token"] != made[1].json()["token"]


async def test_a_key_that_is_forgotten_and_used_again_brings_no_revoked_token_back(
    admin: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    first = (await admin.post("/v1/tokens", json=SYNC, headers=KEY)).json()
    assert (await admin.delete(f"/v1/tokens/{first['id']}")).status_code == 204
    cluster.server.psql(database, ["update notes.idempotency_keys set created_at = now() - interval '25 hours'"])
    second = await admin.post("/v1/tokens", json=SYNC, headers=KEY)
    assert second.status_code == 201
    assert second.json()["token"] != first["token"]


@pytest.mark.parametrize("scopes", [["notes:write"], ["notes:read", "notes:write"], ["attachments:write"]])
async def test_nobody_gives_what_they_do_not_hold(admin: httpx.AsyncClient, scopes: list[str]) -> None:
    response = await admin.post("/v1/tokens", json={"name": "more", "scopes": scopes})
    assert (response.status_code, response.json()["type"]) == (403, "/problems/scope-missing")
    assert len((await admin.get("/v1/tokens")).json()["items"]) == 1


async def test_a_replay_gives_nobody_what_they_do_not_hold(app: FastAPI, admin: httpx.AsyncClient) -> None:
    assert (await admin.post("/v1/tokens", json=SYNC, headers=KEY)).status_code == 201
    async with client(app, await new_token(app, "tokens:admin", owner=OWNER)) as less:
        assert (await less.post("/v1/tokens", json=SYNC, headers=KEY)).status_code == 403


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 201},
        {"name": "\x00"},
        {"scopes": []},
        {"scopes": ["notes:all"]},
        {"scopes": "notes:read"},
        {"expires_at": "2001-01-01T00:00:00Z"},
        {"expires_at": "9999-12-31T23:59:59-23:59"},
        {"expires_at": "2030-01-01T00:00:00"},
        {"expires_at": 0},
        {"expires_in_days": 0},
        {"expires_in_days": 3651},
        {"expires_at": "2030-01-01T00:00:00Z", "expires_in_days": 1},
        {"owner": str(OWNER)},
    ],
)
async def test_what_is_wrong_is_refused(admin: httpx.AsyncClient, wrong: dict[str, object]) -> None:
    response = await admin.post("/v1/tokens", json={**SYNC, **wrong})
    assert (response.status_code, response.json()["type"]) == (422, "/problems/invalid-request")


async def test_a_token_may_expire(app: FastAPI, admin: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    made = (await admin.post("/v1/tokens", json={**SYNC, "expires_in_days": 30})).json()
    days = "select round(extract(epoch from expires_at - now()) / 86400) from notes.tokens where name = 'sync'"
    assert cluster.server.psql(database, [days]).strip() == "30"
    cluster.server.psql(database, ["update notes.tokens set expires_at = now() where name = 'sync'"])
    async with client(app, made["token"]) as reader:
        assert (await reader.get(NOTES)).status_code == 401
    assert made["id"] in {item["id"] for item in (await admin.get("/v1/tokens")).json()["items"]}


async def test_a_revoked_token_is_refused_from_the_next_request_on(app: FastAPI, admin: httpx.AsyncClient) -> None:
    made = (await admin.post("/v1/tokens", json=SYNC)).json()
    async with client(app, made["token"]) as reader:
        assert (await reader.get(NOTES)).status_code == 404
        assert (await admin.delete(f"/v1/tokens/{made['id']}")).status_code == 204
        assert (await reader.get(NOTES)).status_code == 401
    again = await admin.delete(f"/v1/tokens/{made['id']}")
    assert (again.status_code, again.json()["type"]) == (404, "/problems/token-not-found")


async def test_somebody_elses_token_is_not_there(app: FastAPI, admin: httpx.AsyncClient) -> None:
    made = (await admin.post("/v1/tokens", json=SYNC)).json()
    async with client(app, await new_token(app, "tokens:admin")) as stranger:
        assert (await stranger.delete(f"/v1/tokens/{made['id']}")).status_code == 404
        assert made["id"] not in (await stranger.get("/v1/tokens")).text
    async with client(app, made["token"]) as reader:
        assert (await reader.get(NOTES)).status_code == 404


async def test_pages_hold_each_token_once_the_newest_first(app: FastAPI, admin: httpx.AsyncClient) -> None:
    for number in range(6):
        await admin.post("/v1/tokens", json={**SYNC, "name": str(number)})
    seen: list[str] = []
    parameters: dict[str, str | int] = {"limit": 3}
    while True:
        page = (await admin.get("/v1/tokens", params=parameters)).json()
        seen += [item["name"] for item in page["items"]]
        if not page["has_more"]:
            break
        parameters["cursor"] = page["next_cursor"]
    assert seen == ["5", "4", "3", "2", "1", "0", "test"]
    async with client(app, await new_token(app, "tokens:admin")) as stranger:
        assert (await stranger.get("/v1/tokens", params=parameters)).status_code == 400


def test_every_scope_can_be_given() -> None:
    assert get_args(ScopeName) == SCOPES
