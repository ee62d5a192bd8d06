"""GET /v1/changes/stream: server-sent events over real connections."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from notes_api import db, stream
from tests.notes_api.doors import new_token
from tests.notes_api.processes import ENDED, Served, served
from tests.servers import Cluster

STREAM = "/v1/changes/stream"


@pytest.fixture
def service(cluster: Cluster, database: str, tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "log", cluster.url("notes_app", database)) as process:
        yield process


@pytest.fixture
async def ada(app: FastAPI, service: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with service.client(await new_token(app, "notes:read", "notes:write")) as somebody:
        yield somebody


class Events:
    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._blocks = self._read()
        self.last_id = ""

    async def _read(self) -> AsyncIterator[dict[str, str]]:
        block: dict[str, str] = {}
        async for line in self.answer.aiter_lines():
            if line:
                name, _, value = line.partition(": ")
                block[name] = value
            else:
                yield block
                block = {}

    async def next(self) -> dict[str, Any]:
        """The next change; what is said in between is passed over."""
        async for block in self._blocks:
            self.last_id = block.get("id", self.last_id)
            if "event" in block:
                change: dict[str, Any] = json.loads(block["data"])
                assert block["event"] == change["type"]
                return change
        raise StopAsyncIteration

    async def end(self) -> None:
        """Until the service ends it."""
        async for block in self._blocks:
            assert "event" not in block


@asynccontextmanager
async def following(somebody: httpx.AsyncClient, last: str = "") -> AsyncIterator[Events]:
    headers = {"Last-Event-ID": last} if last else {}
    async with somebody.stream("GET", STREAM, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = Events(answer)
        first = await anext(events._blocks)  # it says where it begins, so nothing that follows is missed
        events.last_id = first["id"]
        yield events


async def note(somebody: httpx.AsyncClient) -> str:
    made: str = (await somebody.post("/v1/notes", json={"title": "A note"})).json()["id"]
    return made


async def test_changes_come_as_they_happen_and_go_on_after_a_break(ada: httpx.AsyncClient) -> None:
    await note(ada)
    async with following(ada) as events:
        made = await note(ada)
        change = await events.next()
        assert (change["seq"], change["type"], change["note_id"]) == (2, "note.created", made)
        last = events.last_id
    await note(ada)
    async with following(ada, last) as events:
        assert (await events.next())["seq"] == 3
        page = (await ada.get("/v1/changes", params={"cursor": last})).json()
        assert [each["seq"] for each in page["items"]] == [3]
        assert page["next_cursor"] == events.last_id


async def test_somebody_elses_changes_do_not_come(app: FastAPI, service: Served, ada: httpx.AsyncClient) -> None:
    async with service.client(await new_token(app, "notes:read", "notes:write")) as bob, following(ada) as events:
        await note(bob)
        made = await note(ada)
        assert (await events.next())["note_id"] == made


async def test_a_stream_ends_with_its_token(app: FastAPI, ada: httpx.AsyncClient) -> None:
    async with following(ada) as events:
        async with db.connected(app.state.pool) as connection:
            await connection.execute("delete from notes.tokens")
        await events.end()


async def test_a_process_that_is_told_to_end_ends_its_streams_first(service: Served, ada: httpx.AsyncClient) -> None:
    async with following(ada) as events:
        began = time.monotonic()
        service.process.terminate()
        await events.end()
        assert service.process.wait(20) in ENDED
        assert time.monotonic() - began < 9  # or uvicorn has cut it after 10 s
    assert not [line for line in service.lines() if "Exception" in json.dumps(line)]


async def test_there_are_so_many_streams_and_no_more(ada: httpx.AsyncClient) -> None:
    limits = httpx.Limits(max_connections=stream.MAX_STREAMS + 10)
    async with httpx.AsyncClient(base_url=ada.base_url, headers=ada.headers, limits=limits, timeout=30) as many:
        opened = [await many.send(many.build_request("GET", STREAM), stream=True) for _ in range(stream.MAX_STREAMS)]
        assert {each.status_code for each in opened} == {200}
        reading = [each.aiter_bytes() for each in opened]  # which close their streams when nobody holds them
        for each in reading:
            await anext(each)
        async with asyncio.timeout(10):
            refused = await ada.get(STREAM)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert refused.json()["type"] == "/problems/too-many-streams"
        assert (await ada.get("/v1/notes")).status_code == 200
        for answer in opened:
            await answer.aclose()
        status = 503
        while status != 200:  # it is noticed at the next ping
            async with many.stream("GET", STREAM) as answer:
                status = answer.status_code
