"""What every answer has: a request id, and errors as problems, whatever raised them. And what orchestrators ask for."""

import asyncio
import logging
import re
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi import FastAPI

from scheduler import db, migrate
from tests.scheduler.chain import allow_connections
from tests.servers import Cluster

if TYPE_CHECKING:
    from tests.scheduler.conftest import Client

HEAD = migrate.revisions()[0]


@pytest.mark.parametrize("path", ["/livez", "/v1/runs", "/nowhere"])
async def test_the_request_id_comes_back(client: "Client", path: str) -> None:
    async with client() as anybody:
        response = await anybody.get(path, headers={"X-Request-Id": "3f9a-2c.1_b"})
    assert response.headers["X-Request-Id"] == "3f9a-2c.1_b"
    assert response.json().get("request_id", "3f9a-2c.1_b") == "3f9a-2c.1_b"


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\tb", "é", '"}'])
async def test_one_is_made_in_place_of_none_or_a_strange_one(client: "Client", given: str | None) -> None:
    async with client() as anybody:
        headers = [(b"X-Request-Id", given.encode())] if given is not None else []
        response = await anybody.get("/nowhere", headers=headers)
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-Id"])
    assert response.json()["request_id"] == response.headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/", "/nowhere", "/v1", "/v1/runs/", "/v1/runs/x/y", "/v1/%00", "/redoc"])
async def test_what_is_nowhere_is_a_problem(client: "Client", path: str) -> None:
    async with client() as anybody:
        response = await anybody.get(path)
    assert response.status_code == 404
    assert_problem(response)


async def test_another_method_is_a_problem(client: "Client") -> None:
    async with client() as anybody:
        response = await anybody.delete("/v1/runs")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")
    assert_problem(response)


async def test_what_nobody_foresaw_is_a_problem_that_shows_nothing(
    app: FastAPI, client: "Client", caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("the secret inside")

    with caplog.at_level(logging.ERROR):
        async with client() as anybody:
            response = await anybody.get("/boom", headers={"X-Request-Id": "boom-1"})
    assert response.status_code == 500
    assert_problem(response)
    assert "secret" not in response.text
    assert "boom-1" in caplog.text
    assert "RuntimeError: the secret inside" in caplog.text, "whoever runs it finds it by the request id"


async def test_while_the_database_is_away_clients_are_told_to_try_again(
    ops: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    allow_connections(cluster, database, False)
    for path in ("/v1/runs", "/v1/schedules", "/readyz"):
        response = await ops.get(path)
        assert (response.status_code, response.json()["type"]) == (503, "/problems/database-unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert_problem(response)
    assert (await ops.get("/livez")).status_code == 200
    allow_connections(cluster, database, True)
    assert (await ops.get("/v1/runs")).status_code == 200


async def test_a_request_does_not_wait_long_for_a_connection(app: FastAPI, ops: httpx.AsyncClient) -> None:
    held = [await app.state.engine.connect() for _ in range(db.CONNECTIONS)]
    async with asyncio.timeout(db.POOL_WAIT_SECONDS + 2):
        assert (await ops.get("/v1/runs")).status_code == 503
    for connection in held:
        await connection.close()
    assert (await ops.get("/v1/runs")).status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_health_needs_no_token(client: "Client", path: str) -> None:
    async with client() as anybody:
        assert (await anybody.get(path)).status_code == 200


@pytest.mark.parametrize("behind", ["delete from scheduler.alembic_version", "drop table scheduler.alembic_version"])
async def test_it_is_not_ready_before_its_migrations(
    client: "Client", cluster: Cluster, database: str, behind: str
) -> None:
    cluster.server.psql(database, [behind])
    async with client() as anybody:
        response = await anybody.get("/readyz")
        assert (response.status_code, response.json()["type"]) == (503, "/problems/schema-behind")
        assert response.json()["detail"] == f"The schema is at nothing, and this release needs {HEAD}."
        assert (await anybody.get("/livez")).status_code == 200


async def test_it_is_ready_on_the_schema_of_a_newer_release(client: "Client", cluster: Cluster, database: str) -> None:
    cluster.server.psql(database, ["update scheduler.alembic_version set version_num = 'of a later day'"])
    async with client() as anybody:
        assert (await anybody.get("/readyz")).status_code == 200


def assert_problem(response: httpx.Response) -> None:
    """RFC 9457, with our members."""
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert problem["type"]
    assert problem["title"]
    assert problem["detail"]
