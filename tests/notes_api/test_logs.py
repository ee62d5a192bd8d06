"""Logs of a real process: JSON lines, one for each request, without what clients wrote."""

import logging
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from notes_api.logs import JsonLines
from tests.notes_api.doors import new_token
from tests.notes_api.processes import ENDED, Served, served
from tests.servers import Cluster

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECRET = "what-nobody-else-should-read"


@pytest.fixture
def running(cluster: Cluster, database: str, tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "log", cluster.url("notes_app", database)) as process:
        yield process


async def test_each_request_is_one_line_of_json(app: FastAPI, running: Served, cluster: Cluster, database: str) -> None:
    token = await new_token(app, "notes:read", "notes:write")
    token_id = cluster.server.psql(database, ["select id from notes.tokens"]).strip()
    ids = {"X-Request-Id": "the-one", "traceparent": TRACEPARENT}
    async with running.client(token) as ada:
        note = await ada.post("/v1/notes", json={"title": SECRET, "content": SECRET, "tags": [SECRET]})
        await ada.get(note.headers["Location"], headers=ids)
        await ada.get(note.headers["Location"], params={SECRET: SECRET})
        await ada.get("/nowhere/" + SECRET)
    assert running.end() in ENDED

    lines = running.lines()
    assert {"at", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines))
    assert any("Uvicorn running" in line["message"] for line in lines), "the server's own lines are among them"
    requests = [line for line in lines if line["logger"] == "notes_api.access" and line["route"] != "/livez"]
    assert [(r["method"], r["route"], r["status"]) for r in requests] == [
        ("POST", "/v1/notes", 201),
        ("GET", "/v1/notes/{note_id}", 200),
        ("GET", "/v1/notes/{note_id}", 400),
        ("GET", "unmatched", 404),
    ]
    assert (requests[1]["request_id"], requests[1]["trace_id"]) == ("the-one", TRACEPARENT.split("-")[1])
    assert all(0 < request["seconds"] < 30 for request in requests)
    assert [request["token_id"] for request in requests] == [token_id, token_id, token_id, None]
    text = running.log.read_text()
    assert SECRET not in text
    assert token.removeprefix("hf_") not in text
    assert "password-of" not in text


def test_what_fails_is_told_in_json_with_the_request_id(running: Served, cluster: Cluster, database: str) -> None:
    cluster.server.psql(database, ["drop schema notes cascade"])
    headers = {"X-Request-Id": "broken-1", "Authorization": f"Bearer hf_{'x' * 43}"}
    response = httpx.get(f"{running.url}/v1/notes/00000000-0000-7000-8000-000000000000", headers=headers)
    assert response.status_code == 500
    running.end()
    [line] = [line for line in running.lines() if line["level"] == "error"]
    assert line["request_id"] == "broken-1"
    assert "UndefinedTableError" in line["exception"]
    assert "tokens.py" in line["exception"]


async def test_an_exception_is_told_without_the_row_or_the_value_that_it_quotes(
    cluster: Cluster, database: str
) -> None:
    connection = await asyncpg.connect(cluster.url("notes_app", database))
    told = []
    for statement, values in [
        ("insert into notes.feeds values (gen_random_uuid(), null)", []),
        ("insert into notes.notes (owner, title, content, tags) values (gen_random_uuid(), $1, null, '{}')", [SECRET]),
        ("select $1::text::uuid", [SECRET]),
        ("select $1::int", [SECRET]),
    ]:
        try:
            await connection.execute(statement, *values)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            told.append(_told(error))
    await connection.close()
    assert len(told) == 4
    assert SECRET not in "".join(told)
    assert "NotNullViolationError: 23502" in told[1]


def _told(error: Exception) -> str:
    try:
        raise RuntimeError("while something was done") from error
    except RuntimeError as raised:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, "failed", None, (type(raised), raised, None))
    return JsonLines().format(record)
