"""POST /v1/notes:batch: all or none, or each for itself."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from tests.notes_api.doors import large_notes, within

BATCH = "/v1/notes:batch"


async def made(somebody: httpx.AsyncClient, title: str = "A note") -> dict[str, Any]:
    note: dict[str, Any] = (await somebody.post("/v1/notes", json={"title": title})).json()
    return note


async def batch(somebody: httpx.AsyncClient, *operations: dict[str, Any], **more: Any) -> httpx.Response:
    return await somebody.post(BATCH, json={"operations": operations, **more})


def update(note: dict[str, Any], **change: Any) -> dict[str, Any]:
    return {"op": "update", "id": note["id"], "if_match": note["etag"], "change": change}


def on(note: dict[str, Any], op: str) -> dict[str, Any]:
    return {"op": op, "id": note["id"], "if_match": note["etag"]}


async def feed(somebody: httpx.AsyncClient) -> list[str]:
    return [c["type"] for c in (await somebody.get("/v1/changes")).json()["items"]]


async def test_all_kinds_are_done_in_their_order(ada: httpx.AsyncClient) -> None:
    edited, trashed, back = [await made(ada, title) for title in "abc"]
    deleted = await ada.delete(f"/v1/notes/{back['id']}", headers={"If-Match": back["etag"]})
    own = "019ab1c2-7d3e-7f00-8a00-3f9a2c1b5d6e"
    answer = await batch(
        ada,
        {"op": "create", "note": {"title": "New", "content": "text"}},
        {"op": "create", "id": own, "note": {"title": "With an id"}},
        update(edited, title="Edited", metadata={"a": 1}),
        on(trashed, "delete"),
        on(deleted.json(), "restore"),
    )
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [(r["index"], r["status"], r["problem"]) for r in results] == [
        (0, 201, None),
        (1, 201, None),
        (2, 200, None),
        (3, 200, None),
        (4, 200, None),
    ]
    assert [r["note"]["title"] for r in results] == ["New", "With an id", "Edited", "b", "c"]
    assert results[1]["id"] == own
    for result in results:
        note = (await ada.get(f"/v1/notes/{result['id']}")).json()
        assert result["note"] == {name: value for name, value in note.items() if name not in ("content", "attachments")}
    assert (results[3]["note"]["deleted_at"], results[4]["note"]["deleted_at"]) != (None, None)


async def test_one_that_is_refused_undoes_all_and_is_named(ada: httpx.AsyncClient) -> None:
    note, stale = await made(ada), await made(ada)
    await batch(ada, update(stale, title="By somebody else"))
    before = await feed(ada)
    answer = await batch(
        ada, update(note, title="x"), {"op": "create", "note": {"title": "y"}}, update(stale, pinned=True)
    )
    assert answer.status_code == 412
    problem = answer.json()
    assert problem["type"] == "/problems/version-mismatch"
    assert problem["errors"][0]["pointer"] == "#/operations/2"
    assert (problem["changed_fields"], problem["current_etag"] > "") == (["title"], True)
    assert (await ada.get(f"/v1/notes/{note['id']}")).json()["title"] == "A note"
    assert await feed(ada) == before


async def test_each_for_itself_has_results_of_its_own(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    note, bobs = await made(ada), await made(bob)
    answer = await batch(
        ada,
        update(note, title="x"),
        update(note, title="y"),
        update(bobs, title="z"),
        {"op": "create", "id": bobs["id"], "note": {"title": "mine?"}},
        on(note, "restore"),
        {"op": "create", "note": {"title": "New"}},
        atomic=False,
    )
    assert answer.status_code == 207
    results = answer.json()["results"]
    types = [r["problem"] and r["problem"]["type"].removeprefix("/problems/") for r in results]
    assert [r["status"] for r in results] == [200, 412, 404, 409, 412, 201]
    assert types == [None, "version-mismatch", "note-not-found", "id-taken", "version-mismatch", None]
    assert (await ada.get(f"/v1/notes/{note['id']}")).json()["title"] == "x"


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_dry_run_says_what_would_be_and_changes_nothing(ada: httpx.AsyncClient, *, atomic: bool) -> None:
    note = await made(ada)
    answer = await batch(
        ada, update(note, title="x"), {"op": "create", "note": {"title": "y"}}, atomic=atomic, dry_run=True
    )
    assert (answer.status_code, answer.json()["dry_run"]) == (200 if atomic else 207, True)
    assert [(r["status"], r["note"]["title"], r["note"]["revision"]) for r in answer.json()["results"]] == [
        (200, "x", 2),
        (201, "y", 1),
    ]
    assert await feed(ada) == ["note.created"]
    assert (await ada.get(f"/v1/notes/{note['id']}")).json() == note


async def test_a_key_makes_it_once(ada: httpx.AsyncClient) -> None:
    body = {"operations": [{"op": "create", "note": {"title": "x"}}], "atomic": False}
    first, second = [await ada.post(BATCH, json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert (first.status_code, second.status_code, first.content) == (207, 207, second.content)
    assert second.headers["Idempotent-Replayed"] == "true"
    assert await feed(ada) == ["note.created"]


async def test_contents_are_not_held_in_memory(app: FastAPI, ada: httpx.AsyncClient) -> None:
    await large_notes(app, 30)
    notes = (await ada.get("/v1/notes")).json()["items"]
    with within(8_000_000):
        answer = await batch(ada, *(on(note, "delete") for note in notes))
    assert (answer.status_code, len(answer.json()["results"])) == (200, 30)


async def test_two_that_go_opposite_ways_both_end(ada: httpx.AsyncClient) -> None:
    for _ in range(10):
        notes = [await made(ada, f"{number}") for number in range(8)]
        ways = notes, notes[::-1]
        answers = await asyncio.gather(
            *(batch(ada, *(update(n, title=f"{w}") for n in way)) for w, way in enumerate(ways))
        )
        assert sorted(answer.status_code for answer in answers) == [200, 412]


async def test_two_that_make_the_same_opposite_ways_both_end(ada: httpx.AsyncClient) -> None:
    for _ in range(5):
        new = [{"op": "create", "id": str(uuid4()), "note": {"title": "x"}} for _ in range(6)]
        answers = await asyncio.gather(batch(ada, *new), batch(ada, *new[::-1]))
        assert sorted(answer.status_code for answer in answers) == [200, 412]


async def test_a_batch_and_single_creates_of_the_same_both_end(ada: httpx.AsyncClient) -> None:
    for _ in range(5):
        ids = [str(uuid4()) for _ in range(20)]
        new = [{"op": "create", "id": each, "note": {"title": "x"}} for each in ids]
        singles = [
            ada.put(f"/v1/notes/{each}", json={"title": "x"}, headers={"If-None-Match": "*"}) for each in ids[::-1]
        ]
        answers = await asyncio.gather(batch(ada, *new, atomic=False), *singles)
        assert {answer.status_code for answer in answers} <= {201, 207, 412}


async def test_a_batch_and_single_edits_both_end(ada: httpx.AsyncClient) -> None:
    notes = [await made(ada, f"{number}") for number in range(20)]
    patch = {"Content-Type": "application/merge-patch+json"}
    singles = [
        ada.patch(f"/v1/notes/{n['id']}", json={"title": "single"}, headers=patch | {"If-Match": n["etag"]})
        for n in notes[::-1]
    ]
    answers = await asyncio.gather(batch(ada, *(update(n, title="batch") for n in notes), atomic=False), *singles)
    assert {answer.status_code for answer in answers} <= {200, 207, 412}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"operations": []}, "#/operations"),
        ({"operations": [{"op": "create", "note": {"title": "x"}}] * 101}, "#/operations"),
        ({"operations": [{"op": "explode"}]}, "#/operations/0"),
        ({"operations": [{"op": "create", "note": {"title": ""}}]}, "#/operations/0/note/title"),
        ({"operations": [{"op": "delete", "id": "no id", "if_match": "x"}]}, "#/operations/0/id"),
        (
            {"operations": [{"op": "delete", "id": "019ab1c2-7d3e-7f00-8a00-3f9a2c1b5d6e"}]},
            "#/operations/0/if_match",
        ),
        ({"operations": [{"op": "create", "note": {"title": "x"}}], "atomic": "yes"}, "#/atomic"),
    ],
)
async def test_what_is_not_allowed_is_named(ada: httpx.AsyncClient, body: dict[str, Any], pointer: str) -> None:
    answer = await ada.post(BATCH, json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


async def test_a_version_must_be_named(ada: httpx.AsyncClient) -> None:
    note = await made(ada)
    answer = await batch(ada, {**on(note, "delete"), "if_match": "*"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, "#/operations/0")
