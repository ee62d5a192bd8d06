"""GET /v1/notes."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notes_api.errors import InvalidCursor
from notes_api.notes import Cursor
from tests.servers import Cluster


async def make(client: httpx.AsyncClient, *titles: str) -> list[dict[str, Any]]:
    made = [await client.post("/v1/notes", json={"title": title, "content": "x"}) for title in titles]
    return [response.json() for response in made]


async def pages(client: httpx.AsyncClient, limit: int) -> list[list[str]]:
    """The titles, page by page."""
    found, parameters = [], {"limit": str(limit)}
    while True:
        page = (await client.get("/v1/notes", params=parameters)).json()
        found.append([note["title"] for note in page["items"]])
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            return found
        parameters["cursor"] = page["next_cursor"]


async def test_nothing_is_a_page_too(ada: httpx.AsyncClient) -> None:
    response = await ada.get("/v1/notes")
    assert response.status_code == 200
    assert response.json() == {"items": [], "next_cursor": None, "has_more": False}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, [["d"], ["c"], ["b"], ["a"]]),
        (2, [["d", "c"], ["b", "a"]]),
        (3, [["d", "c", "b"], ["a"]]),
        (4, [["d", "c", "b", "a"]]),
        (200, [["d", "c", "b", "a"]]),
    ],
)
async def test_pages_are_newest_first_and_hold_each_note_once(
    ada: httpx.AsyncClient, bob: httpx.AsyncClient, limit: int, expected: list[list[str]]
) -> None:
    await make(ada, "a", "b")
    await make(bob, "Bob's")
    await make(ada, "c", "d")
    assert await pages(ada, limit) == expected
    assert await pages(bob, limit) == [["Bob's"]]


async def test_notes_of_the_same_moment_are_not_lost_between_pages(
    ada: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    await make(ada, *"abcde")
    cluster.server.psql(database, ["update notes.notes set created_at = '2026-01-01T00:00:00.123456Z'"])
    found = await pages(ada, 2)
    assert [len(page) for page in found] == [2, 2, 1]
    assert sorted(title for page in found for title in page) == list("abcde")


async def test_what_is_made_while_a_client_pages_moves_nothing(ada: httpx.AsyncClient) -> None:
    await make(ada, "a", "b", "c")
    first = (await ada.get("/v1/notes", params={"limit": 2})).json()
    await make(ada, "d")
    second = (await ada.get("/v1/notes", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [note["title"] for note in second["items"]] == ["a"]


async def test_a_note_in_a_list_has_all_but_its_content(ada: httpx.AsyncClient) -> None:
    (note,) = await make(ada, "a")
    del note["content"]
    assert (await ada.get("/v1/notes")).json()["items"] == [note]


async def test_a_page_has_50_without_a_limit(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    await make(ada, "a")
    copy = "insert into notes.notes (owner, title, content, tags) select owner, title, content, tags"
    cluster.server.psql(database, [f"{copy} from notes.notes, generate_series(1, 60)"])
    assert len((await ada.get("/v1/notes")).json()["items"]) == 50


@pytest.mark.parametrize(
    ("query", "status", "parameter"),
    [
        ("limit=0", 422, "limit"),
        ("limit=201", 422, "limit"),
        ("limit=-1", 422, "limit"),
        ("limit=ten", 422, "limit"),
        ("limit=", 422, "limit"),
        ("offset=10", 400, "offset"),
        ("limit=5&page=2", 400, "page"),
    ],
)
async def test_a_wrong_parameter_is_named(ada: httpx.AsyncClient, query: str, status: int, parameter: str) -> None:
    response = await ada.get(f"/v1/notes?{query}")
    assert response.status_code == status
    assert [part["parameter"] for part in response.json()["errors"]] == [parameter]


@pytest.mark.parametrize(
    "cursor", ["", "x", "é", "\0", "A" * 32 + "=", "A" * 31, "_" * 32, "f" + "_" * 31, "A" * 10_000, "AAAA\nAAAA" * 4]
)
async def test_a_cursor_that_we_did_not_give_is_refused(ada: httpx.AsyncClient, cursor: str) -> None:
    response = await ada.get("/v1/notes", params={"cursor": cursor})
    if response.status_code == 200:  # the form is right: it is a place where there is nothing
        assert response.json()["items"] == []
    else:
        assert (response.status_code, response.json()["type"]) == (400, "/problems/invalid-cursor")


@given(
    st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)) | st.just(datetime.now(UTC)),  # noqa: DTZ001 - Hypothesis wants the bounds naive
    st.uuids(),
)
def test_a_cursor_comes_back_as_it_was(created_at: datetime, id_: UUID) -> None:
    cursor = Cursor(created_at, id_)
    assert Cursor.read(str(cursor)) == cursor


@given(st.text(max_size=40) | st.from_regex(r"[A-Za-z0-9_-]{32}", fullmatch=True))
def test_any_other_text_is_no_cursor_or_a_place(text: str) -> None:
    try:
        cursor = Cursor.read(text)
    except InvalidCursor:
        return
    assert str(cursor) == text
    assert cursor.created_at.utcoffset() == timedelta(0)
