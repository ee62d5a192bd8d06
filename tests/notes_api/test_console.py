"""The console's pages and forms, and that each change is the same as by the API."""

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI

from tests.notes_api.doors import client, new_token
from tests.notes_api.visitor import ALL, Visitor, visitor

OWNER = UUID("11111111-2222-4333-8444-555555555555")
EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">'


@pytest.fixture
async def person(app: FastAPI) -> AsyncIterator[Visitor]:
    async with visitor(app, ALL, OWNER) as one:
        yield one


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A program of the same owner."""
    async with client(app, await new_token(app, *ALL, owner=OWNER)) as one:
        yield one


async def made(api: httpx.AsyncClient, **note: Any) -> dict[str, Any]:
    answer = await api.post("/v1/notes", json={"title": "Bread", **note})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def of(api: httpx.AsyncClient, note_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await api.get(f"/v1/notes/{note_id}")).json()
    return found


async def test_a_note_is_added(person: Visitor, api: httpx.AsyncClient) -> None:
    fields = {"title": " Bread ", "content": "one\r\ntwo\r\n", "tags": "food, home,,food", "pinned": "1"}
    answer = await person.submit("/notes/new", **fields, metadata='{"n": 1}')
    assert answer.status_code == 303
    note = await of(api, answer.headers["Location"].rpartition("/")[2])
    assert (note["title"], note["content"], note["tags"]) == ("Bread", "one\ntwo\n", ["food", "home"])
    assert (note["pinned"], note["archived"], note["metadata"]) == (True, False, {"n": 1})
    assert "It is there." in await person.page(f"/notes/{note['id']}")
    assert "It is there." not in await person.page(f"/notes/{note['id']}"), "it is told once"


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("title", "", "at least 1 character"),
        ("title", "x" * 301, "at most 300 characters"),
        ("content", "x" * 1_048_577, "at most"),
        ("tags", "x" * 101, "at most 100 characters"),
        ("metadata", "{", "This is no JSON"),
        ("metadata", "[1]", "valid dictionary"),
    ],
)
async def test_wrong_input_is_said_beside_its_field(person: Visitor, field: str, text: str, said: str) -> None:
    answer = await person.submit("/notes/new", **{"title": "Bread", field: text})
    assert answer.status_code == 422
    found = re.search(rf'id="{field}-wrong">([^<]*)<', answer.text)
    assert found
    assert said in found[1]


async def test_a_note_is_changed_by_the_version_that_was_read(person: Visitor, api: httpx.AsyncClient) -> None:
    note = await made(api, content="one\n")
    form = await person.page(f"/notes/{note['id']}/edit")
    assert note["etag"].replace('"', "&#34;") in form
    answer = await person.submit(f"/notes/{note['id']}/edit", title="Rye", content="two\n", version=note["etag"])
    assert answer.status_code == 303
    assert ((await of(api, note["id"]))["title"], (await of(api, note["id"]))["revision"]) == ("Rye", 2)


async def test_a_stale_edit_shows_both_and_can_be_saved_on_top(person: Visitor, api: httpx.AsyncClient) -> None:
    note = await made(api, content="one\n")
    headers = {"If-Match": note["etag"], "Content-Type": "application/merge-patch+json"}
    theirs = (await api.patch(f"/v1/notes/{note['id']}", json={"content": "theirs\n"}, headers=headers)).json()
    path = f"/notes/{note['id']}/edit"
    answer = await person.submit(path, title="Bread", content="mine\n", version=note["etag"])
    assert answer.status_code == 412
    assert "-theirs" in answer.text
    assert "+mine" in answer.text
    assert (await of(api, note["id"]))["content"] == "theirs\n"
    again = await person.submit(path, title="Bread", content="mine\n", version=theirs["etag"])
    assert again.status_code == 303
    assert (await of(api, note["id"]))["content"] == "mine\n"


async def test_pinned_archived_trashed_restored_and_gone(person: Visitor, api: httpx.AsyncClient) -> None:
    note = await made(api)
    path = f"/notes/{note['id']}"

    async def does(what: str, **fields: str) -> httpx.Response:
        answer = await person.submit(f"{path}/{what}", version=(await of(api, note["id"]))["etag"], **fields)
        assert answer.status_code == 303, answer.text
        return answer

    await does("pin", on="1")
    await does("archive", on="1")
    assert ((await of(api, note["id"]))["pinned"], (await of(api, note["id"]))["archived"]) == (True, True)
    assert "Bread" not in await person.page("/")
    assert "Bread" in await person.page("/?shelf=archived")
    await does("archive", on="0")
    await does("trash")
    assert "Bread" in await person.page("/?shelf=trash")
    await person.page(f"{path}/edit", 409)
    await does("restore")
    assert "Bread" in await person.page("/")
    await does("trash")
    assert (await does("purge")).headers["Location"] == "/admin/?shelf=trash"
    await person.page(path, 404)
    changes = (await api.get("/v1/changes")).json()["items"]
    assert [each["type"] for each in changes][-3:] == ["note.restored", "note.deleted", "note.purged"]


@pytest.mark.parametrize("what", ["pin", "archive", "trash", "restore", "purge"])
async def test_what_somebody_else_has_changed_meanwhile_is_not_touched(
    person: Visitor, api: httpx.AsyncClient, what: str
) -> None:
    note = await made(api)
    answer = await person.submit(f"/notes/{note['id']}/{what}", version='"1-1"', on="1")
    assert answer.status_code == 412
    assert (await of(api, note["id"]))["revision"] == 1
    assert (await person.submit(f"/notes/{note['id']}/{what}")).status_code == 428


async def test_notes_are_found_and_listed_a_page_at_a_time(person: Visitor, api: httpx.AsyncClient) -> None:
    for number in range(35):
        await made(api, title=f"Note {number:02}", tags=["odd" if number % 2 else "even"], pinned=number == 7)
    first = await person.page("/?sort=title")
    assert "Note 29" in first
    assert "Note 30" not in first
    following = re.search(r'href="(\?[^"]*cursor[^"]*)"', first)
    assert following
    assert "Note 34" in await person.page("/" + following[1].replace("&amp;", "&"))
    tagged = await person.page("/?tag=odd&sort=title")
    assert "Note 01" in tagged
    assert "Note 02" not in tagged
    pinned = await person.page("/?pinned=1")
    assert "Note 07" in pinned
    assert "Note 08" not in pinned
    await made(api, title="Sourdough", content="of rye flour")
    assert "<mark>rye</mark>" in await person.page("/?q=rye")
    assert "No note is found." in await person.page("/?q=nowhere")
    assert "Add a word" in await person.page("/?q=-rye")


@pytest.mark.parametrize("query", ["?shelf=x", "?cursor=x", "?q=a&cursor=x"])
async def test_a_list_that_there_is_not_is_404(person: Visitor, query: str) -> None:
    await person.page(f"/{query}", 404)


async def test_nothing_that_people_write_runs(person: Visitor, api: httpx.AsyncClient) -> None:
    content = f"{EVIL}\n\n[link](javascript:alert(1)) ![picture](http://else.test/x.png)\n"
    note = await made(api, title=EVIL, content=content, tags=[EVIL])
    headers = {"If-Match": note["etag"], "Content-Type": "application/merge-patch+json"}
    await api.patch(f"/v1/notes/{note['id']}", json={"title": EVIL + "2"}, headers=headers)
    at = f"/notes/{note['id']}"
    for path in ("/", "/?q=alert", "/tags", "/changes", at, f"{at}/edit", f"{at}/history", f"{at}/history/1"):
        shown = await person.page(path)
        assert "<script>" not in shown, path
        assert "<img src=x" not in shown, path
        assert 'href="javascript:' not in shown, path
        assert 'src="http' not in shown, path
    preview = await person.submit("/notes/preview", content=content + "**bold**")
    assert "<strong>bold</strong>" in preview.text
    assert "<script>" not in preview.text
    assert "<img" not in preview.text


async def test_history_shows_what_changed_and_gives_it_back(person: Visitor, api: httpx.AsyncClient) -> None:
    note = await made(api, content="one\n")
    headers = {"If-Match": note["etag"], "Content-Type": "application/merge-patch+json"}
    later = (await api.patch(f"/v1/notes/{note['id']}", json={"content": "two\n"}, headers=headers)).json()
    history = await person.page(f"/notes/{note['id']}/history")
    assert "content" in history
    diff = await person.page(f"/notes/{note['id']}/history/1")
    assert "-one" in diff
    assert "+two" in diff
    restored = await person.submit(f"/notes/{note['id']}/history/1/restore", version=later["etag"])
    assert restored.status_code == 303
    assert (await of(api, note["id"]))["content"] == "one\n"
    await person.page(f"/notes/{note['id']}/history/9", 404)


async def test_a_token_is_shown_once_and_has_no_more_scopes_than_its_maker(app: FastAPI, person: Visitor) -> None:
    answer = await person.submit("/tokens", name="reader", scopes="notes:read", days="7")
    assert answer.status_code == 200
    [token] = set(re.findall(r"hf_[A-Za-z0-9_-]{43}", answer.text))
    listed = await person.page("/tokens")
    assert "reader" in listed
    assert token not in listed
    async with client(app, token) as program:
        assert (await program.get("/v1/notes")).status_code == 200
        assert (await program.post("/v1/notes", json={"title": "x"})).status_code == 403
    wrong = await person.submit("/tokens", name="", scopes="notes:read", days="x")
    assert wrong.status_code == 422
    assert 'id="name-wrong"' in wrong.text
    assert 'id="days-wrong"' in wrong.text
    async with visitor(app, ["notes:read", "tokens:admin"], OWNER) as lesser:
        refused = await lesser.submit("/tokens", name="more", scopes="notes:write")
        assert refused.status_code == 422


async def test_a_revoked_token_signs_out_who_came_with_it(app: FastAPI, person: Visitor) -> None:
    async with visitor(app, ["notes:read"], OWNER) as reader:
        await reader.page("/")
        found = re.findall(r"/admin/tokens/([0-9a-f-]{36})/revoke", await person.page("/tokens"))
        assert (await person.submit(f"/tokens/{found[0]}/revoke")).status_code == 303
        assert (await reader.get("/admin/")).status_code == 303
        assert (await person.submit(f"/tokens/{found[1]}/revoke")).status_code == 303
        assert (await person.get("/admin/")).status_code == 303


async def test_every_page_says_what_to_do_where_there_is_nothing(person: Visitor) -> None:
    assert "Add the first one" in await person.page("/")
    assert "The trash is empty." in await person.page("/?shelf=trash")
    assert "No note has a tag." in await person.page("/tags")
    assert "Nothing has happened yet." in await person.page("/changes")


async def test_what_people_did_is_in_the_audit_list_of_the_owner(
    app: FastAPI, person: Visitor, api: httpx.AsyncClient
) -> None:
    note = await made(api)
    await person.submit(f"/notes/{note['id']}/trash", version=note["etag"])
    await person.submit(f"/notes/{note['id']}/trash", version='"9-9"')
    shown = await person.page("/audit")
    assert shown.count("trashed a note") == 1, "what was refused was not done"
    assert note["id"] in shown
    async with visitor(app, ALL, uuid4()) as other:
        assert "trashed a note" not in await other.page("/audit")
        await other.page(f"/notes/{note['id']}", 404)
        await other.page(f"/notes/{note['id']}/history", 404)


async def test_who_may_only_read_is_offered_no_change(app: FastAPI, api: httpx.AsyncClient) -> None:
    note = await made(api)
    async with visitor(app, ["notes:read"], OWNER) as reader:
        shown = await reader.page(f"/notes/{note['id']}")
        assert "Edit" not in shown
        assert "/trash" not in shown
        assert "/admin/tokens" not in shown
        await reader.page("/tokens", 403)
        await reader.page("/notes/new", 403)
        assert (await reader.submit(f"/notes/{note['id']}/trash", version=note["etag"])).status_code == 403


async def test_without_a_bucket_there_is_no_upload(person: Visitor, api: httpx.AsyncClient) -> None:
    note = await made(api)
    assert "no bucket for attachments" in await person.page(f"/notes/{note['id']}")
    proof = await person.proof("/")
    answer = await person.post("/admin/upload", data={"proof": proof, "note": note["id"]}, files={"file": ("a", b"x")})
    assert answer.status_code == 503


async def test_a_body_that_is_too_large_is_refused(person: Visitor) -> None:
    proof = await person.proof("/")
    form = {"proof": proof, "title": "x", "content": "x" * 2_200_000}
    assert (await person.post("/admin/notes/new", data=form)).status_code == 413
