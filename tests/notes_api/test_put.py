"""PUT /v1/notes/{id}."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

MAKE = {"If-None-Match": "*"}


async def test_a_note_is_made_with_an_id_of_the_clients_own(ada: httpx.AsyncClient) -> None:
    path = f"/v1/notes/{uuid4()}"
    made = await ada.put(path, json={"title": "Tea"}, headers=MAKE)
    note = made.json()

    assert (made.status_code, made.headers["Location"], note["revision"]) == (201, path, 1)
    assert made.headers["ETag"] == note["etag"]
    assert (await ada.get(path)).json() == note


async def test_one_that_is_there_is_not_made_again(ada: httpx.AsyncClient) -> None:
    path = f"/v1/notes/{uuid4()}"
    made = (await ada.put(path, json={"title": "Tea", "metadata": {"hot": True}}, headers=MAKE)).json()
    refused = await ada.put(path, json={"title": "Coffee", "metadata": {"hot": 1}}, headers=MAKE)

    assert (refused.status_code, refused.json()["type"]) == (412, "/problems/note-exists")
    assert (refused.json()["current_etag"], refused.json()["changed_fields"]) == (made["etag"], ["title", "metadata"])
    assert (await ada.get(path)).json() == made


async def test_a_client_that_tries_again_learns_that_its_note_is_there(ada: httpx.AsyncClient) -> None:
    path, note = f"/v1/notes/{uuid4()}", {"title": "Tea", "tags": ["hot"], "metadata": {"b": 1, "a": [1.5, None]}}
    await ada.put(path, json=note, headers=MAKE)
    assert (await ada.put(path, json=note, headers=MAKE)).json()["changed_fields"] == []


async def test_a_note_is_replaced_as_a_whole(ada: httpx.AsyncClient) -> None:
    old = {"title": "Tea", "content": "hot", "tags": ["a"], "pinned": True, "archived": True, "metadata": {"a": 1}}
    made = (await ada.post("/v1/notes", json=old)).json()
    path = f"/v1/notes/{made['id']}"
    replaced = await ada.put(path, json={"title": "Coffee"}, headers={"If-Match": made["etag"]})
    note = replaced.json()

    assert (replaced.status_code, replaced.headers["ETag"], note["revision"]) == (200, note["etag"], 2)
    expected = {"title": "Coffee", "content": "", "tags": [], "pinned": False, "archived": False, "metadata": {}}
    assert {name: note[name] for name in expected} == expected
    assert (note["id"], note["created_at"]) == (made["id"], made["created_at"])
    assert note["updated_at"] > made["updated_at"]
    assert (await ada.get(path)).json() == note


async def test_with_what_is_there_already_nothing_changes(ada: httpx.AsyncClient) -> None:
    made = (await ada.post("/v1/notes", json={"title": "Tea", "tags": ["a"], "metadata": {"a": {"b": 1}}})).json()
    path = f"/v1/notes/{made['id']}"
    fields = ("title", "content", "tags", "pinned", "archived", "metadata")
    same = {name: made[name] for name in fields}
    assert (await ada.put(path, json=same, headers={"If-Match": made["etag"]})).json() == made
    assert len((await ada.get(f"{path}/revisions")).json()["items"]) == 1


async def test_without_saying_which_version_it_is_refused(ada: httpx.AsyncClient) -> None:
    made = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    for note_id in (made["id"], uuid4()):
        response = await ada.put(f"/v1/notes/{note_id}", json={"title": "Coffee"})
        assert (response.status_code, response.json()["type"]) == (428, "/problems/precondition-missing")


@pytest.mark.parametrize(
    "headers",
    [
        {"If-None-Match": '"1-1"'},
        {"If-None-Match": ""},
        {"If-None-Match": "*", "If-Match": '"1-1"'},
        {"If-Match": "*"},
        {"If-Match": " * "},
        {"If-Match": ""},
        {"If-Match": "1-64436af8a8c40"},
    ],
    ids=str,
)
async def test_a_condition_that_is_none_is_refused(ada: httpx.AsyncClient, headers: dict[str, str]) -> None:
    made = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    response = await ada.put(f"/v1/notes/{made['id']}", json={"title": "Coffee"}, headers=headers)
    assert (response.status_code, response.json()["type"]) == (400, "/problems/malformed-request")
    assert (await ada.get(f"/v1/notes/{made['id']}")).json() == made


@pytest.mark.parametrize(
    "if_match", ['"1-1"', '"nonsense"', '"99999999999-1"', '"1-fffffffffffffff"', '""', '"1-é"', '"1-0", "2-0"']
)
async def test_with_another_version_it_is_refused(ada: httpx.AsyncClient, if_match: str) -> None:
    made = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    headers = {b"If-Match": if_match.encode()}
    response = await ada.put(f"/v1/notes/{made['id']}", json={"title": "Coffee"}, headers=headers)
    problem = response.json()

    assert (response.status_code, problem["type"]) == (412, "/problems/version-mismatch")
    assert problem["current_etag"] == made["etag"]
    assert problem.get("changed_fields") is None, "the client never had such a version"


@pytest.mark.parametrize("if_match", ["{etag}", "W/{etag}", '"other", {etag}', ' "1-1" , W/{etag} '])
async def test_the_version_may_stand_among_others_and_be_weak(ada: httpx.AsyncClient, if_match: str) -> None:
    made = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    headers = {"If-Match": if_match.format(etag=made["etag"])}
    assert (await ada.put(f"/v1/notes/{made['id']}", json={"title": "X"}, headers=headers)).status_code == 200


async def test_the_numbers_of_several_versions_are_not_mixed(ada: httpx.AsyncClient) -> None:
    made = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    time = made["etag"].strip('"').partition("-")[2]
    mixed = {"If-Match": f'"1-1", "2-{time}"'}
    assert (await ada.put(f"/v1/notes/{made['id']}", json={"title": "X"}, headers=mixed)).status_code == 412


async def test_a_refusal_says_what_changed_since_the_version_that_was_named(ada: httpx.AsyncClient) -> None:
    first = (await ada.post("/v1/notes", json={"title": "Tea", "metadata": {"a": 1}})).json()
    path = f"/v1/notes/{first['id']}"

    async def put(etag: str, **note: Any) -> httpx.Response:
        return await ada.put(path, json=note, headers={"If-Match": etag})

    second = (await put(first["etag"], title="Coffee", metadata={"a": True})).json()
    third = (await put(second["etag"], title="Coffee", content="hot", tags=["x"], metadata={"a": True})).json()

    assert (await put(first["etag"], title="X")).json()["changed_fields"] == ["title", "content", "tags", "metadata"]
    assert (await put(second["etag"], title="X")).json()["changed_fields"] == ["content", "tags"]
    await ada.delete(path, headers={"If-Match": third["etag"]})
    assert (await put(third["etag"], title="X")).json()["changed_fields"] == ["deleted_at"]


async def test_what_is_in_the_trash_is_not_replaced(ada: httpx.AsyncClient) -> None:
    made = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    path = f"/v1/notes/{made['id']}"
    trashed = (await ada.delete(path, headers={"If-Match": made["etag"]})).json()
    for headers, status in (({"If-Match": trashed["etag"]}, 409), (MAKE, 412)):
        assert (await ada.put(path, json={"title": "Coffee"}, headers=headers)).status_code == status
    assert (await ada.get(path)).json() == trashed


async def test_somebody_elses_note_is_neither_replaced_nor_made(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    made = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    path = f"/v1/notes/{made['id']}"
    replaced = await bob.put(path, json={"title": "Bob's"}, headers={"If-Match": made["etag"]})
    taken = await bob.put(path, json={"title": "Bob's"}, headers=MAKE)

    assert (replaced.status_code, replaced.json()["type"]) == (404, "/problems/note-not-found")
    assert (taken.status_code, taken.json()["type"]) == (409, "/problems/id-taken")
    assert "current_etag" not in replaced.json().keys() | taken.json().keys()
    assert (await ada.get(path)).json() == made
