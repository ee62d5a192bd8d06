"""DELETE /v1/notes/{id}, and POST /v1/notes/{id}:restore."""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.notes_api.doors import client, new_token, serving
from tests.servers import Cluster

CONTENTS = ("title", "content", "tags", "pinned", "archived", "metadata", "created_at")


async def _made(somebody: httpx.AsyncClient) -> dict[str, Any]:
    note = {"title": "Tea", "content": "hot", "tags": ["a"], "pinned": True, "metadata": {"a": 1}}
    return dict((await somebody.post("/v1/notes", json=note)).json())


async def _delete(somebody: httpx.AsyncClient, note: dict[str, Any], query: str = "") -> httpx.Response:
    return await somebody.delete(f"/v1/notes/{note['id']}{query}", headers={"If-Match": note["etag"]})


async def _restore(somebody: httpx.AsyncClient, note: dict[str, Any]) -> httpx.Response:
    return await somebody.post(f"/v1/notes/{note['id']}:restore", headers={"If-Match": note["etag"]})


async def test_a_note_goes_to_the_trash_and_says_until_when(ada: httpx.AsyncClient) -> None:
    made = await _made(ada)
    deleted = await _delete(ada, made)
    note = deleted.json()

    assert (deleted.status_code, deleted.headers["ETag"], note["revision"]) == (200, note["etag"], 2)
    lasts = datetime.fromisoformat(note["purge_at"]) - datetime.fromisoformat(note["deleted_at"])
    assert lasts == timedelta(days=30)
    assert {name: note[name] for name in CONTENTS} == {name: made[name] for name in CONTENTS}
    assert (await ada.get(f"/v1/notes/{made['id']}")).json() == note, "it can be read there"


async def test_how_long_the_trash_keeps_is_a_setting(cluster: Cluster, database: str) -> None:
    async with (
        serving(cluster.url("notes_app", database), HOLDFAST_TRASH_DAYS="7") as app,
        client(app, await new_token(app, "notes:read", "notes:write")) as ada,
    ):
        note = (await _delete(ada, await _made(ada))).json()
    assert datetime.fromisoformat(note["purge_at"]) - datetime.fromisoformat(note["deleted_at"]) == timedelta(days=7)


async def test_it_comes_back_as_it_was(ada: httpx.AsyncClient) -> None:
    made = await _made(ada)
    restored = await _restore(ada, (await _delete(ada, made)).json())
    note = restored.json()

    assert (restored.status_code, restored.headers["ETag"], note["revision"]) == (200, note["etag"], 3)
    assert (note["deleted_at"], note["purge_at"]) == (None, None)
    assert {name: note[name] for name in CONTENTS} == {name: made[name] for name in CONTENTS}


async def test_what_is_there_cannot_be_restored_and_what_is_gone_not_deleted(ada: httpx.AsyncClient) -> None:
    made = await _made(ada)
    assert (await _restore(ada, made)).json()["type"] == "/problems/note-not-trashed"
    trashed = (await _delete(ada, made)).json()
    again = await _delete(ada, trashed)
    assert (again.status_code, again.json()["type"]) == (409, "/problems/note-trashed")
    assert (await ada.get(f"/v1/notes/{made['id']}")).json() == trashed, "its time is not put off"


async def test_only_what_is_in_the_trash_is_deleted_for_good(ada: httpx.AsyncClient) -> None:
    made = await _made(ada)
    refused = await _delete(ada, made, "?permanent=true")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/note-not-trashed")

    gone = await _delete(ada, (await _delete(ada, made)).json(), "?permanent=true")
    assert (gone.status_code, gone.content) == (204, b"")
    for path in ("", "/revisions", "/revisions/1", f"?at={made['updated_at']}", "/diff?from=1"):
        assert (await ada.get(f"/v1/notes/{made['id']}{path}")).status_code == 404, path


@pytest.mark.parametrize("query", ["", "?permanent=true"])
async def test_the_version_that_is_deleted_must_be_named(ada: httpx.AsyncClient, query: str) -> None:
    made = await _made(ada)
    trashed = (await _delete(ada, made)).json()
    path = f"/v1/notes/{made['id']}{query}"
    for if_match, status in ((None, 428), ("*", 400), (made["etag"], 412)):
        headers = {"If-Match": if_match} if if_match else {}
        assert (await ada.delete(path, headers=headers)).status_code == status
        assert (await ada.post(f"/v1/notes/{made['id']}:restore", headers=headers)).status_code == status
    assert (await ada.get(f"/v1/notes/{made['id']}")).json() == trashed


async def test_a_client_that_did_not_hear_the_answer_learns_that_it_is_deleted(ada: httpx.AsyncClient) -> None:
    made = await _made(ada)
    trashed = (await _delete(ada, made)).json()
    again = (await _delete(ada, made)).json()
    assert (again["current_etag"], again["changed_fields"]) == (trashed["etag"], ["deleted_at"])


async def test_somebody_elses_note_is_neither_deleted_nor_restored(
    ada: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    made = await _made(ada)
    trashed = (await _delete(ada, await _made(ada))).json()
    for response in (
        await _delete(bob, made),
        await _delete(bob, trashed, "?permanent=true"),
        await _restore(bob, trashed),
        await bob.get(f"/v1/notes/{trashed['id']}"),
    ):
        assert (response.status_code, response.json()["type"]) == (404, "/problems/note-not-found")
    assert (await ada.get(f"/v1/notes/{made['id']}")).json() == made
    assert (await ada.get(f"/v1/notes/{trashed['id']}")).json() == trashed


@pytest.mark.parametrize(("query", "status"), [("?permanent=perhaps", 422), ("?forever=true", 400)])
async def test_a_parameter_that_is_not_known_deletes_nothing(ada: httpx.AsyncClient, query: str, status: int) -> None:
    made = await _made(ada)
    assert (await _delete(ada, made, query)).status_code == status
    assert (await ada.get(f"/v1/notes/{made['id']}")).json() == made


async def test_a_reader_deletes_nothing(app: FastAPI, ada: httpx.AsyncClient) -> None:
    made = await _made(ada)
    async with client(app, await new_token(app, "notes:read")) as reader:
        for response in (await _delete(reader, made), await _restore(reader, made)):
            assert (response.status_code, response.json()["type"]) == (403, "/problems/scope-missing")
