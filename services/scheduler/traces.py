"""Traces by OpenTelemetry, to a collector that speaks OTLP over HTTP: a span per request, and one per step of a run.

The id of a run's trace is the run's id: whoever has the one has the other, and what the backup function does for the
run is in the same trace. That holds, and the header is sent, also where no collector is.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

EXPORT_SECONDS = 5


class Traces:
    def __init__(self, endpoint: str = "", service: str = "scheduler") -> None:
        """`endpoint`: the collector's base URL, to which /v1/traces is added; without one nothing is sent."""
        self._provider = None
        if endpoint:
            self._provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
            exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
            self._provider.add_span_processor(BatchSpanProcessor(exporter))

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Sends what is left when the process ends. A collector that is away holds it up for a few seconds."""
        try:
            yield
        finally:
            if self._provider:
                await asyncio.to_thread(self._provider.shutdown)

    def request(self, method: str, traceparent: str) -> Span | None:
        """The caller ends it, by `ended`."""
        if self._provider is None:
            return None
        parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
        return self._provider.get_tracer("scheduler").start_span(method, parent, SpanKind.SERVER)

    def ended(self, span: Span, name: str, method: str, status: int, request_id: str) -> None:
        span.update_name(f"{method} {name}")
        span.set_attributes(
            {
                "http.request.method": method,
                "http.route": name,
                "http.response.status_code": status,
                "holdfast.request_id": request_id,
            }
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    @contextmanager
    def step(self, run_id: UUID, kind: str, seq: int) -> Iterator[str]:
        """The `traceparent` of a step, which is sent with what it asks."""
        if self._provider is None:
            yield f"00-{run_id.hex}-{secrets.token_hex(8)}-01"
            return
        run = SpanContext(run_id.int, run_id.int & (2**64 - 1), is_remote=True, trace_flags=TraceFlags(1))
        span = self._provider.get_tracer("scheduler").start_span(
            f"step {kind}",
            trace.set_span_in_context(NonRecordingSpan(run)),
            SpanKind.CLIENT,
            {"holdfast.run_id": str(run_id), "holdfast.step": seq},
        )
        try:
            yield f"00-{run_id.hex}-{span.get_span_context().span_id:016x}-01"
        finally:
            span.end()
