"""GET /v1/tags."""

from typing import Any

import httpx
import pytest


async def make(client: httpx.AsyncClient, *tags: str) -> dict[str, Any]:
    response = await client.post("/v1/notes", json={"title": "a", "tags": tags})
    assert response.status_code == 201, response.text
    note: dict[str, Any] = response.json()
    return note


async def counts(client: httpx.AsyncClient) -> dict[str, int]:
    answer = (await client.get("/v1/tags?limit=200")).json()
    return {each["tag"]: each["notes"] for each in answer["items"]}


async def test_nothing_is_a_page_too(ada: httpx.AsyncClient) -> None:
    answer = await ada.get("/v1/tags")
    assert (answer.status_code, answer.json()) == (
        200,
        {"items": [], "next_cursor": None, "has_more": False, "next": None},
    )


async def test_each_tag_has_the_number_of_its_notes(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    await make(ada, "home", "garden")
    await make(ada, "home")
    await make(ada)
    await make(bob, "home", "work")
    assert await counts(ada) == {"garden": 1, "home": 2}
    assert await counts(bob) == {"home": 1, "work": 1}


async def test_notes_in_the_trash_do_not_count(ada: httpx.AsyncClient) -> None:
    await make(ada, "home")
    note = await make(ada, "home", "garden")
    await ada.delete(f"/v1/notes/{note['id']}", headers={"If-Match": note["etag"]})
    assert await counts(ada) == {"home": 1}


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_pages_hold_each_tag_once_by_code_points(ada: httpx.AsyncClient, limit: int) -> None:
    tags = ["b", "a", "B", "ä", "😀" * 100, "\u202eabc", "a b", " ", "'", "\x01" * 100]
    await make(ada, *tags)
    found, address = [], f"/v1/tags?limit={limit}"
    while address:
        response = await ada.get(address)
        page = response.json()
        found += [each["tag"] for each in page["items"]]
        assert len(page["items"]) <= limit
        assert page["has_more"] == (page["next"] is not None) == ("link" in response.headers)
        address = page["next"]
    assert found == sorted(tags)


async def test_a_cursor_of_something_else_is_refused(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    await make(ada, "a", "b")
    await make(ada, "a", "b")
    own = (await ada.get("/v1/tags?limit=1")).json()["next_cursor"]
    of_notes = (await ada.get("/v1/notes?limit=1")).json()["next_cursor"]
    for client, cursor in ((ada, of_notes), (bob, own), (ada, "x"), (ada, "")):
        response = await client.get("/v1/tags", params={"cursor": cursor})
        assert (response.status_code, response.json()["type"]) == (400, "/problems/invalid-cursor")


async def test_a_parameter_that_nobody_knows_is_refused(ada: httpx.AsyncClient) -> None:
    assert (await ada.get("/v1/tags?tag=x")).status_code == 400


async def test_somebody_without_the_scope_sees_no_tags(eve: httpx.AsyncClient, anybody: httpx.AsyncClient) -> None:
    assert (await eve.get("/v1/tags")).status_code == 403
    assert (await anybody.get("/v1/tags")).status_code == 401
