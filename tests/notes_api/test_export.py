"""GET /v1/notes:export: all notes of one moment, as lines."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from fastapi import FastAPI
from starlette.types import Message

from notes_api import exported
from notes_api.errors import TooManyExports
from notes_api.routes import parts
from tests.notes_api.doors import new_token
from tests.notes_api.processes import served
from tests.servers import Cluster

EXPORT, IMPORT = "/v1/notes:export", "/v1/notes:import"
MIB = 1024 * 1024


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_all_of_an_owner_is_there_the_trash_included(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    await bob.post("/v1/notes", json={"title": "Bob's"})
    full = {
        "title": "Full",
        "content": "\u2028 \U0001f4dd\n",
        "tags": ["b", "a"],
        "pinned": True,
        "archived": True,
        "metadata": {"n": [1, None]},
    }
    made = [(await ada.post("/v1/notes", json=new)).json() for new in (full, {"title": "Trashed"})]
    made[1] = (await ada.delete(f"/v1/notes/{made[1]['id']}", headers={"If-Match": made[1]["etag"]})).json()
    left_out = ("etag", "attachment_count", "attachments")
    assert [json.loads(line) for line in (await ada.get(EXPORT)).text.split("\n")[:-1]] == [
        {name: value for name, value in note.items() if name not in left_out} for note in made
    ]


async def test_its_cursor_goes_on_from_the_moment_of_the_export(ada: httpx.AsyncClient) -> None:
    await ada.post("/v1/notes", json={"title": "Before"})
    cursor = (await ada.get(EXPORT)).headers["Changes-Cursor"]
    await ada.post("/v1/notes", json={"title": "After"})
    page = (await ada.get("/v1/changes", params={"cursor": cursor})).json()
    assert [change["seq"] for change in page["items"]] == [2]


async def test_it_is_of_one_moment(app: FastAPI, ada: httpx.AsyncClient) -> None:
    """What is written while it is read is not in it."""
    made = [(await ada.post("/v1/notes", json={"title": f"{n}"})).json() for n in range(3 * exported.PREFETCHED)]
    state, token = app.state, (await ada.get("/v1/changes")).json()
    async with state.pool.acquire() as connection:
        owner = await connection.fetchval("select owner from notes.notes limit 1")
    stream = exported.lines(state.pool, state.exports, state.signer, owner)
    assert (await anext(stream)).decode() == token["next_cursor"] or token["has_more"]
    first = json.loads(await anext(stream))
    last = made[-1]
    await ada.delete(f"/v1/notes/{last['id']}", headers={"If-Match": last["etag"]})
    await ada.post("/v1/notes", json={"title": "Too late"})
    rest = [json.loads(line) async for line in stream]
    assert [note["title"] for note in (first, *rest)] == [f"{n}" for n in range(3 * exported.PREFETCHED)]
    assert rest[-1]["deleted_at"] is None


async def test_one_of_an_owner_and_so_many_at_a_time(
    app: FastAPI, ada: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    await ada.post("/v1/notes", json={"title": "x"})
    state = app.state
    async with state.pool.acquire() as connection:
        owner = await connection.fetchval("select owner from notes.notes limit 1")

    async def begun(owner: UUID) -> AsyncGenerator[bytes, None]:
        stream = exported.lines(state.pool, state.exports, state.signer, owner)
        await anext(stream)
        return stream

    running = [await begun(owner)]
    answer = await ada.get(EXPORT)
    assert (answer.status_code, answer.json()["type"]) == (503, f"/problems/{TooManyExports.type}")
    assert answer.headers["Retry-After"] == "10"
    assert (await bob.get(EXPORT)).status_code == 200
    running += [await begun(uuid4()) for _ in range(exported.AT_ONCE - 1)]
    assert (await bob.get(EXPORT)).status_code == 503
    for each in running:
        await each.aclose()
    assert len(lines(await ada.get(EXPORT))) == 1


async def test_who_reads_nothing_gives_place_and_connection_back(
    app: FastAPI, ada: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "SLOW_SECONDS", 0.2)
    await ada.post("/v1/notes", json={"title": "x"})
    headers = [(b"authorization", ada.headers["Authorization"].encode())]
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": EXPORT, "raw_path": EXPORT.encode()}
    scope |= {"query_string": b"", "headers": headers, "client": ("127.0.0.1", 1), "server": ("notes.test", 80)}

    async def nobody_sends() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def nobody_reads(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    with pytest.raises(BaseException):  # noqa: B017, PT011  # whatever cuts the connection
        await app({**scope, "scheme": "http"}, nobody_sends, nobody_reads)
    assert app.state.pool.get_idle_size() == app.state.pool.get_size()
    assert len(lines(await ada.get(EXPORT))) == 1, "the owner's one export has ended"


async def test_it_needs_the_scope(eve: httpx.AsyncClient, anybody: httpx.AsyncClient) -> None:
    assert ((await eve.get(EXPORT)).status_code, (await anybody.get(EXPORT)).status_code) == (403, 401)


@pytest.fixture
async def many(cluster: Cluster, database: str, app: FastAPI) -> str:
    """A token of somebody who has 200 notes of 1 MiB."""
    token = await new_token(app, "notes:read", "notes:write")
    async with app.state.pool.acquire() as connection:
        owner = await connection.fetchval("select owner from notes.tokens")
        await connection.execute("select set_config('statement_timeout', '60s', false)")
        await connection.execute(
            "insert into notes.notes (owner, title, content, tags)"
            " select $1, n, repeat(md5(n::text) || ' ', 31700), '{}' from generate_series(1, 200) as n",
            owner,
            timeout=100,
        )
    return token


async def test_it_takes_little_memory_however_much_there_is(
    cluster: Cluster, database: str, many: str, tmp_path: Path
) -> None:
    with served(tmp_path / "log", cluster.url("notes_app", database)) as service:
        process = psutil.Process(service.process.pid)
        async with service.client(many) as ada:
            assert (await ada.get("/v1/notes")).status_code == 200
            before, most, read = process.memory_info().rss, 0, 0
            async with ada.stream("GET", EXPORT) as answer:
                async for chunk in answer.aiter_raw():
                    read += len(chunk)
                    most = max(most, process.memory_info().rss)
            assert read > 190 * MIB
            assert most - before < 100 * MIB


async def test_a_break_in_the_middle_is_no_end(cluster: Cluster, database: str, many: str, tmp_path: Path) -> None:
    with served(tmp_path / "log", cluster.url("notes_app", database)) as service:
        async with service.client(many) as ada:
            with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - by which of them is all the same
                async with ada.stream("GET", EXPORT) as answer:
                    assert answer.status_code == 200
                    chunks = answer.aiter_raw()
                    await anext(chunks)
                    cluster.server.psql(
                        "postgres",
                        [
                            "select pg_terminate_backend(pid) from pg_stat_activity"
                            f" where datname = '{database}' and usename = 'notes_app' and state like 'idle in%'"
                        ],
                    )
                    async for _ in chunks:
                        pass
            assert (await ada.get("/v1/notes?limit=1")).status_code == 200


async def test_who_goes_away_leaves_nothing_open(cluster: Cluster, database: str, many: str, tmp_path: Path) -> None:
    with served(tmp_path / "log", cluster.url("notes_app", database)) as service:
        for _ in range(2 * exported.AT_ONCE):
            async with service.client(many) as ada, asyncio.timeout(20):
                while True:  # it is noticed after a moment
                    async with ada.stream("GET", EXPORT) as answer:
                        if answer.status_code == 200:
                            await anext(answer.aiter_raw())
                            break
