"""GET /v1/notes/{id}."""

from datetime import datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI

from notes_api import db


async def test_somebody_elses_note_does_not_exist(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    adas = (await ada.post("/v1/notes", json={"title": "Ada's"})).json()
    nobodys = "018f0000-0000-7000-8000-000000000000"
    refused = await bob.get(f"/v1/notes/{adas['id']}")
    missing = await bob.get(f"/v1/notes/{nobodys}")

    assert refused.status_code == missing.status_code == 404
    assert refused.json()["type"] == missing.json()["type"] == "/problems/note-not-found"
    assert refused.json()["detail"].replace(adas["id"], nobodys) == missing.json()["detail"]


@pytest.mark.parametrize("if_none_match", ["{etag}", "W/{etag}", '"other", {etag}', "*", " * "])
async def test_a_client_that_has_it_gets_no_body(ada: httpx.AsyncClient, if_none_match: str) -> None:
    note = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    known = {"If-None-Match": if_none_match.format(etag=note["etag"])}
    response = await ada.get(f"/v1/notes/{note['id']}", headers=known)

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["ETag"] == note["etag"]
    assert "Content-Type" not in response.headers


@pytest.mark.parametrize("if_none_match", ['"other"', "", "nonsense", '"', '"**"'])
async def test_a_client_that_has_another_state_gets_this_one(ada: httpx.AsyncClient, if_none_match: str) -> None:
    note = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    response = await ada.get(f"/v1/notes/{note['id']}", headers={"If-None-Match": if_none_match})

    assert (response.status_code, response.json()) == (200, note)
    assert response.headers["ETag"] == note["etag"]
    assert response.headers["Cache-Control"] == "private, no-cache"


async def test_an_etag_names_one_note_only(ada: httpx.AsyncClient) -> None:
    notes = [(await ada.post("/v1/notes", json={"title": "Tea"})).json() for _ in range(2)]
    assert notes[0]["etag"] != notes[1]["etag"]


async def test_what_is_no_id_names_nothing(ada: httpx.AsyncClient) -> None:
    response = await ada.get("/v1/notes/1")
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"


async def test_a_query_parameter_is_refused(ada: httpx.AsyncClient) -> None:
    note = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    assert (await ada.get(f"/v1/notes/{note['id']}?fields=title")).status_code == 400


async def test_a_token_is_looked_up_once_in_a_request(app: FastAPI, ada: httpx.AsyncClient) -> None:
    """Also in one that both writes and has a key: each of the two asks who calls."""
    queries: list[str] = []
    async with db.connected(app.state.pool) as connection:  # the only one of the pool, which the next request gets
        connection.add_query_logger(lambda record: queries.append(record.query))
    made = await ada.post("/v1/notes", json={"title": "Tea"}, headers={"Idempotency-Key": "one"})

    assert made.status_code == 201
    assert any("insert into notes.notes" in query for query in queries)
    assert len([query for query in queries if "token_hash" in query]) == 1


@pytest.mark.parametrize("revisions", [1, 3])
async def test_a_note_is_read_as_it_was_at_any_time(ada: httpx.AsyncClient, revisions: int) -> None:
    states = [(await ada.post("/v1/notes", json={"title": "Tea 1", "metadata": {"n": 1}})).json()]
    path = f"/v1/notes/{states[0]['id']}"
    for number in range(2, revisions + 1):
        states.append(
            (await ada.put(path, json={"title": f"Tea {number}"}, headers={"If-Match": states[-1]["etag"]})).json()
        )
    for state, following in zip(states, [*states[1:], None], strict=True):
        begins = datetime.fromisoformat(state["updated_at"])
        ends = datetime.fromisoformat(following["updated_at"]) if following else begins + timedelta(days=1)
        for time in (begins, begins + (ends - begins) / 2, ends - timedelta(microseconds=1)):
            response = await ada.get(path, params={"at": time.isoformat()})
            assert (response.status_code, response.json()) == (200, state), time
            assert response.headers["ETag"] == state["etag"]


async def test_before_it_was_made_there_is_no_note(ada: httpx.AsyncClient) -> None:
    note = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    before = datetime.fromisoformat(note["created_at"]) - timedelta(microseconds=1)
    for time in (before.isoformat(), "0001-01-01T00:00:00Z"):
        response = await ada.get(f"/v1/notes/{note['id']}", params={"at": time})
        assert (response.status_code, response.json()["type"]) == (404, "/problems/revision-not-found")


async def test_a_former_state_is_not_changed_by_chance(ada: httpx.AsyncClient) -> None:
    """Its ETag is its own, so an edit of it is refused."""
    first = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    path = f"/v1/notes/{first['id']}"
    await ada.put(path, json={"title": "Coffee"}, headers={"If-Match": first["etag"]})
    then = await ada.get(path, params={"at": first["updated_at"]})
    refused = await ada.put(path, json={"title": "Milk"}, headers={"If-Match": then.headers["ETag"]})
    assert refused.status_code == 412
    assert refused.json()["changed_fields"] == ["title"]


@pytest.mark.parametrize(
    "time", ["", "yesterday", "2026-11-22", "1700000000", "2026-11-22T09:30:00", "0001-01-01T00:00:00+14:00", "\0"]
)
async def test_what_is_no_time_is_refused(ada: httpx.AsyncClient, time: str) -> None:
    note = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    response = await ada.get(f"/v1/notes/{note['id']}", params={"at": time})
    assert (response.status_code, response.json()["errors"][0]["parameter"]) == (422, "at")


async def test_what_somebody_elses_note_was_is_nobodys_business(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    note = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    for time in (note["updated_at"], "2000-01-01T00:00:00Z"):
        response = await bob.get(f"/v1/notes/{note['id']}", params={"at": time})
        assert (response.status_code, response.json()["type"]) == (404, "/problems/note-not-found")
