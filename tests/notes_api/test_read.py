"""GET /v1/notes/{id}."""

import httpx
import pytest


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


async def test_what_is_no_id_is_refused(ada: httpx.AsyncClient) -> None:
    response = await ada.get("/v1/notes/1")
    assert response.status_code == 422
    assert response.json()["errors"][0]["parameter"] == "note_id"


async def test_a_query_parameter_is_refused(ada: httpx.AsyncClient) -> None:
    note = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    assert (await ada.get(f"/v1/notes/{note['id']}?fields=title")).status_code == 400
