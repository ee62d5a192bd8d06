"""Who may do what: a token holds scopes, and a route needs one."""

from typing import TYPE_CHECKING

import asyncpg
import httpx
import pytest

from tests.scheduler.chain import DAILY

if TYPE_CHECKING:
    from tests.scheduler.conftest import Client

ROUTES = [
    ("GET", "/v1/schedules", "schedules:read"),
    ("GET", f"/v1/schedules/{DAILY}", "schedules:read"),
    ("POST", f"/v1/schedules/{DAILY}/trigger", "schedules:write"),
    ("GET", "/v1/runs", "runs:read"),
    ("GET", "/v1/runs/00000000-0000-7000-8000-000000000002", "runs:read"),
]
SCOPES = {"schedules:read", "schedules:write", "runs:read"}


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
async def test_a_token_with_the_scope_may(client: "Client", method: str, path: str, scope: str) -> None:
    async with client(scope) as somebody:
        assert (await somebody.request(method, path)).status_code in {200, 201, 404}


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
async def test_all_other_scopes_do_not_do(
    client: "Client", sql: asyncpg.Connection, method: str, path: str, scope: str
) -> None:
    async with client(*SCOPES - {scope}) as somebody:
        response = await somebody.request(method, path)
    assert (response.status_code, response.json()["type"]) == (403, "/problems/scope-missing")
    assert scope in response.json()["detail"]
    assert response.headers["WWW-Authenticate"] == f'Bearer error="insufficient_scope", scope="{scope}"'
    assert await sql.fetchval("select count(*) from scheduler.runs") == 0


@pytest.mark.parametrize(("method", "path", "_scope"), ROUTES)
async def test_nobody_gets_in_without_a_token(client: "Client", method: str, path: str, _scope: str) -> None:
    async with client() as nobody:
        response = await nobody.request(method, path)
    assert (response.status_code, response.json()["type"]) == (401, "/problems/not-authenticated")
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "sent", ["Bearer hf_" + "x" * 43, "Bearer", "Bearer ", "Basic aGY6eA==", "hf_x", "Bearer \xe9", "Bearer a b"]
)
async def test_what_is_no_token_of_ours_is_refused(client: "Client", sent: str) -> None:
    async with client() as nobody:
        response = await nobody.get("/v1/runs", headers=[(b"Authorization", sent.encode("latin-1"))])
    assert response.status_code == 401


async def test_an_expired_token_is_refused(ops: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
    assert (await ops.get("/v1/runs")).status_code == 200
    await sql.execute("update scheduler.tokens set expires_at = now()")
    response = await ops.get("/v1/runs")
    assert (response.status_code, response.json()["type"]) == (401, "/problems/token-refused")
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


async def test_a_token_is_kept_as_a_hash_and_its_use_is_noted(ops: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
    await ops.get("/v1/runs")
    kept = await sql.fetchrow("select * from scheduler.tokens")
    assert kept is not None
    assert kept["last_used_at"] is not None
    assert ops.headers["Authorization"].removeprefix("Bearer ") not in str(dict(kept))
