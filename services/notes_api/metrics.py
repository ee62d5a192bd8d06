"""Metrics in the format of Prometheus, at /metrics: for whoever runs the service. NGINX hides it."""

import math
from time import perf_counter

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from notes_api import db
from notes_api.db import Pool
from notes_api.errors import DatabaseUnavailable
from notes_api.exchange import Exchange

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_MAX_WAITING = 100_000  # counted so far, since a scrape should be cheap when much waits
_WAITING = f"select count(*) from (select from notes.outbox limit {_MAX_WAITING})"  # noqa: S608  # a constant

router = APIRouter(include_in_schema=False)


class Metrics:
    """Of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route")
        self._requests = Counter(
            "notes_http_requests", "Requests that were answered.", (*labels, "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "notes_http_request_seconds", "From a request's head to its answer's end.", labels, buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._in_flight = Gauge(
            "notes_http_requests_in_flight", "Requests that are being answered.", registry=self.registry
        )
        self._connections = Gauge(
            "notes_database_connections", "Connections of the pool.", ("state",), registry=self.registry
        )
        self._most = Gauge("notes_database_connections_max", "How many there may be.", registry=self.registry)
        self._waiting = Gauge(
            "notes_outbox_waiting",
            f"Changes not yet told to the topic; {_MAX_WAITING} at most.",
            registry=self.registry,
        )
        # By what labels() would look up again for each request, for more than the rest costs.
        self._counters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def began(self) -> None:
        self._in_flight.inc()

    def ended(self, exchange: Exchange) -> None:
        self._in_flight.dec()
        key = exchange.method, exchange.route, exchange.status
        if (found := self._counters.get(key)) is None:
            method, route, status = key
            found = self._requests.labels(method, route, str(status)), self._seconds.labels(method, route)
            self._counters[key] = found
        counter, seconds = found
        counter.inc()
        seconds.observe(perf_counter() - exchange.started)

    async def look(self, pool: Pool) -> None:
        """At what is not counted by request."""
        self._most.set(pool.get_max_size())
        self._connections.labels("idle").set(pool.get_idle_size())
        self._connections.labels("used").set(pool.get_size() - pool.get_idle_size())
        try:
            async with db.connected(pool) as connection:
                self._waiting.set(await connection.fetchval(_WAITING))
        except DatabaseUnavailable:
            self._waiting.set(math.nan)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Answers while the database is away, too."""
    counted: Metrics = request.app.state.metrics
    await counted.look(request.app.state.pool)
    return Response(generate_latest(counted.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
