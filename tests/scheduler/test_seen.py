"""How the service is seen by whoever runs it: logs, metrics, traces, and a worker's own port."""

import gzip
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from scheduler import alarms, db, due, logs
from scheduler.app import create_app
from scheduler.settings import Settings
from tests.scheduler.chain import DAILY, Chain, allow_connections, until
from tests.servers import Cluster, free_port

if TYPE_CHECKING:
    from tests.scheduler.conftest import Client

SECRET = "what-nobody-should-read"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
Numbers = dict[tuple[str, ...], float]


def numbers(text: str) -> Numbers:
    """By name and the values of the labels, in the order of their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Collector(ThreadingHTTPServer):
    """Keeps the spans that are posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[Span] = []


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in each.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: it is a test."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_a_request_is_a_line_with_its_ids(
    ops: httpx.AsyncClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.to_stdout()
    headers = {"X-Request-Id": "abc", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    await ops.get(f"/v1/schedules?name={SECRET}", headers=headers)
    await ops.get(f"/nowhere/{SECRET}")
    said = capsys.readouterr().out
    assert SECRET not in said
    found, lost = (line for line in map(json.loads, said.splitlines()) if line["logger"] == "scheduler.access")
    assert {name: found[name] for name in ("request_id", "trace_id", "method", "route", "status", "token")} == {
        "request_id": "abc",
        "trace_id": TRACE,
        "method": "GET",
        "route": "/v1/schedules",
        "status": 200,
        "token": "test",
    }
    assert (lost["route"], lost["status"], lost["token"]) == ("unmatched", 404, None)


async def test_an_exception_is_told_without_what_it_quotes(
    sql: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.to_stdout()
    try:
        await sql.fetchval("select $1::text::int", SECRET)
    except asyncpg.PostgresError:
        logging.getLogger("scheduler.test").exception("it failed")
    line = json.loads(capsys.readouterr().out)
    assert "InvalidTextRepresentationError" in line["exception"]
    assert SECRET not in line["exception"]


async def test_the_api_counts_and_looks(
    client: "Client", ops: httpx.AsyncClient, sql: asyncpg.Connection, app: FastAPI, cluster: Cluster, database: str
) -> None:
    await ops.post(f"/v1/schedules/{DAILY}/trigger")
    await ops.get(f"/v1/runs/{DAILY}")
    async with db.transaction(app.state.engine) as session:
        await alarms.raise_(session, "stale", "backups", "x")
    await sql.execute("update scheduler.watch set last_proven_at = now() - interval '1 hour'")
    await sql.execute(
        """
        update scheduler.schedules
        set catch_up = catch_up || '{"policy": "none"}', next_due_at = now() - interval '1 hour'
        """
    )
    async with db.transaction(app.state.engine) as session:
        await due.fire(session)
    async with client() as anybody:
        told = numbers((await anybody.get("/metrics")).text)
        allow_connections(cluster, database, False)
        away = numbers((await anybody.get("/metrics")).text)
        allow_connections(cluster, database, True)
    assert told["scheduler_http_requests_total", "GET", "/v1/runs/{run_id}", "404"] == 1
    assert told["scheduler_http_requests_total", "POST", "/v1/schedules/{schedule_id}/trigger", "201"] == 1
    assert told["scheduler_runs_active", "queued"] == 1
    assert told["scheduler_runs_active", "waiting"] == 0
    assert told["scheduler_schedules", "active"] == 1
    assert told["scheduler_runs_ended_last_hour", "backup", "missed"] == 1
    assert told["scheduler_runs_ended_last_hour", "backup", "failed"] == 0
    assert told["scheduler_alarms_open", "stale"] == 1
    assert 0 <= told["scheduler_oldest_wake_seconds",] < 60
    assert 3600 <= told["scheduler_last_proven_backup_age_seconds",] < 3700
    assert away["scheduler_runs_active", "queued"] != away["scheduler_runs_active", "queued"], "NaN: nobody knows"


async def test_a_worker_tells_how_it_is_on_a_port_of_its_own(chain: Chain) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient() as http:

        async def ready() -> bool:
            with suppress(httpx.ConnectError):  # it has not begun to listen
                return (await http.get(f"{url}/readyz")).status_code == 200
            return False

        async with chain.work(HOLDFAST_STATUS_ADDRESS=f"127.0.0.1:{port}"):
            await until(ready)
            await chain.ended(await chain.trigger())
            assert (await http.get(f"{url}/livez")).json() == {"status": "up"}
            told = numbers((await http.get(f"{url}/metrics")).text)
        with pytest.raises(httpx.ConnectError):
            await http.get(f"{url}/livez")
    for stage in ("dispatched", "claimed", "accepted"):
        assert told["scheduler_run_lateness_seconds_count", stage] == 1
    assert told["scheduler_step_seconds_count", "backup"] >= 2
    assert told["scheduler_tick_seconds_count",] >= 1


async def test_a_worker_without_redis_is_not_ready(chain: Chain) -> None:
    port = free_port()
    redis = "redis://127.0.0.1:9/0"
    async with (
        chain.work(HOLDFAST_STATUS_ADDRESS=f"127.0.0.1:{port}", HOLDFAST_REDIS_URL=redis),
        httpx.AsyncClient() as http,
    ):

        async def says_so() -> bool:
            with suppress(httpx.ConnectError):
                answer = await http.get(f"http://127.0.0.1:{port}/readyz")
                assert answer.status_code == 503
                return "Redis" in answer.json()["status"]
            return False

        await until(says_so)


async def test_the_trace_of_a_run_goes_to_the_gateway_and_the_collector(chain: Chain, collector: Collector) -> None:
    url = f"http://127.0.0.1:{collector.server_port}"
    async with chain.work(HOLDFAST_OTLP_ENDPOINT=url):
        run = await chain.ended(await chain.trigger())
    sent = [call.headers["traceparent"].split("-") for call in chain.gateway.calls]
    assert {trace_id for _, trace_id, *_ in sent} == {UUID(run["id"]).hex} == {run["trace_id"]}
    spans = [span for span in collector.spans if span.trace_id.hex() == run["trace_id"]]
    assert {span.name for span in spans} == {"step backup"}
    assert {span.span_id.hex() for span in spans} == {span_id for _, _, span_id, _ in sent}


async def test_a_run_has_its_trace_without_a_collector(chain: Chain) -> None:
    async with chain.work():
        run = await chain.ended(await chain.trigger())
    assert {call.headers["traceparent"][3:35] for call in chain.gateway.calls} == {run["trace_id"]}


async def test_a_request_is_a_span_in_its_callers_trace(database_url: str, collector: Collector) -> None:
    url = f"http://127.0.0.1:{collector.server_port}"
    app = create_app(Settings.from_env({"HOLDFAST_DATABASE_URL": database_url, "HOLDFAST_OTLP_ENDPOINT": url}))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://scheduler.test") as http:
            await http.get("/v1/runs", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    (span,) = collector.spans
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("GET /v1/runs", TRACE, PARENT)
