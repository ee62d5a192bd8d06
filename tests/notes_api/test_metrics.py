"""GET /metrics."""

import asyncio
import math
from uuid import uuid4

import asyncpg
import httpx
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from notes_api import db
from tests.servers import Cluster

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(anybody: httpx.AsyncClient) -> Samples:
    response = await anybody.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(response.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def requests(samples: Samples) -> dict[tuple[str, str, str], float]:
    counted = [
        (dict(labels), value) for (name, labels), value in samples.items() if name == "notes_http_requests_total"
    ]
    return {(labels["method"], labels["route"], labels["status"]): value for labels, value in counted}


async def test_requests_are_counted_by_route_template_and_never_by_path(ada: httpx.AsyncClient) -> None:
    note = await ada.post("/v1/notes", json={"title": "x"})
    for path in (
        note.headers["Location"],
        f"/v1/notes/{uuid4()}",
        "/v1/notes/nonsense",
        f"/nowhere/{uuid4()}",
        "/docs",
    ):
        await ada.get(path)
    await ada.post(f"/v1/notes/{uuid4()}:restore", headers={"If-Match": '"1-0"'})
    await ada.request("BREW", note.headers["Location"])
    samples = await scrape(ada)
    assert requests(samples) == {
        ("POST", "/v1/notes", "201"): 1,
        ("GET", "/v1/notes/{note_id}", "200"): 1,
        ("GET", "/v1/notes/{note_id}", "404"): 1,
        ("POST", "/v1/notes/{note_id}:restore", "404"): 1,
        ("GET", "unmatched", "404"): 2,
        ("GET", "/docs", "200"): 1,
        ("OTHER", "/v1/notes/{note_id}", "405"): 1,
    }
    seconds = {("method", "GET"), ("route", "/v1/notes/{note_id}")}
    assert samples["notes_http_request_seconds_count", frozenset(seconds)] == 2
    assert samples["notes_http_request_seconds_bucket", frozenset({*seconds, ("le", "30.0")})] == 2


async def test_what_fails_is_counted_too(app: FastAPI, ada: httpx.AsyncClient) -> None:
    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError

    await ada.get("/boom")
    await ada.post("/v1/notes", content=b" " * (2 * 1024 * 1024 + 1), headers={"Content-Type": "application/json"})
    counted = requests(await scrape(ada))
    assert counted["GET", "/boom", "500"] == 1
    assert counted["POST", "/v1/notes", "413"] == 1


async def test_the_pool_and_what_is_in_flight_are_shown(
    ada: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    note = await ada.post("/v1/notes", json={"title": "x"})
    owner = await asyncpg.connect(cluster.url("notes_owner", database))
    async with owner.transaction():
        await owner.execute("lock table notes.notes")
        reading = asyncio.create_task(ada.get(note.headers["Location"]))
        while (samples := await scrape(ada))["notes_database_connections", frozenset({("state", "used")})] < 1:
            assert not reading.done()
        assert samples["notes_http_requests_in_flight", frozenset()] == 2, "that one, and the scrape"
    assert (await reading).status_code == 200
    await owner.close()
    samples = await scrape(ada)
    assert samples["notes_http_requests_in_flight", frozenset()] == 1
    assert samples["notes_database_connections", frozenset({("state", "used")})] == 0
    assert samples["notes_database_connections_max", frozenset()] == db.CONNECTIONS


async def test_what_waits_in_the_outbox_is_shown(ada: httpx.AsyncClient) -> None:
    await ada.post("/v1/notes", json={"title": "x"})
    await ada.post("/v1/notes", json={"title": "y"})
    assert (await scrape(ada))["notes_outbox_waiting", frozenset()] == 2


async def test_the_process_can_be_watched_while_the_database_is_away(
    ada: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    cluster.server.psql("postgres", [f"drop database {database} with (force)"])
    try:
        samples = await scrape(ada)
    finally:
        cluster.server.create_database(database)
    assert math.isnan(samples["notes_outbox_waiting", frozenset()])
