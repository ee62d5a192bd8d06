"""PATCH /v1/notes/{id}."""

import json
from typing import Any

import httpx
import pytest

from tests.servers import Cluster

MERGE_PATCH = "application/merge-patch+json"
FIELDS = ("title", "content", "tags", "pinned", "archived", "metadata")


async def _edit(somebody: httpx.AsyncClient, note: dict[str, Any], patch: object) -> httpx.Response:
    headers = {"If-Match": note["etag"], "Content-Type": MERGE_PATCH}
    return await somebody.patch(f"/v1/notes/{note['id']}", content=json.dumps(patch), headers=headers)


async def _made(somebody: httpx.AsyncClient) -> dict[str, Any]:
    note = {"title": "Tea", "content": "hot", "tags": ["a", "b"], "pinned": True, "archived": True}
    made = await somebody.post("/v1/notes", json=note | {"metadata": {"a": 1, "b": {"c": 2, "d": [3, None]}}})
    return dict(made.json())


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"title": "Coffee"}, {"title": "Coffee"}),
        ({"content": "cold"}, {"content": "cold"}),
        ({"content": None}, {"content": ""}),
        ({"tags": ["c"]}, {"tags": ["c"]}),
        ({"tags": None}, {"tags": []}),
        ({"pinned": False}, {"pinned": False}),
        ({"pinned": None}, {"pinned": False}),
        ({"archived": None, "title": "X"}, {"archived": False, "title": "X"}),
        ({"metadata": None}, {"metadata": {}}),
        ({"metadata": {"a": None}}, {"metadata": {"b": {"c": 2, "d": [3, None]}}}),
        ({"metadata": {"a": True}}, {"metadata": {"a": True, "b": {"c": 2, "d": [3, None]}}}),
        ({"metadata": {"b": {"c": None, "e": 5}}}, {"metadata": {"a": 1, "b": {"d": [3, None], "e": 5}}}),
        ({"metadata": {"a": {"x": None, "y": 1}, "b": [None]}}, {"metadata": {"a": {"y": 1}, "b": [None]}}),
        ({"metadata": {"a": None, "b": None, "never there": None}}, {"metadata": {}}),
    ],
    ids=str,
)
async def test_only_what_the_patch_names_changes(
    ada: httpx.AsyncClient, patch: dict[str, Any], expected: dict[str, Any]
) -> None:
    made = await _made(ada)
    edited = await _edit(ada, made, patch)
    note = edited.json()

    assert (edited.status_code, edited.headers["ETag"], note["revision"]) == (200, note["etag"], 2)
    assert {name: note[name] for name in FIELDS} == {name: made[name] for name in FIELDS} | expected
    assert note["updated_at"] > made["updated_at"]
    assert (await ada.get(f"/v1/notes/{made['id']}")).json() == note


@pytest.mark.parametrize(
    "patch",
    [
        {},
        {"title": "Tea"},
        {"tags": ["a", "b", "a"]},
        {"metadata": {}},
        {"metadata": {"a": 1, "never there": None}},
        {"pinned": True, "archived": True, "content": "hot"},
    ],
    ids=str,
)
async def test_a_patch_that_changes_nothing_keeps_the_version(ada: httpx.AsyncClient, patch: dict[str, Any]) -> None:
    made = await _made(ada)
    edited = await _edit(ada, made, patch)
    assert (edited.status_code, edited.headers["ETag"], edited.json()) == (200, made["etag"], made)
    assert len((await ada.get(f"/v1/notes/{made['id']}/revisions")).json()["items"]) == 1


async def test_two_numbers_that_are_equal_are_two_states(ada: httpx.AsyncClient) -> None:
    """1 and 1.0 are not the same bytes, which is what an ETag stands for."""
    made = await _made(ada)
    edited = (await _edit(ada, made, {"metadata": {"a": 1.0}})).json()
    assert (edited["revision"], json.dumps(edited["metadata"]["a"])) == (2, "1.0")


async def test_even_a_patch_that_changes_nothing_must_know_the_version(ada: httpx.AsyncClient) -> None:
    made = await _made(ada)
    await _edit(ada, made, {"title": "Coffee"})
    refused = await _edit(ada, made, {})
    assert (refused.status_code, refused.json()["changed_fields"]) == (412, ["title"])


async def test_a_merge_is_of_the_version_that_was_named(ada: httpx.AsyncClient) -> None:
    """Where a client names two versions, the members of the other are not lost."""
    first = await _made(ada)
    second = (await _edit(ada, first, {"metadata": {"new": 1}})).json()
    both = {**second, "etag": f"{first['etag']}, {second['etag']}"}
    third = (await _edit(ada, both, {"metadata": {"newer": 2}})).json()
    assert third["metadata"] == first["metadata"] | {"new": 1, "newer": 2}


@pytest.mark.parametrize(
    ("patch", "pointer", "code"),
    [
        ({"title": None}, "#/title", "string_type"),
        ({"title": ""}, "#/title", "string_too_short"),
        ({"content": "x" * (1024 * 1024 + 1)}, "#/content", "string_too_long"),
        ({"tags": [None]}, "#/tags/0", "string_type"),
        ({"tags": ["x" * 101]}, "#/tags/0", "string_too_long"),
        ({"pinned": "yes"}, "#/pinned", "bool_type"),
        ({"archived": 1}, "#/archived", "bool_type"),
        ({"metadata": []}, "#/metadata", "dict_type"),
        ({"revision": 5}, "#/revision", "extra_forbidden"),
        ({"deleted_at": None}, "#/deleted_at", "extra_forbidden"),
        ([], "#", "model_attributes_type"),
        (None, "#", "model_attributes_type"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_not_allowed_is_named(ada: httpx.AsyncClient, patch: object, pointer: str, code: str) -> None:
    made = await _made(ada)
    refused = await _edit(ada, made, patch)
    assert refused.status_code == 422
    assert [(part["pointer"], part["code"]) for part in refused.json()["errors"]] == [(pointer, code)]
    assert (await ada.get(f"/v1/notes/{made['id']}")).json() == made


@pytest.mark.parametrize(
    "metadata",
    [{"x": "y" * 16_380}, {"x": "\0"}, {"\0": 1}, {"x": "\ud83d"}, {"\ud83d": 1}, {"x": {"\ud83d": 1}}],
    ids=["large", "NUL", "NUL in a name", "half a character", "half in a name", "half in a name within"],
)
async def test_metadata_that_cannot_be_kept_is_refused(ada: httpx.AsyncClient, metadata: dict[str, Any]) -> None:
    made = await _made(ada)
    refused = await _edit(ada, made, {"metadata": metadata})
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-request")
    assert (await ada.get(f"/v1/notes/{made['id']}")).json() == made


async def test_metadata_does_not_grow_by_many_small_patches(ada: httpx.AsyncClient) -> None:
    note = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    statuses = []
    for number in range(20):
        edited = await _edit(ada, note, {"metadata": {f"part {number}": "x" * 1000}})
        statuses.append(edited.status_code)
        note = edited.json() if edited.status_code == 200 else note
    assert statuses == [200] * 16 + [422] * 4


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "", "application/json-patch+json"])
async def test_a_patch_of_another_type_is_refused(ada: httpx.AsyncClient, content_type: str) -> None:
    made = await _made(ada)
    headers = {"If-Match": made["etag"], "Content-Type": content_type}
    response = await ada.patch(f"/v1/notes/{made['id']}", content=b'{"title": "X"}', headers=headers)
    assert (response.status_code, response.json()["type"]) == (415, "/problems/unsupported-media-type")
    assert response.headers["Accept-Patch"] == MERGE_PATCH


@pytest.mark.parametrize(("if_match", "status"), [(None, 428), ("*", 400), ('"1-1"', 412)])
async def test_without_the_version_it_is_refused(ada: httpx.AsyncClient, if_match: str | None, status: int) -> None:
    made = await _made(ada)
    headers = {"Content-Type": MERGE_PATCH} | ({"If-Match": if_match} if if_match else {})
    response = await ada.patch(f"/v1/notes/{made['id']}", content=b'{"title": "X"}', headers=headers)
    assert response.status_code == status
    assert (await ada.get(f"/v1/notes/{made['id']}")).json() == made


@pytest.mark.parametrize("patch", [{"title": "X"}, {"metadata": {"a": 2}}, {}], ids=str)
async def test_what_is_in_the_trash_or_somebody_elses_is_not_edited(
    ada: httpx.AsyncClient, bob: httpx.AsyncClient, patch: dict[str, Any]
) -> None:
    made = await _made(ada)
    assert (await _edit(bob, made, patch)).json()["type"] == "/problems/note-not-found"
    trashed = (await ada.delete(f"/v1/notes/{made['id']}", headers={"If-Match": made["etag"]})).json()
    refused = await _edit(ada, trashed, patch)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/note-trashed")


async def test_any_writer_makes_a_new_version(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    """A person at psql changes a row and knows of no revision: whoever read the note before is refused."""
    made = await _made(ada)
    cluster.server.psql(database, ["update notes.notes set content = 'by hand'"])
    refused = await _edit(ada, made, {"title": "Coffee"})
    now = (await ada.get(f"/v1/notes/{made['id']}")).json()

    assert (refused.status_code, refused.json()["changed_fields"]) == (412, ["content"])
    assert (now["revision"], now["etag"]) == (2, refused.json()["current_etag"])
    assert now["updated_at"] > made["updated_at"]
