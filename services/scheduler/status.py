"""How a worker is: /livez, /readyz and /metrics, on a port of its own, for whoever runs it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scheduler import metrics
from scheduler.metrics import WorkMetrics

LATELY_SECONDS = 20.0


class Status:
    """`ticked` and `reached_redis` are called whenever it was so."""

    def __init__(self, counted: WorkMetrics) -> None:
        self.metrics = counted
        self._ticked = self._reached = -LATELY_SECONDS

    def ticked(self) -> None:
        self._ticked = monotonic()

    def reached_redis(self) -> None:
        self._reached = monotonic()

    @property
    def ticks(self) -> bool:
        return monotonic() - self._ticked <= LATELY_SECONDS

    def missing(self) -> str | None:
        """Why it is not ready."""
        if not self.ticks:
            return "It has not ticked lately: see whether PostgreSQL is up."
        if monotonic() - self._reached > LATELY_SECONDS:
            return "It has not reached Redis lately."
        return None


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are the worker's."""
        yield


@asynccontextmanager
async def serving(address: str, status: Status) -> AsyncIterator[None]:
    """Without an address it listens nowhere. A port that is taken ends the process, with what uvicorn says."""
    if not address:
        yield
        return

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "up"})

    async def readyz(_: Request) -> Response:
        missing = status.missing()
        return JSONResponse({"status": missing or "ready"}, 503 if missing else 200)

    async def exposed(_: Request) -> Response:
        return metrics.exposed(status.metrics.registry)

    routes = [Route(f"/{each.__name__}", each) for each in (livez, readyz)] + [Route("/metrics", exposed)]
    app = Starlette(routes=routes)
    host, _, port = address.rpartition(":")
    config = uvicorn.Config(app, host.strip("[]"), int(port), access_log=False, lifespan="off", log_config=None)
    server = _Server(config)
    running = asyncio.create_task(server.serve())
    while not (server.started or running.done()):  # noqa: ASYNC110 - uvicorn sets no event
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await running
