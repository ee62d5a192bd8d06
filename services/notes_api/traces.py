"""Traces by OpenTelemetry, to a collector that speaks OTLP over HTTP: a span per request, and one per SQL statement.

FastAPI would make spans itself, but writes the query into them, which holds what somebody searched for.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import time_ns
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from notes_api.exchange import Exchange, current

EXPORT_SECONDS = 5


class Traces:
    def __init__(self, endpoint: str) -> None:
        """`endpoint`: the collector's base URL, to which /v1/traces is added, as OTEL_EXPORTER_OTLP_ENDPOINT has it."""
        self._provider = TracerProvider(resource=Resource.create({"service.name": "notes_api"}), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("notes_api")

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Sends what is left when the process ends. A collector that is away holds it up for a few seconds."""
        try:
            yield
        finally:
            await asyncio.to_thread(self._provider.shutdown)

    def began(self, exchange: Exchange, traceparent: str, tracestate: str) -> None:
        parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent, "tracestate": tracestate})
        span = self._tracer.start_span(exchange.method, parent, SpanKind.SERVER)
        exchange.span = span
        exchange.trace_id = format(span.get_span_context().trace_id, "032x")

    def ended(self, exchange: Exchange) -> None:
        span, route = exchange.span, exchange.route
        span.update_name(f"{exchange.method} {route}")
        span.set_attributes(
            {
                "http.request.method": exchange.method,
                "http.route": route,
                "http.response.status_code": exchange.status,
                "holdfast.request_id": exchange.request_id,
            }
        )
        if exchange.status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    def statement(self, logged: Any) -> None:
        """A query logger of asyncpg. The text of our statements has parameters in place of values."""
        exchange = current.get()
        if exchange is None or exchange.span is None:
            return
        ended = time_ns()
        text = " ".join(logged.query.split())
        span = self._tracer.start_span(
            text.partition(" ")[0].upper(),
            trace.set_span_in_context(exchange.span),
            SpanKind.CLIENT,
            {"db.system.name": "postgresql", "db.query.text": text},
            start_time=ended - int(logged.elapsed * 1e9),
        )
        if logged.exception is not None:
            span.set_attribute("error.type", type(logged.exception).__qualname__)
            span.set_status(StatusCode.ERROR)
        span.end(ended)
