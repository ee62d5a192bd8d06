"""GET /v1/notes."""

import base64
import json
from typing import Any, cast, get_args
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from notes_api import db, lists
from notes_api.cursors import Signer
from notes_api.db import Connection
from notes_api.errors import InvalidCursor
from notes_api.lists import Order
from tests.notes_api.doors import client, new_token, serving
from tests.servers import Cluster

SORTS = get_args(lists.Sort)


async def make(client: httpx.AsyncClient, *titles: str, **fields: Any) -> list[dict[str, Any]]:
    made = [await client.post("/v1/notes", json={"title": title, "content": "x", **fields}) for title in titles]
    assert all(response.status_code == 201 for response in made), made
    return [response.json() for response in made]


async def titles(client: httpx.AsyncClient, query: str = "") -> list[str]:
    response = await client.get(f"/v1/notes?{query}")
    assert response.status_code == 200, response.text
    return [note["title"] for note in response.json()["items"]]


async def pages(client: httpx.AsyncClient, **parameters: Any) -> list[list[str]]:
    """The titles, page by page, as the cursor leads; `next` leads to the same."""
    found = []
    while True:
        page = (await client.get("/v1/notes", params=parameters)).json()
        found.append([note["title"] for note in page["items"]])
        assert page["has_more"] == (page["next_cursor"] is not None) == (page["next"] is not None)
        if not page["has_more"]:
            return found
        parameters["cursor"] = page["next_cursor"]
        assert parse_qs(urlsplit(page["next"]).query)["cursor"] == [page["next_cursor"]]


def copies(cluster: Cluster, database: str, number: int) -> None:
    """So many of each note that there is, made and changed in the same moment as it."""
    columns = "owner, title, content, tags, created_at, updated_at"
    copy = f"insert into notes.notes ({columns}) select {columns} from notes.notes, generate_series(1, {number})"
    cluster.server.psql(database, [copy])


async def test_nothing_is_a_page_too(ada: httpx.AsyncClient) -> None:
    response = await ada.get("/v1/notes")
    assert response.status_code == 200
    nothing: dict[str, Any] = {"items": [], "next_cursor": None, "has_more": False, "next": None, "count": None}
    assert response.json() == nothing
    assert "link" not in response.headers


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
    assert await pages(ada, limit=limit) == expected
    assert await pages(bob, limit=limit) == [["Bob's"]]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_every_order_holds_each_note_once_ties_included(
    ada: httpx.AsyncClient, cluster: Cluster, database: str, sort: str, limit: int
) -> None:
    await make(ada, "b", "a")
    copies(cluster, database, 3)
    found, parameters = [], {"sort": sort, "limit": str(limit)}
    while True:
        page = (await ada.get("/v1/notes", params=parameters)).json()
        found += page["items"]
        if not page["has_more"]:
            break
        parameters["cursor"] = page["next_cursor"]
    name = sort.removeprefix("-")
    assert found == sorted(found, key=lambda note: (note[name], note["id"]), reverse=sort.startswith("-"))
    assert len({note["id"] for note in found}) == 8


async def test_titles_are_in_the_order_of_their_code_points(ada: httpx.AsyncClient) -> None:
    names = ["b", "a", "B", "ä", "Z", "10", "9", "\u202eabc", "😀", "\uffff", "a b", "a\nb", "'", '"\\']
    await make(ada, *names)
    assert await titles(ada, "sort=title") == sorted(names)
    assert [title for page in await pages(ada, sort="-title", limit=1) for title in page] == sorted(names)[::-1]


@pytest.mark.parametrize("title", ["😀" * 300, "\x01" * 300, "\\" * 300])
async def test_the_longest_title_is_a_place_too(ada: httpx.AsyncClient, title: str) -> None:
    await make(ada, title, title)
    assert await pages(ada, sort="title", limit=1) == [[title], [title]]


async def test_moments_a_microsecond_apart_are_told_apart(
    ada: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    await make(ada, *"abc")
    time = "'2026-01-01T00:00:00.000001Z'::timestamptz + interval '1 microsecond' * (ascii(title) - 97)"
    cluster.server.psql(database, [f"update notes.notes set created_at = {time}"])
    assert await pages(ada, limit=1) == [["c"], ["b"], ["a"]]
    assert await titles(ada, "created_after=2026-01-01T00:00:00.000002Z") == ["c", "b"]
    assert await titles(ada, "created_before=2026-01-01T00:00:00.000002Z") == ["a"]


async def test_what_is_made_while_a_client_pages_moves_nothing(ada: httpx.AsyncClient) -> None:
    await make(ada, "a", "b", "c")
    first = (await ada.get("/v1/notes", params={"limit": 2})).json()
    await make(ada, "d")
    second = (await ada.get("/v1/notes", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [note["title"] for note in second["items"]] == ["a"]


async def test_a_note_in_a_list_has_all_but_its_content(ada: httpx.AsyncClient) -> None:
    (note,) = await make(ada, "a")
    del note["content"], note["attachments"]
    assert (await ada.get("/v1/notes")).json()["items"] == [note]


async def test_a_page_has_50_without_a_limit(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    await make(ada, "a")
    copies(cluster, database, 60)
    assert len((await ada.get("/v1/notes")).json()["items"]) == 50


async def test_tags_pinned_and_archived_narrow_a_list(ada: httpx.AsyncClient) -> None:
    await make(ada, "1", tags=["x", "y"], pinned=True)
    await make(ada, "2", tags=["x"], archived=True)
    await make(ada, "3", tags=["y", "z"], pinned=True, archived=True)
    expected = {
        "": ["3", "2", "1"],
        "tag=x": ["2", "1"],
        "tag=x&tag=y": ["1"],
        "any_tag=x&any_tag=z": ["3", "2", "1"],
        "tag=y&any_tag=z&any_tag=nothing": ["3"],
        "tag=X": [],
        "pinned=true": ["3", "1"],
        "pinned=false": ["2"],
        "archived=true": ["3", "2"],
        "archived=false&pinned=true": ["1"],
        "tag=y&pinned=true&archived=true": ["3"],
    }
    assert {query: await titles(ada, query) for query in expected} == expected


async def test_the_trash_is_a_list_of_its_own(ada: httpx.AsyncClient) -> None:
    _, note = await make(ada, "kept", "trashed")
    deleted = await ada.delete(f"/v1/notes/{note['id']}", headers={"If-Match": note["etag"]})
    assert deleted.status_code == 200
    assert await titles(ada) == await titles(ada, "trashed=false") == ["kept"]
    assert await titles(ada, "trashed=true") == ["trashed"]


async def test_times_narrow_a_list_from_a_moment_on_and_until_before_another(
    ada: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    await make(ada, "1", "2", "3")
    cluster.server.psql(
        database,
        [
            "update notes.notes set revision = 2, created_at = make_timestamptz(2026, 1, title::int, 12, 0, 0, 'UTC'),"
            " updated_at = make_timestamptz(2026, 2, 4 - title::int, 12, 0, 0, 'UTC')"
        ],
    )
    expected = {
        "created_after=2026-01-02T12:00:00Z": ["3", "2"],
        "created_before=2026-01-02T12:00:00Z": ["1"],
        "created_after=2026-01-02T13:00:00%2B01:00&created_before=2026-01-02T12:00:00.000001Z": ["2"],
        "updated_after=2026-02-02T12:00:00Z": ["2", "1"],
        "updated_before=2026-02-02T12:00:00Z": ["3"],
        "updated_after=2026-02-01T00:00:00-05:30&created_before=2026-01-03T00:00:00Z": ["2", "1"],
    }
    assert {query: await titles(ada, query) for query in expected} == expected


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
        ("sort=size", 422, "sort"),
        ("sort=title%20desc", 422, "sort"),
        ("pinned=perhaps", 422, "pinned"),
        ("trashed=", 422, "trashed"),
        ("tag=", 422, "tag"),
        ("tag=a%00b", 422, "tag"),
        (f"tag={'x' * 101}", 422, "tag"),
        ("&".join(f"any_tag={n}" for n in range(21)), 422, "any_tag"),
        ("created_after=2026-01-01", 422, "created_after"),
        ("created_after=2026-01-01T00:00:00", 422, "created_after"),
        ("created_after=2026-01-01T00:00:00+01:00", 422, "created_after"),  # that is a space
        ("updated_before=1700000000", 422, "updated_before"),
        ("updated_before=2026-02-30T00:00:00Z", 422, "updated_before"),
        ("updated_after=0001-01-01T00:00:00%2B01:00", 422, "updated_after"),
        ("updated_after=9999-12-31T23:59:59-01:00", 422, "updated_after"),
        (f"cursor={'A' * 4001}", 422, "cursor"),
    ],
)
async def test_a_wrong_parameter_is_named(ada: httpx.AsyncClient, query: str, status: int, parameter: str) -> None:
    response = await ada.get(f"/v1/notes?{query}")
    assert response.status_code == status
    assert [part["parameter"] for part in response.json()["errors"]] == [parameter]


async def test_too_large_a_limit_says_how_large_it_may_be(ada: httpx.AsyncClient) -> None:
    assert "200" in (await ada.get("/v1/notes?limit=201")).json()["detail"]


async def test_times_at_the_end_of_time_are_only_times(ada: httpx.AsyncClient) -> None:
    await make(ada, "a")
    assert await titles(ada, "created_after=0001-01-01T00:00:00Z&created_before=9999-12-31T23:59:59.999999Z") == ["a"]


@pytest.mark.parametrize(
    "other",
    [
        {"sort": "created_at"},
        {"sort": "-updated_at"},
        {"tag": "x"},
        {"any_tag": "y"},
        {"pinned": "false"},
        {"archived": "false"},
        {"trashed": "true"},
        {"created_after": "2020-01-01T00:00:00Z"},
        {"updated_before": "2030-01-01T00:00:00Z"},
    ],
)
async def test_a_cursor_is_of_one_list_and_no_other(ada: httpx.AsyncClient, other: dict[str, str]) -> None:
    await make(ada, "a", "b")
    cursor = (await ada.get("/v1/notes?limit=1")).json()["next_cursor"]
    response = await ada.get("/v1/notes", params={"cursor": cursor, **other})
    assert (response.status_code, response.json()["type"]) == (400, "/problems/invalid-cursor")


async def test_a_cursor_of_somebody_else_is_refused(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    await make(ada, "a", "b")
    cursor = (await ada.get("/v1/notes?limit=1")).json()["next_cursor"]
    assert (await bob.get("/v1/notes", params={"cursor": cursor})).status_code == 400


async def test_the_same_filters_written_otherwise_are_the_same_list(ada: httpx.AsyncClient) -> None:
    await make(ada, "a", "b", tags=["x", "y"])
    filters = "tag=x&tag=y&created_after=2020-01-01T00:00:00Z"
    cursor = (await ada.get(f"/v1/notes?limit=1&{filters}")).json()["next_cursor"]
    otherwise = "tag=y&tag=x&tag=y&created_after=2020-01-01T01:00:00.000%2B01:00&trashed=no&sort=-created_at"
    assert await titles(ada, f"limit=200&{otherwise}&cursor={cursor}") == ["a"]


async def test_a_cursor_outlives_the_process_and_not_the_key(cluster: Cluster, database: str) -> None:
    url = cluster.url("notes_app", database)
    async with serving(url) as app, client(app, token := await new_token(app, "notes:read", "notes:write")) as ada:
        await make(ada, "a", "b")
        cursor = (await ada.get("/v1/notes?limit=1")).json()["next_cursor"]
    for key, status in (("k" * 32, 200), ("l" * 32, 400)):
        async with serving(url, HOLDFAST_SIGNING_KEY=key) as app, client(app, token) as ada:
            assert (await ada.get("/v1/notes", params={"cursor": cursor})).status_code == status


@pytest.mark.parametrize(
    "cursor", ["", "x", "é", "\0", "A" * 32 + "=", "A" * 31, "_" * 32, "A" * 4000, "AAAA\nAAAA" * 4, "\uff21" * 4]
)
async def test_a_cursor_that_we_did_not_give_is_refused(ada: httpx.AsyncClient, cursor: str) -> None:
    response = await ada.get("/v1/notes", params={"cursor": cursor})
    assert (response.status_code, response.json()["type"]) == (400, "/problems/invalid-cursor")


async def test_a_cursor_with_any_byte_changed_is_refused(ada: httpx.AsyncClient) -> None:
    await make(ada, "a", "b")
    cursor = (await ada.get("/v1/notes?limit=1")).json()["next_cursor"]
    whole = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    for place in range(len(whole)):
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        wrong = base64.urlsafe_b64encode(changed).decode().rstrip("=")
        assert (await ada.get("/v1/notes", params={"cursor": wrong})).status_code == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])), st.lists
)


@given(place=JSON, of=JSON, other=JSON)
def test_a_cursor_comes_back_as_it_was_for_its_own_list_only(place: Any, of: Any, other: Any) -> None:
    signer = Signer(SecretStr("k" * 32))
    cursor = signer.sign(place, of)
    assert signer.read(cursor, of) == place
    if repr(of) != repr(other):
        with pytest.raises(InvalidCursor):
            signer.read(cursor, other)


async def test_the_next_page_is_where_the_answer_says(ada: httpx.AsyncClient) -> None:
    await make(ada, "a", "b", "c", tags=["x y&z", "ü"])
    first = await ada.get("/v1/notes", params={"limit": 2, "tag": ["x y&z", "ü"], "sort": "title"})
    next_ = first.json()["next"]
    assert next_.startswith("http://notes.test/v1/notes?limit=2&tag=x+y%26z&tag=%C3%BC&sort=title&cursor=")
    assert first.headers["link"] == f'<{next_}>; rel="next"'
    second = await ada.get(next_)
    assert [note["title"] for note in second.json()["items"]] == ["c"]
    assert second.json()["next"] is None
    assert "link" not in second.headers


async def test_the_next_page_is_at_the_host_that_the_client_asked(ada: httpx.AsyncClient) -> None:
    await make(ada, "a", "b")
    page = (await ada.get("/v1/notes?limit=1", headers={"Host": "notes.example.org:8443"})).json()
    assert page["next"].startswith("http://notes.example.org:8443/v1/notes?limit=1&cursor=")
    for strange in ("[", "a b", "::", "", "é"):
        assert (await ada.get("/v1/notes?limit=1", headers=[(b"Host", strange.encode("latin-1"))])).status_code == 200


async def test_a_link_too_long_for_a_header_stands_in_the_body_only(ada: httpx.AsyncClient) -> None:
    await make(ada, "a", "b", tags=["ü" * 100])
    page = await ada.get(
        "/v1/notes", params={"limit": 1, "any_tag": ["ü" * 100] + ["ö" * 99 + str(n) for n in range(9)]}
    )
    assert "link" not in page.headers
    assert [note["title"] for note in (await ada.get(page.json()["next"])).json()["items"]] == ["a"]


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("count=exact", "count=exact"),
        ("count=estimated", "count=estimated"),
        ('respond-async, Count="exact"; foo, wait=10', "count=exact"),
    ],
)
async def test_a_total_is_counted_on_request(ada: httpx.AsyncClient, prefer: str, applied: str) -> None:
    await make(ada, "a", "b", "c", tags=["x"])
    await make(ada, "d")
    response = await ada.get("/v1/notes?limit=1&tag=x", headers={"Prefer": prefer})
    assert response.json()["count"] == 3
    assert response.headers["preference-applied"] == applied


@pytest.mark.parametrize("prefer", ["", "count=planned", "count", "nocount=exact", "count=exactly", "return=minimal"])
async def test_a_preference_that_we_do_not_know_is_ignored(ada: httpx.AsyncClient, prefer: str) -> None:
    await make(ada, "a")
    response = await ada.get("/v1/notes", headers={"Prefer": prefer})
    assert (response.status_code, response.json()["count"]) == (200, None)
    assert "preference-applied" not in response.headers


async def test_an_estimate_of_many_is_what_statistics_say(
    ada: httpx.AsyncClient, bob: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    await make(ada, "a", tags=["x"])
    copies(cluster, database, 12_000)
    await make(bob, "b")
    cluster.server.psql(database, ["analyze notes.notes"])

    async def count(client: httpx.AsyncClient, how: str, query: str = "") -> int:
        counted: int = (await client.get(f"/v1/notes?limit=1&{query}", headers={"Prefer": f"count={how}"})).json()[
            "count"
        ]
        return counted

    assert await count(ada, "exact", "tag=x") == 12_001
    assert 11_000 < await count(ada, "estimated", "tag=x&created_after=2020-01-01T00:00:00Z") < 13_000
    assert await count(bob, "estimated") == 1


class Explained:
    """A connection that keeps how many rows of tables and indexes, and blocks, each of its queries has read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.read: list[tuple[int, int]] = []

    async def fetch(self, query: str, *values: Any) -> list[Any]:
        explained = await self._connection.fetchval(f"explain (analyze, buffers, format json) {query}", *values)
        self.read.append(_read(json.loads(explained)[0]["Plan"]))
        return await self._connection.fetch(query, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _read(plan: dict[str, Any]) -> tuple[int, int]:
    rows = 0
    stack = [plan]
    while stack:
        node = stack.pop()
        stack += node.get("Plans", [])
        if "Scan" in node["Node Type"]:
            rows += int(node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
    return rows, plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


@pytest.mark.parametrize("sort", SORTS)
async def test_a_late_page_reads_as_little_as_the_first(
    app: FastAPI, bob: httpx.AsyncClient, cluster: Cluster, database: str, sort: lists.Sort
) -> None:
    owner = uuid4()
    await make(bob, "b")
    copies(cluster, database, 5000)
    insert = (
        "insert into notes.notes (owner, title, content, tags, created_at, updated_at) select '{}', md5(n::text), 'x',"
        " '{{}}', now() - n * interval '1 hour', now() - n * interval '1 minute' from generate_series(1, 5000) as n"
    )
    cluster.server.psql(database, [insert.format(owner), "analyze notes.notes"])
    async with db.connected(app.state.pool) as connection:
        explained, place = Explained(connection), None
        for _ in range(300):
            _, place = await lists.page(cast("Connection", explained), owner, {}, Order(sort, place), 10)
            assert place
    assert {rows for rows, _ in explained.read} == {11}
    assert max(blocks for _, blocks in explained.read) < 50


@pytest.mark.parametrize("filters", [{"pinned": True}, {"archived": True}, {"trashed": True}, {"tag": ["nothing"]}])
async def test_a_filter_that_nothing_passes_reads_no_note(
    app: FastAPI, ada: httpx.AsyncClient, cluster: Cluster, database: str, filters: dict[str, Any]
) -> None:
    await make(ada, "a", tags=["x"])
    copies(cluster, database, 2000)
    cluster.server.psql(database, ["analyze notes.notes"])
    async with db.connected(app.state.pool) as connection:
        await connection.execute("set enable_seqscan = off")  # which is fastest for these few
        owner = await connection.fetchval("select owner from notes.notes limit 1")
        explained = Explained(connection)
        for sort in get_args(lists.Sort):
            assert await lists.page(cast("Connection", explained), owner, filters, Order(sort, None), 50) == ([], None)
        await connection.execute("reset enable_seqscan")
    assert {rows for rows, _ in explained.read} == {0}


async def test_somebody_without_the_scope_sees_no_list(eve: httpx.AsyncClient, anybody: httpx.AsyncClient) -> None:
    assert (await eve.get("/v1/notes")).status_code == 403
    assert (await anybody.get("/v1/notes")).status_code == 401
