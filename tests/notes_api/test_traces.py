"""Traces, as a collector gets them over HTTP."""

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.notes_api.doors import client, new_token
from tests.notes_api.processes import ENDED, served
from tests.servers import Cluster, free_port

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "what-nobody-else-should-read"


class Collector(ThreadingHTTPServer):
    """Keeps what is posted to /v1/traces."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.got: list[ExportTraceServiceRequest] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[Span]:
        return [span for each in self.got for r in each.resource_spans for s in r.scope_spans for span in s.spans]


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        self.server.got.append(ExportTraceServiceRequest.FromString(body))
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


async def test_a_request_and_its_statements_are_spans_of_the_clients_trace(
    app: FastAPI, cluster: Cluster, database: str, collector: Collector, tmp_path: Path
) -> None:
    token = await new_token(app, "notes:read", "notes:write")
    traced = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "the-one"}
    url = cluster.url("notes_app", database)
    with served(tmp_path / "log", url, HOLDFAST_OTLP_ENDPOINT=collector.url) as process:
        async with process.client(token) as ada:
            assert (await ada.post("/v1/notes", json={"title": SECRET}, headers=traced)).status_code == 201
            assert (await ada.get(f"/v1/notes/{SECRET}", params={"q": SECRET})).status_code == 404
        assert process.end() in ENDED
        lines = process.lines()

    spans = collector.spans()
    [post] = [span for span in spans if span.name == "POST /v1/notes"]
    assert (post.trace_id.hex(), post.parent_span_id.hex(), post.kind) == (TRACE, PARENT, Span.SPAN_KIND_SERVER)
    assert attributes(post) == {
        "http.request.method": "POST",
        "http.route": "/v1/notes",
        "http.response.status_code": "201",
        "holdfast.request_id": "the-one",
    }
    statements = [span for span in spans if span.parent_span_id == post.span_id]
    assert {span.name for span in statements} == {"INSERT"}, "who asks is looked up for several requests at once"
    assert all(span.trace_id == post.trace_id for span in statements)
    assert all(0 < span.start_time_unix_nano <= span.end_time_unix_nano for span in statements)
    assert any("insert into notes.notes" in attributes(span)["db.query.text"] for span in statements)

    [nowhere] = [span for span in spans if span.name == "GET unmatched"]
    assert nowhere.trace_id != post.trace_id, "a request that came without a trace begins one"
    logged = {line["route"]: line.get("trace_id") for line in lines if line["logger"] == "notes_api.access"}
    assert logged["unmatched"] == nowhere.trace_id.hex()
    sent = "".join(map(str, collector.got))
    assert SECRET not in sent
    assert token.removeprefix("hf_") not in sent


async def test_what_failed_is_marked(
    app: FastAPI, cluster: Cluster, database: str, collector: Collector, tmp_path: Path
) -> None:
    token = await new_token(app, "notes:read", "notes:write")
    cluster.server.psql(database, ["drop table notes.notes cascade"])
    url = cluster.url("notes_app", database)
    with served(tmp_path / "log", url, HOLDFAST_OTLP_ENDPOINT=collector.url) as process:
        async with process.client(token) as ada:
            assert (await ada.post("/v1/notes", json={"title": "x"})).status_code == 500
        process.end()
    failed = {span.name for span in collector.spans() if span.status.code == Status.STATUS_CODE_ERROR}
    assert failed == {"POST /v1/notes", "INSERT"}


async def test_a_collector_that_is_away_costs_no_request(
    app: FastAPI, cluster: Cluster, database: str, tmp_path: Path
) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with served(tmp_path / "log", cluster.url("notes_app", database), HOLDFAST_OTLP_ENDPOINT=away) as process:
        async with process.client(await new_token(app, "notes:write")) as ada:
            for _ in range(3):
                assert (await ada.post("/v1/notes", json={"title": "x"})).status_code == 201
        assert process.end() in ENDED


@pytest.mark.parametrize(
    "traceparent",
    ["", "x", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{PARENT}-01", "é" * 55],
)
async def test_a_strange_traceparent_is_none(app: FastAPI, traceparent: str) -> None:
    async with client(app) as anybody:
        headers = httpx.Headers({"traceparent": traceparent}, encoding="utf-8")
        assert (await anybody.get("/livez", headers=headers)).status_code == 200


def attributes(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value or str(each.value.int_value) for each in span.attributes}
