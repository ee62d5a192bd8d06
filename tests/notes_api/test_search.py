"""GET /v1/search."""

import asyncio
from html.parser import HTMLParser
from typing import Any

import asyncpg
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notes_api import search
from tests.notes_api.doors import client, new_token, run, serving
from tests.servers import Cluster


async def make(client: httpx.AsyncClient, title: str, content: str = "", **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/notes", json={"title": title, "content": content, **fields})
    assert response.status_code == 201, response.text
    note: dict[str, Any] = response.json()
    return note


async def answer(client: httpx.AsyncClient, q: str, **parameters: Any) -> dict[str, Any]:
    response = await client.get("/v1/search", params={"q": q, **parameters})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def titles(client: httpx.AsyncClient, q: str, **parameters: Any) -> list[str]:
    return [item["note"]["title"] for item in (await answer(client, q, **parameters))["items"]]


async def test_words_are_found_in_title_tags_and_content_in_this_order(
    ada: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    await make(ada, "one", "all about bread")
    await make(ada, "two", tags=["bread"])
    await make(ada, "Bread")
    await make(ada, "four", "of something else")
    await make(bob, "Bob's bread")
    assert await titles(ada, "bread") == ["Bread", "two", "one"]
    assert await titles(bob, "bread") == ["Bob's bread"]


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("bread", {"rye", "both", "apart"}),
        ("rye bread", {"rye", "both", "apart"}),
        ('"rye bread"', {"rye", "both"}),
        ("bread -yeast", {"rye", "apart"}),
        ('bread -"rye bread"', {"apart"}),
        ("yeast or salt", {"both", "salt"}),
        ("running", {"apart"}),
        ("BREADS", {"rye", "both", "apart"}),
        ("the rye", {"rye", "both", "apart"}),
        ("vector", {"salt"}),
        ("string", {"salt"}),
        ("nothing", set()),
    ],
)
async def test_what_people_type_is_understood(ada: httpx.AsyncClient, q: str, expected: set[str]) -> None:
    await make(ada, "rye", "a rye bread")
    await make(ada, "both", "rye bread with yeast")
    await make(ada, "apart", "bread; runs on rye")
    await make(ada, "salt", "a vector<string>")
    assert set(await titles(ada, q)) == expected


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("cat", {"cat", "catalogue", "category"}),
        ("catal", {"catalogue"}),
        ("a catal", {"catalogue"}),
        ("catal cat", set()),
        ("catalogue cat", {"catalogue"}),
        ("cat catal", set()),
        ('"good cat', {"cat"}),
        ("good -cat", {"catalogue"}),
        ('good -"good cat"', {"catalogue"}),
        ("nothing or categ", {"category"}),
    ],
)
async def test_the_last_word_may_be_the_beginning_of_one(ada: httpx.AsyncClient, q: str, expected: set[str]) -> None:
    await make(ada, "cat", "a good cat")
    await make(ada, "catalogue", "good")
    await make(ada, "category")
    assert set(await titles(ada, q, mode="prefix")) == expected


async def test_titles_are_found_in_spite_of_typing_errors(ada: httpx.AsyncClient) -> None:
    await make(ada, "Recipes of my grandmother")
    await make(ada, "Shopping on Friday", "recipes")
    assert await titles(ada, "recpies", mode="fuzzy") == ["Recipes of my grandmother"]
    assert await titles(ada, "shoping", mode="fuzzy") == ["Shopping on Friday"]
    assert await titles(ada, "grandmothr recipe", mode="fuzzy") == ["Recipes of my grandmother"]
    assert await titles(ada, "elephant", mode="fuzzy") == []


async def test_search_narrows_as_lists_do_and_leaves_out_the_trash(ada: httpx.AsyncClient) -> None:
    await make(ada, "1 bread", tags=["x", "y"], pinned=True)
    await make(ada, "2 bread", tags=["x"], archived=True)
    note = await make(ada, "3 bread")
    await ada.delete(f"/v1/notes/{note['id']}", headers={"If-Match": note["etag"]})
    assert sorted(await titles(ada, "bread")) == ["1 bread", "2 bread"]
    assert await titles(ada, "bread", tag=["x", "y"]) == ["1 bread"]
    assert sorted(await titles(ada, "bread", any_tag=["x", "y"])) == ["1 bread", "2 bread"]
    assert await titles(ada, "bread", pinned="true") == ["1 bread"]
    assert await titles(ada, "bread", archived="true", mode="prefix") == ["2 bread"]
    assert await titles(ada, "braed", archived="false", mode="fuzzy") in ([], ["1 bread"])


async def test_what_changes_is_found_as_it_is_now(ada: httpx.AsyncClient) -> None:
    note = await make(ada, "one", "bread")
    headers = {"If-Match": note["etag"], "Content-Type": "application/merge-patch+json"}
    changed = await ada.patch(f"/v1/notes/{note['id']}", json={"content": "cake"}, headers=headers)
    assert changed.status_code == 200
    assert await titles(ada, "bread") == []
    (item,) = (await answer(ada, "cake"))["items"]
    assert item["note"] == {name: value for name, value in changed.json().items() if name in item["note"]}
    assert item["note"]["etag"] == changed.headers["etag"]


class Marks(HTMLParser):
    """Which elements there are, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, _: Any) -> None:
        self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_what_is_found_is_marked_and_all_else_is_text(ada: httpx.AsyncClient) -> None:
    title = "<b>bread</b> & <script>alert('x')</script> &lt;"
    await make(ada, title, 'x \x02bread\x03 \x04b <img src=x onerror="bread"> <mark>tea</mark> </mark> &amp; bread')
    (item,) = (await answer(ada, "bread"))["items"]
    assert item["title_html"] == (
        "&lt;b&gt;<mark>bread</mark>&lt;/b&gt; &amp; &lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp;lt;"
    )
    assert Marks(item["title_html"]).text == title
    snippet = Marks(item["snippet_html"])
    assert set(snippet.elements) == {"mark"}
    assert item["snippet_html"].count("<mark>bread</mark>") == item["snippet_html"].count("<mark>") == 3
    assert "<img" in snippet.text
    (item,) = (await answer(ada, "braed script", mode="fuzzy"))["items"]
    assert Marks(item["title_html"]).elements == Marks(item["snippet_html"]).elements == []
    assert Marks(item["title_html"]).text == title


@given(st.text("ab<>&'\"\x02\x03\x04/ ", max_size=30))
def test_html_has_no_element_but_marks(marked: str) -> None:
    html = search.as_html(marked)
    assert set(Marks(html).elements) <= {"mark"}
    assert "<" not in html.replace("<mark>", "").replace("</mark>", "")


async def test_a_snippet_is_of_where_the_words_are(ada: httpx.AsyncClient) -> None:
    await make(ada, "long", "word " * 10_000 + "and there the unicorn rests " + "word " * 100_000)
    (item,) = (await answer(ada, "unicorns"))["items"]
    assert "there the <mark>unicorn</mark> rests" in item["snippet_html"]
    assert len(item["snippet_html"]) < 1000


async def test_a_snippet_without_the_words_is_the_beginning(ada: httpx.AsyncClient) -> None:
    await make(ada, "unicorn", "It begins so. " + "word " * 200_000)
    (item,) = (await answer(ada, "unicorn"))["items"]
    assert item["snippet_html"].startswith("It begins so.")


async def test_all_of_several_words_are_marked_wherever_they_are(ada: httpx.AsyncClient) -> None:
    await make(ada, "t", "bread " + "word " * 60 + "salt " + "word " * 60)
    (item,) = (await answer(ada, "bread salt -yeast"))["items"]
    assert "<mark>bread</mark>" in item["snippet_html"]
    assert "<mark>salt</mark>" in item["snippet_html"]


@pytest.mark.parametrize("mode", ["words", "prefix"])
async def test_nothing_to_search_for_finds_nothing_and_says_why(ada: httpx.AsyncClient, mode: str) -> None:
    await make(ada, "the of and", "!")
    for q in ("the", "The of AND", "!", "' \\ & | ( <-> :* %", '"', '""', "-", "  ", "\n"):
        found = await answer(ada, q, mode=mode)
        assert (found["items"], found["has_more"], found["ranked_all"]) == ([], False, True)
        assert "Add a word" in found["hint"]


@pytest.mark.parametrize("q", ["-bread", "-bread -salt", "salt or -bread", '-"rye bread"'])
async def test_exclusions_alone_find_nothing_and_say_why(ada: httpx.AsyncClient, q: str) -> None:
    await make(ada, "cake")
    found = await answer(ada, q)
    assert (found["items"], found["has_more"]) == ([], False)
    assert "only narrows" in found["hint"]


async def test_titles_are_not_compared_with_punctuation(ada: httpx.AsyncClient) -> None:
    await make(ada, "?!")
    assert "Letters or digits" in (await answer(ada, "?!", mode="fuzzy"))["hint"]
    assert (await answer(ada, "?!a", mode="fuzzy"))["hint"] is None


async def test_no_text_is_a_wrong_query(ada: httpx.AsyncClient) -> None:
    texts = [
        "it's' ':*'",
        "a'b':*'",
        "x' | 'y",
        "\\'; drop table notes.notes; --",
        "{query} {0} %s $1",
        "a:* & !b:A",
        "http://example.org/a?b=c&d='e'",
        "me@example.org -x",
        "\u202eabc 😀 日本 ß",
        "((((((",
        "\\m(?:.*)*x",
        "w " * 250,
        '"a b ' * 100,
        "-a or " * 80,
        "x" * 500,
        "\x02\x03\x04",
        *(f"b {'-' * number}a" for number in (1, 2, 29, 30, 31, 32, 33, 34, 490)),
        "b " + "!-" * 200 + "a",
    ]
    for q in texts:
        await make(ada, q[:300], q)
        for mode in ("words", "prefix", "fuzzy"):
            assert (await answer(ada, q, mode=mode))["hint"] != ""


@pytest.mark.parametrize(
    ("query", "status", "parameter"),
    [
        ("", 422, "q"),
        ("q=", 422, "q"),
        ("q=a%00b", 422, "q"),
        (f"q={'x' * 501}", 422, "q"),
        ("q=a&mode=regex", 422, "mode"),
        ("q=a&limit=101", 422, "limit"),
        ("q=a&limit=0", 422, "limit"),
        ("q=a&trashed=true", 400, "trashed"),
        ("q=a&sort=title", 400, "sort"),
    ],
)
async def test_a_wrong_parameter_is_named(ada: httpx.AsyncClient, query: str, status: int, parameter: str) -> None:
    response = await ada.get(f"/v1/search?{query}")
    assert response.status_code == status
    assert [part["parameter"] for part in response.json()["errors"]] == [parameter]


@pytest.mark.parametrize("mode", ["words", "prefix", "fuzzy"])
@pytest.mark.parametrize("limit", [1, 2, 3, 10])
async def test_pages_hold_each_note_once_the_best_first(ada: httpx.AsyncClient, mode: str, limit: int) -> None:
    for number in range(7):  # some alike, whose ranks are equal
        await make(ada, f"bread {'and salt ' * (number // 3)}", "bread")
    found, address = [], f"/v1/search?q=bread&mode={mode}&limit={limit}"
    while address:
        response = await ada.get(address)
        page = response.json()
        found += page["items"]
        assert page["has_more"] == (page["next"] is not None) == ("link" in response.headers)
        address = page["next"]
    assert len({item["note"]["id"] for item in found}) == len(found) == 7
    order = [(item["rank"], item["note"]["id"]) for item in found]
    assert order == sorted(order, reverse=True)


@pytest.mark.parametrize("other", [{"q": "salt"}, {"mode": "prefix"}, {"tag": "x"}, {"pinned": "false"}])
async def test_a_cursor_is_of_one_search_and_no_other(ada: httpx.AsyncClient, other: dict[str, str]) -> None:
    for title in ("bread and salt", "salt and bread"):
        await make(ada, title)
    cursor = (await answer(ada, "bread", limit=1))["next_cursor"]
    assert len(await titles(ada, "bread", cursor=cursor)) == 1
    response = await ada.get("/v1/search", params={"q": "bread", "cursor": cursor} | other)
    assert (response.status_code, response.json()["type"]) == (400, "/problems/invalid-cursor")


async def test_of_too_many_the_newest_are_ranked_and_it_is_said(
    ada: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    await make(ada, "oldest", "bread " * 20)
    copy = (
        "insert into notes.notes (owner, title, content, tags)"
        " select owner, 'bread ' || n, '', array[]::text[] from notes.notes, generate_series(1, {}) as n limit {}"
    )
    cluster.server.psql(database, [copy.format(search.RANKED - 1, search.RANKED - 1)])
    found = await answer(ada, "bread", limit=100)
    assert (found["ranked_all"], len(found["items"]), found["has_more"]) == (True, 100, True)
    cluster.server.psql(database, [copy.format(1, 1)])
    found = await answer(ada, "bread", limit=100)
    assert found["ranked_all"] is False
    seen = {item["note"]["title"] for item in found["items"]}
    while found["has_more"]:
        found = await answer(ada, "bread", limit=100, cursor=found["next_cursor"])
        seen |= {item["note"]["title"] for item in found["items"]}
    assert "oldest" not in seen
    assert await titles(ada, "oldest bread") == ["oldest"]


async def test_a_way_that_takes_too_long_is_left_for_the_index(
    ada: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    await make(ada, "bread")
    waiting = "select query_start from pg_stat_activity where datname = $1 and wait_event_type = 'Lock'"
    somebody = await asyncpg.connect(cluster.url("postgres", database))
    await somebody.execute("begin; lock table notes.notes")
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(titles(ada, "bread"))
        seen: set[object] = set()
        while len(seen) < 2:  # the second waits with other settings
            seen |= {row["query_start"] for row in await somebody.fetch(waiting, database)}
            await somebody.execute("select pg_stat_clear_snapshot()")
        await somebody.execute("rollback")
    assert await asking == ["bread"]
    await somebody.close()


async def test_searches_are_in_the_language_of_the_database(cluster: Cluster, database: str) -> None:
    done = run("migrate", HOLDFAST_DATABASE_URL=cluster.url("notes_owner", database), HOLDFAST_LANGUAGE="german")
    assert done.returncode == 0, done.stderr
    async with (
        serving(cluster.url("notes_app", database)) as app,
        client(app, await new_token(app, "notes:read", "notes:write")) as ada,
    ):
        await make(ada, "Garten", "Die Bäume stehen im Garten")
        (item,) = (await answer(ada, "Baum"))["items"]
        assert "<mark>Bäume</mark> stehen im Garten" in item["snippet_html"]
        assert "Add a word" in (await answer(ada, "die im"))["hint"]


async def test_somebody_without_the_scope_finds_nothing(eve: httpx.AsyncClient, anybody: httpx.AsyncClient) -> None:
    assert (await eve.get("/v1/search?q=a")).status_code == 403
    assert (await anybody.get("/v1/search?q=a")).status_code == 401
