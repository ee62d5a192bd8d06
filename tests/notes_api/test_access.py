"""Who may call what. The routes are read from the OpenAPI document, so that a new one is among them."""

import asyncio
import hashlib
import random
from typing import NamedTuple
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from notes_api import tokens
from notes_api.access import Authentication
from notes_api.app import create_app
from notes_api.errors import TokenRefused
from notes_api.settings import Settings
from tests.notes_api.doors import client, new_token
from tests.servers import Cluster

NOTE = f"/v1/notes/{uuid4()}"


class Operation(NamedTuple):
    method: str
    path: str
    media_type: str
    scope: str


def operations() -> list[Operation]:
    settings = {"HOLDFAST_DATABASE_URL": "postgresql://nobody@nowhere/x", "HOLDFAST_SIGNING_KEY": "k" * 32}
    found = []
    for template, methods in create_app(Settings.from_env(settings)).openapi()["paths"].items():
        for method, operation in methods.items():
            path = template
            for each in operation.get("parameters", []):
                value = "1" if each["schema"].get("type") == "integer" else str(uuid4())
                path = path.replace(f"{{{each['name']}}}", value)
            taken = operation.get("requestBody", {}).get("content", {})
            media_type = next((each for each in taken if each != "application/json"), "application/json")
            scopes = [scope for each in operation.get("security", []) for scope in each["token"]]
            assert len(scopes) == 1, f"{method} {template} needs {scopes}"
            found.append(Operation(method.upper(), path, media_type, scopes[0]))
    return found


async def send(somebody: httpx.AsyncClient, operation: Operation) -> httpx.Response:
    """With headers and a body that pass what is looked at before the scope. A stream's head is enough."""
    headers = {"Content-Type": operation.media_type, "If-Match": '"1-0"'}
    content = None if operation.method in {"GET", "DELETE"} else b"{}"
    return await somebody.request(operation.method, operation.path, content=content, headers=headers)


OPERATIONS = operations()


def test_each_scope_is_needed_by_some_route() -> None:
    assert {each.scope for each in OPERATIONS} >= {tokens.READ, tokens.WRITE, tokens.ADMIN}


async def test_every_route_needs_a_token(anybody: httpx.AsyncClient) -> None:
    for operation in OPERATIONS:
        response = await send(anybody, operation)
        assert (response.status_code, response.json()["type"]) == (401, "/problems/not-authenticated"), operation
        assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_every_route_refuses_all_scopes_but_its_own(app: FastAPI) -> None:
    for scope in tokens.SCOPES:
        others = [each for each in tokens.SCOPES if each != scope]
        async with client(app, await new_token(app, *others)) as somebody:
            for operation in OPERATIONS:
                if operation.scope == scope:
                    response = await send(somebody, operation)
                    assert (response.status_code, response.json()["type"]) == (403, "/problems/scope-missing"), (
                        operation
                    )
                    assert response.json()["detail"] == f"This needs the scope {scope}."
                    challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
                    assert response.headers["WWW-Authenticate"] == challenge


@pytest.mark.parametrize("scope", tokens.SCOPES)
async def test_its_own_scope_is_enough(app: FastAPI, scope: str) -> None:
    async with client(app, await new_token(app, scope)) as somebody:
        for operation in OPERATIONS:
            if operation.scope == scope and not operation.path.endswith("/stream"):
                assert (await send(somebody, operation)).status_code not in {401, 403}, operation


async def test_what_needs_no_token_is_not_under_v1(app: FastAPI) -> None:
    assert all(each.path.startswith("/v1/") for each in OPERATIONS)


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic YTpi", "hf_x", "Bearer hf_é", "Bearer hf_unknown", ""])
async def test_what_is_no_token_of_ours_is_refused(anybody: httpx.AsyncClient, header: str) -> None:
    response = await anybody.get(NOTE, headers=httpx.Headers({"Authorization": header}, encoding="utf-8"))
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert "hf_unknown" not in response.text


async def test_an_expired_token_is_refused(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    cluster.server.psql(database, ["update notes.tokens set expires_at = now() + interval '1 hour'"])
    assert (await ada.get(NOTE)).status_code == 404
    cluster.server.psql(database, ["update notes.tokens set expires_at = now()"])
    response = await ada.get(NOTE)
    assert (response.status_code, response.json()["type"]) == (401, "/problems/token-refused")
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


async def test_a_token_is_revoked_at_once(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    assert (await ada.get(NOTE)).status_code == 404
    cluster.server.psql(database, ["delete from notes.tokens"])
    assert (await ada.get(NOTE)).status_code == 401


async def test_tokens_that_are_looked_up_together_are_not_mixed_up(app: FastAPI) -> None:
    """Good ones, one of them in many requests, wrong ones, and requests that end before they are answered."""
    owners = [uuid4() for _ in range(8)]
    good = {await new_token(app, "notes:read", "notes:write", owner=owner): owner for owner in owners}
    asking: Authentication = app.state.authentication
    for _ in range(20):
        given = random.choices([*good, f"hf_{'x' * 43}"], k=60)
        asked = [asyncio.create_task(asking.caller(token)) for token in given]
        await asyncio.sleep(0)
        left = set(random.sample(range(60), 20))
        for number in left:
            asked[number].cancel()
        found = await asyncio.gather(*asked, return_exceptions=True)
        for number, (token, answer) in enumerate(zip(given, found, strict=True)):
            if number in left:
                assert isinstance(answer, asyncio.CancelledError)
            elif token in good:
                assert isinstance(answer, tokens.Caller)
                assert answer.owner == good[token]
            else:
                assert isinstance(answer, TokenRefused)


async def test_only_the_hash_of_a_token_is_kept(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    token = ada.headers["Authorization"].removeprefix("Bearer ")
    row = cluster.server.psql(database, ["select * from notes.tokens"])
    assert hashlib.sha256(token.encode()).hexdigest() in row
    assert token.removeprefix("hf_") not in row


async def test_the_last_use_is_noted_to_the_minute(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    def last_used() -> str:
        return cluster.server.psql(database, ["select last_used_at from notes.tokens"]).strip()

    assert last_used() == ""
    await ada.get(NOTE)
    first = last_used()
    assert first
    await ada.get(NOTE)
    assert last_used() == first
    cluster.server.psql(database, ["update notes.tokens set last_used_at = now() - interval '61 seconds'"])
    await ada.get(NOTE)
    assert last_used() > first


@pytest.mark.parametrize("behind", ["\xa0", "\x85", "x", "="])
async def test_a_token_with_something_behind_it_is_another(ada: httpx.AsyncClient, behind: str) -> None:
    """It would be counted as another, too."""
    token = ada.headers["Authorization"]
    answer = await ada.get("/v1/notes", headers=[(b"Authorization", (token + behind).encode("latin-1"))])
    assert (answer.status_code, answer.json()["type"]) == (401, "/problems/token-refused")
