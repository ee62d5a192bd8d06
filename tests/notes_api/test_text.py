"""POST /v1/notes/{id}:append and :replace."""

from typing import Any

import httpx
import pytest

MIB = 1024 * 1024


async def _made(somebody: httpx.AsyncClient, content: str) -> dict[str, Any]:
    return dict((await somebody.post("/v1/notes", json={"title": "Tea", "content": content})).json())


async def _do(somebody: httpx.AsyncClient, note: dict[str, Any], verb: str, **body: Any) -> httpx.Response:
    return await somebody.post(f"/v1/notes/{note['id']}:{verb}", json=body, headers={"If-Match": note["etag"]})


@pytest.mark.parametrize(
    ("content", "body", "expected"),
    [
        ("hot", {"content": " tea"}, "hot tea"),
        ("hot", {"content": "tea", "separator": "\n"}, "hot\ntea"),
        ("", {"content": "tea", "separator": "\n"}, "tea"),
        ("hot\n", {"content": "", "separator": "\n"}, "hot\n\n"),
        ("🍵", {"content": "\u202e\u05e9"}, "🍵\u202e\u05e9"),
    ],
)
async def test_text_comes_to_the_end(ada: httpx.AsyncClient, content: str, body: dict[str, Any], expected: str) -> None:
    made = await _made(ada, content)
    appended = await _do(ada, made, "append", **body)
    note = appended.json()
    assert (appended.status_code, appended.headers["ETag"]) == (200, note["etag"])
    assert (note["content"], note["revision"], note["title"]) == (expected, 2, "Tea")
    assert (await ada.get(f"/v1/notes/{made['id']}")).json() == note


@pytest.mark.parametrize(
    ("content", "body", "expected"),
    [
        ("hot tea", {"find": "tea", "replace": "coffee"}, "hot coffee"),
        ("tea, tea", {"find": "tea", "replace": "", "all": True}, ", "),
        ("aaaa", {"find": "aa", "replace": "a", "all": True}, "aa"),
        ("a.c abc", {"find": "a.c", "replace": "\\0$&"}, "\\0$& abc"),
        ("👩‍👩‍👧", {"find": "👩‍👧", "replace": "🍵"}, "👩‍🍵"),
        (
            "x" * MIB,
            {"find": "x" * 900_000, "replace": "y" * 900_000, "all": True},
            "y" * 900_000 + "x" * (MIB - 900_000),
        ),
        ("x" * MIB, {"find": "x", "replace": "y", "all": True}, "y" * MIB),
    ],
    ids=["once", "all", "all from the beginning", "no pattern", "within an emoji", "1 MiB", "a million places"],
)
async def test_text_is_replaced(ada: httpx.AsyncClient, content: str, body: dict[str, Any], expected: str) -> None:
    made = await _made(ada, content)
    note = (await _do(ada, made, "replace", **body)).json()
    assert note["content"] == expected
    assert note["revision"] == 2


@pytest.mark.parametrize(
    ("verb", "body"),
    [("append", {"content": ""}), ("replace", {"find": "hot", "replace": "hot"})],
)
async def test_what_changes_nothing_keeps_the_version(ada: httpx.AsyncClient, verb: str, body: dict[str, Any]) -> None:
    made = await _made(ada, "hot tea")
    assert (await _do(ada, made, verb, **body)).json() == made


@pytest.mark.parametrize(
    ("content", "find", "kind"),
    [
        ("hot tea", "Tea", "text-not-found"),
        ("", "x", "text-not-found"),
        ("tea, tea", "tea", "text-found-often"),
        ("aaa", "aa", "text-found-often"),
    ],
)
async def test_text_that_does_not_stand_there_once_is_not_replaced(
    ada: httpx.AsyncClient, content: str, find: str, kind: str
) -> None:
    made = await _made(ada, content)
    refused = await _do(ada, made, "replace", find=find, replace="x")
    assert (refused.status_code, refused.json()["type"]) == (422, f"/problems/{kind}")
    assert [part["pointer"] for part in refused.json()["errors"]] == ["#/find"]
    assert (await ada.get(f"/v1/notes/{made['id']}")).json() == made


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("append", {"content": "y"}),
        ("append", {"content": "🍵" * (MIB // 4)}),
        ("replace", {"find": "x", "replace": "y" * MIB, "all": True}),
        ("replace", {"find": "x" * 10, "replace": "y" * (MIB + 1)}),
        ("replace", {"find": "", "replace": "y"}),
        ("replace", {"find": "x"}),
        ("append", {}),
        ("append", {"content": "y", "separator": "-" * 1001}),
        ("append", {"content": None}),
        ("append", {"content": "\0"}),
        ("append", {"content": "y", "at": 5}),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_would_not_be_a_note_is_refused(ada: httpx.AsyncClient, verb: str, body: dict[str, Any]) -> None:
    made = await _made(ada, "x" * MIB)
    refused = await _do(ada, made, verb, **body)
    assert (refused.status_code, refused.json()["type"]) in {
        (422, "/problems/invalid-request"),
        (413, "/problems/body-too-large"),
    }
    assert (await ada.get(f"/v1/notes/{made['id']}")).headers["ETag"] == made["etag"]


@pytest.mark.parametrize(("verb", "body"), [("append", {"content": "x"}), ("replace", {"find": "tea", "replace": "x"})])
async def test_it_is_a_change_as_any(
    ada: httpx.AsyncClient, bob: httpx.AsyncClient, verb: str, body: dict[str, Any]
) -> None:
    made = await _made(ada, "tea")
    path = f"/v1/notes/{made['id']}"
    assert (await ada.post(f"{path}:{verb}", json=body)).status_code == 428
    assert (await ada.post(f"{path}:{verb}", json=body, headers={"If-Match": "*"})).status_code == 400
    assert (await _do(bob, made, verb, **body)).json()["type"] == "/problems/note-not-found"
    plain = {"If-Match": made["etag"], "Content-Type": "text/plain"}
    assert (await ada.post(f"{path}:{verb}", content=b"{}", headers=plain)).status_code == 415

    changed = (await _do(ada, made, verb, **body)).json()
    stale = await _do(ada, made, verb, **body)
    assert (stale.status_code, stale.json()["current_etag"]) == (412, changed["etag"])
    assert stale.json()["changed_fields"] == ["content"]
    trashed = (await ada.delete(path, headers={"If-Match": changed["etag"]})).json()
    assert (await _do(ada, trashed, verb, **body)).json()["type"] == "/problems/note-trashed"
