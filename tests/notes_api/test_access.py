"""Who may call what."""

import hashlib
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from tests.notes_api.doors import client, new_token
from tests.servers import Cluster

ROUTES = [("POST", "/v1/notes", "notes:write"), ("GET", "/v1/notes", "notes:read")]
ROUTES += [("GET", f"/v1/notes/{uuid4()}", "notes:read")]
BODY = {"title": "x"}


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
async def test_a_token_is_needed(anybody: httpx.AsyncClient, method: str, path: str, scope: str) -> None:
    response = await anybody.request(method, path, json=BODY)
    assert (response.status_code, response.json()["type"]) == (401, "/problems/not-authenticated")
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic YTpi", "hf_x", "Bearer hf_é", "Bearer hf_unknown", ""])
async def test_what_is_no_token_of_ours_is_refused(anybody: httpx.AsyncClient, header: str) -> None:
    response = await anybody.get("/v1/notes", headers=httpx.Headers({"Authorization": header}, encoding="utf-8"))
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert "hf_unknown" not in response.text


async def test_an_expired_token_is_refused(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    cluster.server.psql(database, ["update notes.tokens set expires_at = now() + interval '1 hour'"])
    assert (await ada.get("/v1/notes")).status_code == 200
    cluster.server.psql(database, ["update notes.tokens set expires_at = now()"])
    response = await ada.get("/v1/notes")
    assert (response.status_code, response.json()["type"]) == (401, "/problems/token-refused")
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


async def test_a_token_is_revoked_at_once(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    assert (await ada.get("/v1/notes")).status_code == 200
    cluster.server.psql(database, ["delete from notes.tokens"])
    assert (await ada.get("/v1/notes")).status_code == 401


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
async def test_a_scope_is_needed(eve: httpx.AsyncClient, method: str, path: str, scope: str) -> None:
    response = await eve.request(method, path, json=BODY)
    assert (response.status_code, response.json()["type"]) == (403, "/problems/scope-missing")
    assert scope in response.json()["detail"]
    assert response.headers["WWW-Authenticate"] == f'Bearer error="insufficient_scope", scope="{scope}"'


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
async def test_that_scope_is_enough(app: FastAPI, method: str, path: str, scope: str) -> None:
    async with client(app, await new_token(app, scope)) as somebody:
        assert (await somebody.request(method, path, json=BODY)).status_code in {200, 201, 404}


async def test_only_the_hash_of_a_token_is_kept(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    token = ada.headers["Authorization"].removeprefix("Bearer ")
    row = cluster.server.psql(database, ["select * from notes.tokens"])
    assert hashlib.sha256(token.encode()).hexdigest() in row
    assert token.removeprefix("hf_") not in row


async def test_the_last_use_is_noted_to_the_minute(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    def last_used() -> str:
        return cluster.server.psql(database, ["select last_used_at from notes.tokens"]).strip()

    assert last_used() == ""
    await ada.get("/v1/notes")
    first = last_used()
    assert first
    await ada.get("/v1/notes")
    assert last_used() == first
    cluster.server.psql(database, ["update notes.tokens set last_used_at = now() - interval '61 seconds'"])
    await ada.get("/v1/notes")
    assert last_used() > first
