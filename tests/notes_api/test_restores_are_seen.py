"""Whoever writes by SQL, a restore above all, is in the changes and in the revisions."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from notes_api.schemas import etag
from tests.servers import Cluster

PATCH = {"Content-Type": "application/merge-patch+json"}
COLUMNS = (
    "title, content, tags, pinned, archived, metadata, attachment_count, deleted_at, purge_at, created_at, revision,"
    " updated_at"
)


@pytest.fixture
async def restorer(cluster: Cluster, database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(cluster.url("notes_restore", database))
    yield connection
    await connection.close()


async def edited(ada: httpx.AsyncClient, note: dict[str, Any], **change: Any) -> dict[str, Any]:
    headers = PATCH | {"If-Match": note["etag"]}
    answer = await ada.patch(f"/v1/notes/{note['id']}", json=change, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def told(ada: httpx.AsyncClient) -> list[tuple[str, int]]:
    return [(c["type"], c["revision"]) for c in (await ada.get("/v1/changes")).json()["items"]]


async def test_a_row_that_comes_back_is_as_it_was_and_is_told(
    ada: httpx.AsyncClient, restorer: asyncpg.Connection
) -> None:
    first = (await ada.post("/v1/notes", json={"title": "First", "content": "of a backup"})).json()
    note_id = UUID(first["id"])
    backup = await restorer.fetchrow(f"select {COLUMNS} from notes.notes where id = $1", note_id)
    assert backup
    third = await edited(ada, await edited(ada, first, title="Second"), title="Third")
    columns = ", ".join(f"{name} = ${n}" for n, name in enumerate(COLUMNS.split(", "), 2))
    await restorer.execute(f"update notes.notes set {columns} where id = $1", note_id, *backup)
    assert await restorer.fetchrow(f"select {COLUMNS} from notes.notes where id = $1", note_id) == backup
    assert (await ada.get(f"/v1/notes/{first['id']}")).json() == first
    assert (await ada.get(f"/v1/notes/{first['id']}")).headers["ETag"] == first["etag"] == etag(backup)
    stale = await ada.patch(
        f"/v1/notes/{first['id']}", json={"title": "x"}, headers=PATCH | {"If-Match": third["etag"]}
    )
    assert stale.status_code == 412
    after = await edited(ada, first, title="Fourth")
    assert after["revision"] == 4  # numbers are not given twice
    assert await told(ada) == [
        ("note.created", 1),
        ("note.updated", 2),
        ("note.updated", 3),
        ("note.updated", 1),
        ("note.updated", 4),
    ]
    assert [title async for title in former_titles(restorer, note_id)] == ["First", "Second", "Third", "First"]


async def former_titles(connection: asyncpg.Connection, note_id: UUID) -> AsyncIterator[str]:
    for row in await connection.fetch(
        "select title from notes.revisions where note_id = $1 order by replaced_at", note_id
    ):
        yield row["title"]


async def test_a_note_that_was_purged_comes_back_with_no_former_etag_of_another_state(
    ada: httpx.AsyncClient, restorer: asyncpg.Connection
) -> None:
    first = (await ada.post("/v1/notes", json={"title": "First"})).json()
    backup = await restorer.fetchrow(f"select id, owner, {COLUMNS} from notes.notes")
    assert backup
    second = await edited(ada, first, title="Second")
    await restorer.execute("delete from notes.notes")
    values = ", ".join(f"${n}" for n in range(1, len(backup) + 1))
    await restorer.execute(f"insert into notes.notes (id, owner, {COLUMNS}) values ({values})", *backup)
    assert (await ada.get(f"/v1/notes/{first['id']}")).json() == first
    again = await edited(ada, first, title="Another second")
    assert again["revision"] == second["revision"]
    assert again["etag"] != second["etag"]
    assert await told(ada) == [
        ("note.created", 1),
        ("note.updated", 2),
        ("note.purged", 2),
        ("note.created", 1),
        ("note.updated", 2),
    ]


async def test_rows_that_are_copied_in_are_told(ada: httpx.AsyncClient, restorer: asyncpg.Connection) -> None:
    await ada.post("/v1/notes", json={"title": "First"})
    owner = await restorer.fetchval("select owner from notes.notes")
    rows: list[tuple[Any, ...]] = [(owner, f"{n}", "", []) for n in range(1000)]
    columns = ["owner", "title", "content", "tags"]
    await restorer.copy_records_to_table("notes", schema_name="notes", records=rows, columns=columns)
    newest = await restorer.fetch("select seq from notes.changes where owner = $1 order by seq", owner)
    assert [row["seq"] for row in newest] == list(range(1, 1002))
    assert await restorer.fetchval("select count(*) from notes.outbox") == 1001


async def test_an_update_of_all_rows_is_a_change_of_each(ada: httpx.AsyncClient, restorer: asyncpg.Connection) -> None:
    await ada.post("/v1/notes", json={"title": "First"})
    owner = await restorer.fetchval("select owner from notes.notes")
    await restorer.execute(
        "insert into notes.notes (owner, title, content, tags) select $1, n, '', '{}' from generate_series(1, 5000) n",
        owner,
    )
    await restorer.execute("update notes.notes set pinned = true")
    assert await restorer.fetchval("select count(*) from notes.revisions") == 5001
    assert await restorer.fetchval("select seq from notes.feeds") == 10002
    await restorer.execute("update notes.notes set pinned = true")  # as they are
    assert await restorer.fetchval("select seq from notes.feeds") == 10002


async def test_what_nobody_could_follow_is_refused(cluster: Cluster, database: str, ada: httpx.AsyncClient) -> None:
    await ada.post("/v1/notes", json={"title": "First"})
    owner = await asyncpg.connect(cluster.url("notes_owner", database))
    with pytest.raises(asyncpg.RaiseError, match="delete the rows"):
        await owner.execute("truncate notes.notes cascade")
    with pytest.raises(asyncpg.RestrictViolationError, match="keeps its id and its owner"):
        await owner.execute("update notes.notes set owner = gen_random_uuid()")
    await owner.close()
