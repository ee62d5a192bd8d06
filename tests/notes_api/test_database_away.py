"""While the database is away, requests get 503 and are told to try again; when it is back, so is the service."""

import asyncio
import socket
import time
from contextlib import AsyncExitStack

import asyncpg
import httpx
from fastapi import FastAPI

from deploy.local.postgres import UNPRIVILEGED_USER
from notes_api import db
from tests.notes_api.doors import client, new_token, run, serving
from tests.servers import Cluster, free_port, postgres, private_directory


async def test_a_server_that_is_stopped_and_started_again() -> None:
    async with AsyncExitStack() as leaving:
        home, port = leaving.enter_context(private_directory(owner=UNPRIVILEGED_USER)), free_port()
        with postgres(port, home) as server:
            run("migrate", HOLDFAST_DATABASE_URL=server.url("notes_owner", "holdfast"))
            app = await leaving.enter_async_context(serving(server.url("notes_app", "holdfast")))
            ada = await leaving.enter_async_context(client(app, await new_token(app, "notes:read", "notes:write")))
            note = (await ada.post("/v1/notes", json={"title": "kept"})).json()

        for path in ("/v1/notes", f"/v1/notes/{note['id']}", "/readyz"):
            assert_unavailable(await ada.get(path))
        assert_unavailable(await ada.post("/v1/notes", json={"title": "lost"}))
        assert (await ada.get("/livez")).status_code == 200

        with postgres(port, home):
            assert (await ada.get("/readyz")).status_code == 200
            assert [item["id"] for item in (await ada.get("/v1/notes")).json()["items"]] == [note["id"]]


async def test_a_server_that_ended_the_connection_costs_no_request(
    app: FastAPI, ada: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    ended: asyncio.Queue[object] = asyncio.Queue()
    async with app.state.pool.acquire() as connection:
        connection.add_termination_listener(ended.put_nowait)
    terminate = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'notes_app' and datname = "
    cluster.server.psql("postgres", [f"{terminate} '{database}'"])
    await asyncio.wait_for(ended.get(), 10)

    assert (await ada.get("/v1/notes")).status_code == 200


async def test_a_server_that_does_not_answer_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with serving(f"postgresql://notes_app@127.0.0.1:{silent.getsockname()[1]}/holdfast") as app:
            started = time.monotonic()
            assert_unavailable(await client(app).get("/readyz"))
            assert time.monotonic() - started < db.CONNECT_SECONDS + 2


async def test_a_request_does_not_wait_long_for_a_connection(app: FastAPI, ada: httpx.AsyncClient) -> None:
    held = [await app.state.pool.acquire() for _ in range(db.CONNECTIONS)]
    started = time.monotonic()
    assert_unavailable(await ada.get("/v1/notes"))
    assert time.monotonic() - started < db.POOL_WAIT_SECONDS + 2
    for connection in held:
        await app.state.pool.release(connection)
    assert (await ada.get("/v1/notes")).status_code == 200


async def test_a_request_does_not_wait_long_for_a_lock(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    connection = await asyncpg.connect(cluster.url("notes_owner", database))
    async with connection.transaction():
        await connection.execute("lock table notes.notes")
        started = time.monotonic()
        assert_unavailable(await ada.get("/v1/notes"))
        assert time.monotonic() - started < db.STATEMENT_SECONDS + 2
    await connection.close()
    assert (await ada.get("/v1/notes")).status_code == 200


def assert_unavailable(response: httpx.Response) -> None:
    assert (response.status_code, response.json()["type"]) == (503, "/problems/database-unavailable")
    assert int(response.headers["Retry-After"]) > 0
