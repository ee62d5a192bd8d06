"""What is done beside requests: the trash is emptied, and what is kept for a time is forgotten."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI

from notes_api import chores, db
from notes_api.errors import StorageUnavailable
from notes_api.storage import Storage
from tests.notes_api.doors import client, new_token, serving
from tests.servers import Cluster

ARN = "arn:aws:sns:us-east-1:000000000000:notes.fifo"


class Bucket(Storage):
    """Only what is discarded, and a storage that may be away."""

    def __init__(self, *, away: bool = False) -> None:
        self.away, self.discarded = away, list[str]()

    async def discard(self, keys: Sequence[str]) -> None:
        if self.away:
            raise StorageUnavailable("away")
        self.discarded += keys


async def do(app: FastAPI, storage: Storage | None = None, **settings: Any) -> None:
    await chores.do(app.state.pool, app.state.settings.model_copy(update=settings), storage)


async def later(app: FastAPI) -> None:
    """When forms have expired."""
    await sql(app, "update notes.discarded_objects set discarded_at = discarded_at - interval '21 minutes'")


async def sql(app: FastAPI, statement: str, *values: Any) -> list[Any]:
    async with db.connected(app.state.pool) as connection:
        return [tuple(row) for row in await connection.fetch(statement, *values)]


@pytest.fixture
async def made(app: FastAPI, ada: httpx.AsyncClient) -> dict[str, Any]:
    note: dict[str, Any] = (await ada.post("/v1/notes", json={"title": "A note"})).json()
    [(owner,)] = await sql(app, "select owner from notes.notes where id = $1", UUID(note["id"]))
    return note | {"owner": owner}


async def attach(app: FastAPI, note_id: str, name: str, *, confirmed: str, expires: str = "now()") -> None:
    await sql(
        app,
        "insert into notes.attachments"
        " (note_id, name, content_type, size_bytes, sha256, object, expires_at, confirmed_at) values"
        f" ($1, $2, 'text/plain', 1, '', 'attachments/' || $2, {expires}, {confirmed})",
        UUID(note_id),
        name,
    )


async def test_what_is_too_long_in_the_trash_is_purged_with_all_that_belongs_to_it(
    app: FastAPI, ada: httpx.AsyncClient, made: dict[str, Any]
) -> None:
    await attach(app, made["id"], "a", confirmed="now()")
    at = f"/v1/notes/{made['id']}"
    kept = (await ada.post("/v1/notes", json={"title": "In the trash since today"})).json()
    for note in (await ada.get(at)).json(), kept:
        answer = await ada.delete(f"/v1/notes/{note['id']}", headers={"If-Match": note["etag"]})
        assert answer.status_code == 200
    await do(app)
    assert (await ada.get(at)).status_code == 200
    await sql(app, "update notes.notes set purge_at = now() where id = $1", UUID(made["id"]))
    await do(app, bucket := Bucket())
    assert (await ada.get(at)).status_code == 404
    assert bucket.discarded == []
    await later(app)
    await do(app, bucket)
    assert (await ada.get(f"/v1/notes/{kept['id']}")).status_code == 200
    assert bucket.discarded == ["attachments/a"]
    for table in ("revisions", "attachments"):
        assert await sql(app, f"select from notes.{table} where note_id = $1", UUID(made["id"])) == []
    assert (await ada.get("/v1/changes")).json()["items"][-1]["type"] == "note.purged"


async def test_changes_are_kept_for_a_while_and_go_from_the_first_on(
    app: FastAPI, ada: httpx.AsyncClient, made: dict[str, Any]
) -> None:
    for number in range(4):
        await ada.post("/v1/notes", json={"title": f"{number}"})
    # The second one was numbered before the first one's clock was read: no gap may come of that.
    await sql(app, "update notes.changes set at = now() - interval '91 days' where seq = any ('{2, 3}')")
    await do(app, topic_arn=ARN)
    assert [c["seq"] for c in (await ada.get("/v1/changes")).json()["items"]] == [1, 2, 3, 4, 5]  # not relayed yet
    await do(app)
    assert [c["seq"] for c in (await ada.get("/v1/changes")).json()["items"]] == [4, 5]
    assert await sql(app, "select from notes.outbox") == []


async def test_an_idempotency_key_is_forgotten_after_a_day(app: FastAPI, ada: httpx.AsyncClient) -> None:
    for key in ("old", "new"):
        await ada.post("/v1/notes", json={"title": "x"}, headers={"Idempotency-Key": key})
    await sql(
        app,
        "update notes.idempotency_keys set created_at = now() - interval '25 hours'"
        " where key_hash = sha256('old'::bytea)",
    )
    await do(app)
    assert await sql(app, "select key_hash = sha256('new'::bytea) from notes.idempotency_keys") == [(True,)]


async def test_an_attachment_of_a_note_that_is_being_changed_goes_the_next_time(
    app: FastAPI, made: dict[str, Any]
) -> None:
    await attach(app, made["id"], "late", confirmed="null", expires="now() - interval '2 hours'")
    async with db.connected(app.state.pool) as other, other.transaction(), asyncio.timeout(3):
        await other.execute("select from notes.notes for update")
        await do(app)
        assert await sql(app, "select name from notes.attachments") == [("late",)]
    await do(app)
    assert await sql(app, "select name from notes.attachments") == []


async def test_an_attachment_that_nobody_confirmed_goes_and_a_storage_that_is_away_is_asked_again(
    app: FastAPI, made: dict[str, Any]
) -> None:
    await attach(app, made["id"], "late", confirmed="null", expires="now() - interval '2 hours'")
    await attach(app, made["id"], "soon", confirmed="null", expires="now() - interval '1 minute'")
    await attach(app, made["id"], "kept", confirmed="now()", expires="now() - interval '2 hours'")
    await do(app)
    await later(app)
    with pytest.raises(StorageUnavailable):
        await do(app, Bucket(away=True))
    assert await sql(app, "select name from notes.attachments order by name") == [("kept",), ("soon",)]
    await do(app, bucket := Bucket())
    await do(app, bucket)
    assert bucket.discarded == ["attachments/late"]
    await sql(app, "insert into notes.discarded_objects (object) values ('attachments/kept')")
    await later(app)
    await do(app, bucket)  # what a row names again is needed
    assert bucket.discarded == ["attachments/late"]


async def test_two_processes_share_the_work(cluster: Cluster, database: str, app: FastAPI) -> None:
    owner = uuid4()
    await sql(
        app,
        "insert into notes.notes (owner, title, content, tags, deleted_at, purge_at)"
        " select $1, '', '', '{}', now(), now() from generate_series(1, 500)",
        owner,
    )
    async with serving(cluster.url("notes_app", database)) as other:
        await asyncio.gather(do(app), do(other))
    await do(app)
    assert await sql(app, "select from notes.notes") == []
    assert await sql(app, "select count(*) from notes.changes where type = 'note.purged'") == [(500,)]


async def test_a_running_service_does_it_by_itself(
    cluster: Cluster, database: str, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chores, "EVERY_SECONDS", 0.1)
    await sql(
        app,
        "insert into notes.notes (owner, title, content, tags, deleted_at, purge_at)"
        " values ($1, '', '', '{}', now(), now())",
        uuid4(),
    )
    async with serving(cluster.url("notes_app", database)) as other, client(other, await new_token(app)):
        async with asyncio.timeout(20):
            while await sql(app, "select from notes.notes"):  # noqa: ASYNC110 - it is in the database that it is seen
                await asyncio.sleep(0.05)


async def test_what_fails_is_done_again(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "AFTER_A_FAILURE_SECONDS", 0)
    times, enough = 0, asyncio.Event()

    async def work() -> None:
        nonlocal times
        times += 1
        if times == 1:
            raise ValueError("unforeseen")
        if times == 2:
            raise StorageUnavailable("away")
        enough.set()

    async with chores.running("a chore", work, every_seconds=0), asyncio.timeout(20):
        await enough.wait()
    assert "a chore failed" in caplog.text
    assert "a chore: storage-unavailable" in caplog.text
