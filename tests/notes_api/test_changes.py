"""GET /v1/changes: dense, in the order of commits, and never silent about what is missing."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from notes_api import db
from tests.notes_api.doors import client, new_token, serving
from tests.servers import Cluster

CHANGES = "/v1/changes"
INSERT = "insert into notes.notes (owner, title, content, tags) values ($1, $2, '', '{}') returning id"


async def changes(somebody: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await somebody.get(CHANGES, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def note(somebody: httpx.AsyncClient, title: str = "A note") -> dict[str, Any]:
    made: dict[str, Any] = (await somebody.post("/v1/notes", json={"title": title})).json()
    return made


async def owner_of(app: FastAPI, note_id: str) -> UUID:
    async with db.connected(app.state.pool) as connection:
        found: UUID = await connection.fetchval("select owner from notes.notes where id = $1", UUID(note_id))
        return found


async def test_what_happens_to_a_note_is_told_in_order(ada: httpx.AsyncClient) -> None:
    made = await note(ada)
    at = f"/v1/notes/{made['id']}"
    patch = {"Content-Type": "application/merge-patch+json"}
    etag = made["etag"]
    for method, path, headers, content in [
        ("PATCH", at, patch, '{"title": "Another", "pinned": true}'),
        ("PATCH", at, patch, '{"title": "Another"}'),  # which changes nothing
        ("DELETE", at, {}, None),
        ("POST", f"{at}:restore", {}, None),
        ("DELETE", at, {}, None),
        ("DELETE", f"{at}?permanent=true", {}, None),
    ]:
        answer = await ada.request(method, path, headers={**headers, "If-Match": etag}, content=content)
        assert answer.is_success, answer.text
        etag = answer.headers.get("ETag", "")
    found = await changes(ada)
    assert [(c["seq"], c["type"], c["revision"], c["changed_fields"]) for c in found["items"]] == [
        (1, "note.created", 1, []),
        (2, "note.updated", 2, ["title", "pinned"]),
        (3, "note.deleted", 3, ["deleted_at"]),
        (4, "note.restored", 4, ["deleted_at"]),
        (5, "note.deleted", 5, ["deleted_at"]),
        (6, "note.purged", 5, []),
    ]
    assert {c["note_id"] for c in found["items"]} == {made["id"]}


async def test_pages_go_on_from_a_cursor_also_when_there_is_nothing_yet(ada: httpx.AsyncClient) -> None:
    nothing = await changes(ada)
    assert (nothing["items"], nothing["has_more"]) == ([], False)
    for number in range(3):
        await note(ada, f"{number}")
    first = await changes(ada, cursor=nothing["next_cursor"], limit=2)
    second = await changes(ada, cursor=first["next_cursor"], limit=2)
    assert [[c["seq"] for c in page["items"]] for page in (first, second)] == [[1, 2], [3]]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert (await changes(ada, cursor=second["next_cursor"]))["items"] == []


async def test_from_now_leaves_out_what_was(ada: httpx.AsyncClient) -> None:
    await note(ada)
    now = await changes(ada, **{"from": "now"})
    assert now["items"] == []
    await note(ada)
    assert [c["seq"] for c in (await changes(ada, cursor=now["next_cursor"]))["items"]] == [2]


async def test_each_owner_has_numbers_of_their_own(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    for somebody in (ada, bob, ada):
        await note(somebody)
    assert [c["seq"] for c in (await changes(ada))["items"]] == [1, 2]
    assert [c["seq"] for c in (await changes(bob))["items"]] == [1]


async def test_a_cursor_that_is_no_good_is_gone_and_says_how_to_start_again(
    app: FastAPI, ada: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    made = await note(ada)
    owner = await owner_of(app, made["id"])
    first = (await changes(ada))["next_cursor"]
    foreign = (await changes(bob))["next_cursor"]
    await note(ada)
    await note(ada)
    newest = (await changes(ada))["next_cursor"]
    async with db.connected(app.state.pool) as connection:
        await connection.execute("delete from notes.changes where owner = $1 and seq <= 2", owner)
    for cursor in (foreign, first, "garbage", first[:-1] + ("A" if first[-1] != "A" else "B")):
        for path in (CHANGES, f"{CHANGES}/stream"):
            answer = await ada.get(path, params={"cursor": cursor})
            assert answer.status_code == 410, (cursor, answer.text)
            problem = answer.json()
            assert problem["type"] == "/problems/cursor-gone"
            assert problem["begin_again"] == "/v1/notes:export"
    assert [c["seq"] for c in (await changes(ada))["items"]] == [3]
    async with db.connected(app.state.pool) as connection:  # as if an older backup had come back
        await connection.execute("update notes.feeds set seq = 2 where owner = $1", owner)
    assert (await ada.get(CHANGES, params={"cursor": newest})).status_code == 410


async def test_a_cursor_of_another_database_is_gone(cluster: Cluster, database: str) -> None:
    async with serving(cluster.url("notes_app", database)) as app:
        token = await new_token(app, "notes:read", "notes:write")
        async with client(app, token) as ada:
            await note(ada)
            cursor = (await changes(ada))["next_cursor"]
    with cluster.database(template=database) as restored:
        async with serving(cluster.url("notes_app", restored)) as app, client(app, token) as ada:
            assert (await ada.get(CHANGES, params={"cursor": cursor})).status_code == 410
            assert [c["seq"] for c in (await changes(ada))["items"]] == [1]


async def test_a_page_may_be_waited_for(ada: httpx.AsyncClient) -> None:
    cursor = (await changes(ada))["next_cursor"]
    waiting = asyncio.create_task(changes(ada, cursor=cursor, wait=25))
    await note(ada)
    assert [c["seq"] for c in (await waiting)["items"]] == [1]
    empty = await changes(ada, cursor=(await waiting)["next_cursor"], wait=1)
    assert (empty["items"], empty["next_cursor"]) == ([], (await waiting)["next_cursor"])


async def test_many_who_wait_hold_no_connection(app: FastAPI, ada: httpx.AsyncClient) -> None:
    cursor = (await changes(ada))["next_cursor"]
    waiting = [asyncio.create_task(changes(ada, cursor=cursor, wait=25)) for _ in range(3 * db.CONNECTIONS)]
    while len(app.state.watch._waiting) < len(waiting):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    await note(ada)
    assert [len(page["items"]) for page in await asyncio.gather(*waiting)] == [1] * len(waiting)


@pytest.mark.parametrize("query", [{"limit": 0}, {"wait": 26}, {"from": "yesterday"}, {"limit": "x"}])
async def test_what_is_not_allowed_is_named(ada: httpx.AsyncClient, query: dict[str, Any]) -> None:
    answer = await ada.get(CHANGES, params=query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == next(iter(query))


async def test_it_needs_the_scope(eve: httpx.AsyncClient, anybody: httpx.AsyncClient) -> None:
    for path in (CHANGES, f"{CHANGES}/stream"):
        assert ((await eve.get(path)).status_code, (await anybody.get(path)).status_code) == (403, 401)


@asynccontextmanager
async def writers(url: str, count: int) -> AsyncIterator[list[asyncpg.Connection]]:
    connections = [await asyncpg.connect(url) for _ in range(count)]
    try:
        yield connections
    finally:
        for each in connections:
            await each.close()


async def test_a_commit_that_comes_late_is_never_skipped(
    cluster: Cluster, app: FastAPI, database: str, ada: httpx.AsyncClient
) -> None:
    """Transactions of many writers, that dawdle before they end, some by a rollback; a reader follows."""
    owner = await owner_of(app, (await note(ada))["id"])
    cursor, seen, committed = (await changes(ada))["next_cursor"], list[int](), 0
    chance = random.Random(5)

    async def write(connection: asyncpg.Connection, plan: list[tuple[int, float, bool]]) -> None:
        nonlocal committed
        for rows, pause, keeps in plan:
            transaction = connection.transaction()
            await transaction.start()
            for number in range(rows):
                await connection.fetchval(INSERT, owner, f"{number}")
                await asyncio.sleep(pause)
            if keeps:
                await transaction.commit()
                committed += rows
            else:
                await transaction.rollback()

    async with writers(cluster.url("notes_app", database), 6) as connections:
        plans = [
            [(chance.randint(1, 3), chance.random() / 50, chance.random() < 0.8) for _ in range(10)]
            for _ in connections
        ]
        writing = asyncio.gather(*(write(c, plan) for c, plan in zip(connections, plans, strict=True)))
        while not writing.done() or len(seen) < committed:
            page = await changes(ada, cursor=cursor, limit=7)
            seen += [change["seq"] for change in page["items"]]
            cursor = page["next_cursor"]
        await writing
    assert seen == list(range(2, committed + 2))
    assert committed > 20


async def test_numbers_of_a_plain_sequence_would_skip_one(cluster: Cluster, database: str) -> None:
    """The feed that most would write: an identity column, and `where id > cursor`. The first to begin commits last."""
    cluster.server.psql(
        database,
        [
            "create table notes.plain (id bigint generated always as identity, owner uuid)",
            "grant all on notes.plain to notes_app",
        ],
    )
    late, quick, reader = [await asyncpg.connect(cluster.url("notes_app", database)) for _ in range(3)]

    async def skipped(insert: str, select: str) -> set[int]:
        """The numbers that a reader who goes on from the highest that it saw never sees."""
        owner, seen = uuid4(), list[int]()
        ends = late.transaction()
        await ends.start()
        await late.execute(insert, owner)
        soon = asyncio.create_task(quick.execute(insert, owner))
        await asyncio.wait([soon], timeout=0.5)  # it may have to wait for the first one, which is the point
        seen += [row[0] for row in await reader.fetch(select, owner, 0)]
        await ends.commit()
        await soon
        seen += [row[0] for row in await reader.fetch(select, owner, max(seen, default=0))]
        return {row[0] for row in await reader.fetch(select, owner, 0)} - set(seen)

    plain = "insert into notes.plain (owner) values ($1)"
    ours = "insert into notes.notes (owner, title, content, tags) values ($1, '', '', '{}')"
    assert await skipped(plain, "select id from notes.plain where owner = $1 and id > $2 order by id") == {1}
    assert await skipped(ours, "select seq from notes.changes where owner = $1 and seq > $2 order by seq") == set()
    for each in (late, quick, reader):
        await each.close()
