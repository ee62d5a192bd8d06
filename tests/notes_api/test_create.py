"""POST /v1/notes."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.servers import Cluster

MIB = 1024 * 1024


async def test_a_note_is_made(ada: httpx.AsyncClient) -> None:
    response = await ada.post("/v1/notes", json={"title": "Tea", "content": "# Tea\n", "tags": ["kitchen", "hot"]})
    note = response.json()

    assert response.status_code == 201
    assert response.headers["Location"] == f"/v1/notes/{note['id']}"
    assert response.headers["ETag"] == note["etag"]
    assert {name: note[name] for name in ("title", "content", "tags", "revision")} == {
        "title": "Tea",
        "content": "# Tea\n",
        "tags": ["kitchen", "hot"],
        "revision": 1,
    }
    assert UUID(note["id"]).version == 7
    assert note["created_at"] == note["updated_at"]
    assert note["created_at"].endswith("Z"), "UTC, as RFC 3339 has it"
    assert datetime.now(UTC) - datetime.fromisoformat(note["created_at"]) < timedelta(minutes=1)


async def test_it_is_there_when_the_answer_is(ada: httpx.AsyncClient) -> None:
    made = await ada.post("/v1/notes", json={"title": "Tea"})
    found = await ada.get(made.headers["Location"])
    assert found.json() == made.json()


async def test_a_commit_that_fails_is_no_success(ada: httpx.AsyncClient, cluster: Cluster, database: str) -> None:
    refuse = "returns trigger language plpgsql as $$ begin raise exception 'at commit'; end $$"
    trigger = "after insert on notes.notes deferrable initially deferred for each row execute function notes.refuse()"
    cluster.server.psql(
        database, [f"create function notes.refuse() {refuse}", f"create constraint trigger refuse {trigger}"]
    )
    response = await ada.post("/v1/notes", json={"title": "x"})
    assert response.status_code == 500
    assert "at commit" not in response.text


async def test_a_title_is_enough(ada: httpx.AsyncClient) -> None:
    note = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    assert (note["content"], note["tags"], note["metadata"]) == ("", [], {})
    assert (note["pinned"], note["archived"], note["attachments"]) == (False, False, [])
    assert (note["deleted_at"], note["purge_at"]) == (None, None)


async def test_a_tag_that_is_repeated_is_kept_once(ada: httpx.AsyncClient) -> None:
    note = (await ada.post("/v1/notes", json={"title": "Tea", "tags": ["hot", "green", "hot"]})).json()
    assert note["tags"] == ["hot", "green"]


@pytest.mark.parametrize(
    "note",
    [
        {"title": "x" * 300},
        {"title": "🍵" * 300},
        {"title": "x", "content": "x" * MIB},
        {"title": "x", "content": "🍵" * (MIB // 4)},
        {"title": "x", "tags": [f"{number:x>100}" for number in range(50)]},
        {
            "title": "\u202e\u05e9\u05dc\u05d5\u05dd\r\n\t\ufffe",
            "content": "'; drop table notes.notes; -- \\x00 \\u0000",
        },
    ],
    ids=["long title", "emoji title", "1 MiB", "1 MiB of emoji", "50 tags", "strange text"],
)
async def test_what_is_allowed_comes_back_as_it_was(ada: httpx.AsyncClient, note: dict[str, Any]) -> None:
    # Not `json=`: it would write emoji as escapes of thrice their size.
    body = json.dumps(note, ensure_ascii=False).encode()
    response = await ada.post("/v1/notes", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 201, response.text
    found = (await ada.get(response.headers["Location"])).json()
    assert {name: found[name] for name in note} == note


@pytest.mark.parametrize(
    ("note", "pointer", "code"),
    [
        ({}, "#/title", "missing"),
        ({"title": ""}, "#/title", "string_too_short"),
        ({"title": "x" * 301}, "#/title", "string_too_long"),
        ({"title": 5}, "#/title", "string_type"),
        ({"title": None}, "#/title", "string_type"),
        ({"title": "x", "content": "x" * (MIB + 1)}, "#/content", "string_too_long"),
        ({"title": "x", "content": "🍵" * (MIB // 4) + "x"}, "#/content", "too_many_bytes"),
        ({"title": "x", "tags": ["t"] * 51}, "#/tags", "too_long"),
        ({"title": "x", "tags": "home"}, "#/tags", "list_type"),
        ({"title": "x", "tags": ["fine", ""]}, "#/tags/1", "string_too_short"),
        ({"title": "x", "tags": ["x" * 1_000_000]}, "#/tags/0", "string_too_long"),
        ({"title": "nul \0"}, "#/title", "nul_character"),
        ({"title": "x", "content": "\0"}, "#/content", "nul_character"),
        ({"title": "x", "tags": ["\0"]}, "#/tags/0", "nul_character"),
        ({"title": "half an emoji \ud83d"}, "#/title", "string_unicode"),
        ({"title": "x", "owner": "somebody"}, "#/owner", "extra_forbidden"),
        ({"title": "x", "a/b~c": 1}, "#/a~1b~0c", "extra_forbidden"),
        ({"title": "x", "é %": 1}, "#/%C3%A9%20%25", "extra_forbidden"),
        ({"title": "x", "\ud83d": 1}, "#", "string_unicode"),
        ([], "#", "model_attributes_type"),
        ("x", "#", "model_attributes_type"),
    ],
)
async def test_what_is_not_allowed_is_named(ada: httpx.AsyncClient, note: object, pointer: str, code: str) -> None:
    ascii_only = len(json.dumps(note)) < MIB or "🍵" not in json.dumps(note, ensure_ascii=False)
    body = json.dumps(note, ensure_ascii=ascii_only).encode()
    response = await ada.post("/v1/notes", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "/problems/invalid-request"
    assert [(part["pointer"], part["code"]) for part in problem["errors"]] == [(pointer, code)]
    assert (await ada.get("/v1/notes")).json()["items"] == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"title": "x",}', b"\xff\xfe", b'{"title": ' + b"[" * 500_000, b'{"title": ' + b"9" * 5000 + b"}"],
    ids=["nothing", "half", "comma", "not UTF-8", "deep", "a number of 5000 digits"],
)
async def test_a_body_that_is_no_json_is_refused(ada: httpx.AsyncClient, body: bytes) -> None:
    response = await ada.post("/v1/notes", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == (400 if body else 422)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert len(response.content) < 1000


async def test_the_place_of_a_mistake_in_json_is_told(ada: httpx.AsyncClient) -> None:
    response = await ada.post("/v1/notes", content=b'{"title" 5}', headers={"Content-Type": "application/json"})
    assert response.json()["errors"] == [
        {"pointer": "#", "code": "json_invalid", "detail": "Expecting ':' delimiter at character 9."}
    ]


async def test_only_the_first_of_many_mistakes_are_told(ada: httpx.AsyncClient) -> None:
    note = {"title": "x"} | {"x" * 1000 + str(n): n for n in range(1000)}
    response = await ada.post("/v1/notes", json=note)
    assert response.status_code == 422
    assert len(response.json()["errors"]) == 20
    assert len(response.content) < 10_000


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_a_body_of_another_type_is_refused(ada: httpx.AsyncClient, content_type: str) -> None:
    response = await ada.post("/v1/notes", content=b'{"title": "x"}', headers={"Content-Type": content_type})
    assert response.status_code == 415
    assert response.json()["type"] == "/problems/unsupported-media-type"


async def test_a_query_parameter_is_refused(ada: httpx.AsyncClient) -> None:
    response = await ada.post("/v1/notes?dry_run=1", json={"title": "x"})
    assert response.status_code == 400
    assert response.json()["errors"][0]["parameter"] == "dry_run"
    assert (await ada.get("/v1/notes")).json()["items"] == []
