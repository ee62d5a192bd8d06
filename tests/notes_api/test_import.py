"""POST /v1/notes:import: what an export gave, and lines that clients write."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from notes_api import imported
from tests.notes_api.doors import client, large_notes, new_token, serving, within
from tests.notes_api.processes import served
from tests.servers import Cluster

EXPORT, IMPORT = "/v1/notes:export", "/v1/notes:import"
LINES = {"Content-Type": "application/x-ndjson"}


async def send(somebody: httpx.AsyncClient, *lines: Any, existing: str = "keep") -> list[dict[str, Any]]:
    body = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    answer = await somebody.post(IMPORT, params={"existing": existing}, content=body, headers=LINES)
    assert answer.status_code == 200, answer.text
    return reported(answer)


def reported(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def statuses(reports: Iterable[dict[str, Any]]) -> list[str]:
    return [report["status"] for report in reports if "status" in report]


async def titles(somebody: httpx.AsyncClient) -> list[str]:
    return [note["title"] for note in (await somebody.get("/v1/notes", params={"sort": "title"})).json()["items"]]


async def test_it_takes_what_an_export_gave(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    full = {"title": "Full", "content": "x\n", "tags": ["b", "a"], "pinned": True, "metadata": {"n": [1, 2.5]}}
    made = [(await ada.post("/v1/notes", json=new)).json() for new in (full, {"title": "Trashed"})]
    await ada.delete(f"/v1/notes/{made[1]['id']}", headers={"If-Match": made[1]["etag"]})
    first = (await ada.get(EXPORT)).content
    answer = await ada.post(IMPORT, content=first, headers=LINES)
    assert statuses(reported(answer)) == ["unchanged", "unchanged"], answer.text
    for note in made:
        etag = (await ada.get(f"/v1/notes/{note['id']}")).headers["ETag"]
        await ada.delete(f"/v1/notes/{note['id']}", headers={"If-Match": etag})
        etag = (await ada.get(f"/v1/notes/{note['id']}")).headers["ETag"]
        gone = await ada.delete(f"/v1/notes/{note['id']}?permanent=true", headers={"If-Match": etag})
        assert gone.status_code == 204
    answer = await ada.post(IMPORT, content=first, headers=LINES)
    assert reported(answer)[-1]["summary"] == {
        "lines": 2,
        "created": 2,
        "unchanged": 0,
        "exists": 0,
        "replaced": 0,
        "failed": 0,
    }
    again = [json.loads(line) for line in (await ada.get(EXPORT)).text.splitlines()]
    assert again == [json.loads(line) | {"revision": 3} for line in first.decode().splitlines()]
    assert statuses(reported(await bob.post(IMPORT, content=first, headers=LINES))) == ["failed", "failed"]


async def test_lines_that_a_client_wrote_are_known_again(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    lines = {"title": "One"}, {"title": "Two", "tags": ["x"]}, {"title": "One"}
    assert statuses(await send(ada, *lines)) == ["created", "created", "unchanged"]
    assert statuses(await send(ada, *lines)) == ["unchanged"] * 3
    assert statuses(await send(bob, *lines)) == ["created", "created", "unchanged"]
    assert await titles(ada) == ["One", "Two"]


@pytest.mark.parametrize("forgotten", [False, True])
async def test_no_etag_names_what_was_purged_and_what_was_made_of_its_id(
    app: FastAPI, ada: httpx.AsyncClient, *, forgotten: bool
) -> None:
    line = {"id": str(uuid4()), "updated_at": "2026-01-01T00:00:00Z", "deleted_at": "2026-01-01T00:00:00Z"}
    etags = []
    for title in ("one", "another", "a third"):
        assert statuses(await send(ada, line | {"title": title})) == ["created"]
        etags.append((await ada.get(f"/v1/notes/{line['id']}")).headers["ETag"])
        gone = await ada.delete(f"/v1/notes/{line['id']}?permanent=true", headers={"If-Match": etags[-1]})
        assert gone.status_code == 204
        if forgotten:
            async with app.state.pool.acquire() as connection:
                await connection.execute("delete from notes.changes")
    assert len(set(etags)) == 3


async def test_a_line_in_the_trash_stays_there_as_long_as_is_set(cluster: Cluster, database: str) -> None:
    async with (
        serving(cluster.url("notes_app", database), HOLDFAST_TRASH_DAYS="3") as app,
        client(app, await new_token(app, "notes:read", "notes:write")) as ada,
    ):
        made = (await ada.post("/v1/notes", json={"title": "There"})).json()
        trashed = {"title": "x", "deleted_at": "2026-01-01T00:00:00Z"}
        reports = await send(ada, trashed, trashed | {"id": made["id"]}, existing="replace")
        assert statuses(reports) == ["created", "replaced"]
        for report in reports[:2]:
            assert (await ada.get(f"/v1/notes/{report['id']}")).json()["purge_at"] == "2026-01-04T00:00:00Z"


async def test_contents_of_notes_that_are_there_are_not_held_in_memory(app: FastAPI, ada: httpx.AsyncClient) -> None:
    await large_notes(app, 30)
    notes = (await ada.get("/v1/notes")).json()["items"]
    with within(8_000_000):
        reports = await send(ada, *({"id": note["id"], "title": note["title"]} for note in notes))
    assert statuses(reports) == ["exists"] * 30


async def test_numbers_however_they_are_written_are_known_again(ada: httpx.AsyncClient) -> None:
    line = b'{"title": "x", "metadata": {"n": [1e16, -0.0, 1.0, 1E-7, 1.50, 2e0, 1e308, 9007199254740993]}}'
    assert statuses(await send(ada, line, line)) == ["created", "unchanged"]
    assert statuses(await send(ada, line)) == ["unchanged"]
    exported = (await ada.get(EXPORT)).content
    assert statuses(reported(await ada.post(IMPORT, content=exported, headers=LINES))) == ["unchanged"]


async def test_a_line_that_is_wrong_is_told_and_the_others_are_taken(ada: httpx.AsyncClient) -> None:
    reports = await send(
        ada,
        {"title": "First"},
        b"{nonsense",
        b"",
        {"title": ""},
        {"title": "x", "colour": "red"},
        b"[]",
        b'{"title": "\\ud800"}',
        {"title": "x", "metadata": {"n": "\x00"}},
        {"title": "x", "created_at": "1900-01-01T00:00:00Z"},
        {"title": "x", "updated_at": "9000-01-01T00:00:00Z"},
        {"title": "x", "id": "no id"},
        b'{"title": "\xff"}',
        b'{"title": "x", "metadata": {"n": NaN}}',
        {"title": "Last"},
    )
    assert statuses(reports) == ["created", *["failed"] * 11, "created"]
    assert [report["line"] for report in reports[:-1]] == [1, 2, *range(4, 15)]
    assert all(report["errors"][0]["detail"] for report in reports if report.get("status") == "failed")
    assert reports[2]["errors"][0] == {
        "pointer": "#/title",
        "code": "string_too_short",
        "detail": reports[2]["errors"][0]["detail"],
    }
    assert await titles(ada) == ["First", "Last"]
    assert reports[-1]["summary"]["failed"] == 11


async def test_what_is_there_is_kept_or_replaced(ada: httpx.AsyncClient) -> None:
    made = (await ada.post("/v1/notes", json={"title": "There"})).json()
    line = {"id": made["id"], "title": "Other", "deleted_at": None}
    assert statuses(await send(ada, line)) == ["exists"]
    assert await titles(ada) == ["There"]
    assert statuses(await send(ada, line, existing="replace")) == ["replaced"]
    note = (await ada.get(f"/v1/notes/{made['id']}")).json()
    assert (note["title"], note["revision"]) == ("Other", 2)
    assert statuses(await send(ada, line, existing="replace")) == ["unchanged"]


async def test_the_last_of_several_lines_with_an_id_is_what_is_left(ada: httpx.AsyncClient) -> None:
    lines = [{"id": "019ab1c2-7d3e-7f00-8a00-3f9a2c1b5d6e", "title": title} for title in "aba"]
    assert statuses(await send(ada, *lines)) == ["created", "exists", "unchanged"]
    assert statuses(await send(ada, *lines[1:], existing="replace")) == ["replaced", "replaced"]
    assert await titles(ada) == ["a"]


async def test_a_note_as_the_api_gives_it_is_a_line(ada: httpx.AsyncClient) -> None:
    made = (await ada.post("/v1/notes", json={"title": "x"})).json()
    assert statuses(await send(ada, made)) == ["unchanged"]


async def test_edits_meanwhile_are_not_in_the_way(ada: httpx.AsyncClient) -> None:
    made = [(await ada.post("/v1/notes", json={"title": f"{n}"})).json() for n in range(20)]
    lines = [{"id": note["id"], "title": "imported"} for note in made]
    patch = {"Content-Type": "application/merge-patch+json"}
    edits = [
        ada.patch(f"/v1/notes/{n['id']}", json={"title": "edited"}, headers=patch | {"If-Match": n["etag"]})
        for n in made[::-1]
    ]
    reports, *answers = await asyncio.gather(send(ada, *lines, existing="replace"), *edits)
    assert set(statuses(reports)) == {"replaced"}
    assert {answer.status_code for answer in answers} <= {200, 412}


async def test_a_note_without_an_end_of_line_and_windows_lines_are_taken(ada: httpx.AsyncClient) -> None:
    body = b'\xef\xbb\xbf{"title": "1"}\r\n\r\n{"title": "2"}\r\n  \n{"title": "3"}'
    answer = await ada.post(IMPORT, content=body, headers=LINES)
    assert statuses(reported(answer)) == ["created"] * 3
    assert await titles(ada) == ["1", "2", "3"]


async def test_a_line_that_is_too_long_is_told_and_not_kept(ada: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"title": "1"}\n{"title": "'
        for _ in range(imported.MAX_LINE_BYTES // 65536 + 1):
            yield b"x" * 65536
        yield b'"}\n{"title": "2"}\n'

    answer = await ada.post(IMPORT, content=body(), headers=LINES)
    assert statuses(reported(answer)) == ["created", "failed", "created"]
    assert reported(answer)[1]["errors"][0]["code"] == "too_long"


async def test_a_mebibyte_of_escapes_is_a_note(ada: httpx.AsyncClient) -> None:
    content = "\u00e9" * (512 * 1024)
    reports = await send(ada, json.dumps({"title": "x", "content": content}).encode())
    assert statuses(reports) == ["created"]
    assert (await ada.get(f"/v1/notes/{reports[0]['id']}")).json()["content"] == content


async def test_two_who_send_the_same_at_once_make_it_once(ada: httpx.AsyncClient) -> None:
    lines = [{"title": f"{n}", "id": str(uuid4())} for n in range(300)]
    first, second = await asyncio.gather(send(ada, *lines), send(ada, *lines[::-1]))
    assert first[-1]["summary"]["created"] + second[-1]["summary"]["created"] == 300
    assert first[-1]["summary"]["unchanged"] + second[-1]["summary"]["unchanged"] == 300


async def test_many_batches_are_reported_in_order(ada: httpx.AsyncClient) -> None:
    reports = await send(ada, *({"title": f"{n}"} for n in range(3 * imported.AT_ONCE + 7)))
    assert [report["line"] for report in reports[:-1]] == list(range(1, 3 * imported.AT_ONCE + 8))
    page = (await ada.get("/v1/changes", params={"limit": 200})).json()
    assert [change["seq"] for change in page["items"]] == list(range(1, 201))


async def test_what_was_stored_before_a_break_stays_and_the_rest_follows(
    cluster: Cluster, database: str, app: FastAPI, tmp_path: Path
) -> None:
    lines = [json.dumps({"title": f"{n}"}).encode() + b"\n" for n in range(imported.AT_ONCE + 5)]

    async def stored(somebody: httpx.AsyncClient) -> int:
        return len((await somebody.get("/v1/changes", params={"limit": 200})).json()["items"])

    async def broken(somebody: httpx.AsyncClient) -> AsyncIterator[bytes]:
        for line in lines[:-2]:
            yield line
        async with asyncio.timeout(20):
            while not await stored(somebody):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)
        raise ConnectionError("pulled the plug")

    token = await new_token(app, "notes:read", "notes:write")
    with served(tmp_path / "log", cluster.url("notes_app", database)) as service:
        async with service.client(token) as ada:
            with pytest.raises(ConnectionError):
                await ada.post(IMPORT, content=broken(ada), headers=LINES)
            assert await stored(ada) == imported.AT_ONCE
            summary = reported(await ada.post(IMPORT, content=b"".join(lines), headers=LINES))[-1]["summary"]
            assert (summary["unchanged"], summary["created"]) == (imported.AT_ONCE, 5)
        service.end()
        assert [line["status"] for line in service.lines() if line.get("route") == IMPORT] == [499, 200]
        assert not [line for line in service.lines() if line["level"] == "error"]


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"Content-Type": "application/json"}, "", 415),
        ({}, "", 415),
        (LINES | {"Idempotency-Key": "k"}, "", 400),
        (LINES, "?existing=burn", 422),
        (LINES, "?other=1", 400),
    ],
)
async def test_what_it_does_not_take_is_refused(
    ada: httpx.AsyncClient, headers: dict[str, str], query: str, status: int
) -> None:
    answer = await ada.post(IMPORT + query, content=b'{"title": "x"}', headers=headers)
    assert answer.status_code == status
    assert await titles(ada) == []


async def test_it_needs_the_scope(eve: httpx.AsyncClient, anybody: httpx.AsyncClient) -> None:
    for somebody, status in ((eve, 403), (anybody, 401)):
        assert (await somebody.post(IMPORT, content=b"", headers=LINES)).status_code == status
