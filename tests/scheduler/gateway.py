"""A stand-in for the backup API behind its gateway: a real HTTP server, which does as a test tells it."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Gateway:
    """Without being told otherwise it takes every backup, one per key, and says that it is `outcome`."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    instead: deque[Response] = field(default_factory=deque)  # the next answers, in place of what it would say
    backups: dict[str, str] = field(default_factory=dict)  # id by key
    outcome: dict[str, Any] = field(default_factory=lambda: {"state": "stored"})
    open: asyncio.Event = field(default_factory=asyncio.Event)  # while it is not set, nobody gets an answer
    loses_answers: bool = False  # takes the backup, and then says 504

    @property
    def keys(self) -> list[str]:
        """Of every POST, in their order."""
        return [call.headers["idempotency-key"] for call in self.calls if call.method == "POST"]

    async def answer(self, request: Request) -> Response:
        body = await request.body()
        self.calls.append(
            Call(request.method, request.url.path, dict(request.headers), json.loads(body) if body else None)
        )
        await self.open.wait()
        if self.instead:
            return self.instead.popleft()
        if request.method == "GET":
            return JSONResponse({"id": request.path_params["id"], "progress": None, "reason": None, **self.outcome})
        backup = self.backups.setdefault(
            request.headers["idempotency-key"], f"20261122T020000Z-{len(self.backups):08x}"
        )
        if self.loses_answers:
            return Response("upstream timed out", 504)
        headers = {"Location": f"backups/{backup}"}
        return JSONResponse({"id": backup, "state": "queued", "reason": None}, 202, headers)


@asynccontextmanager
async def serving() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    gateway.open.set()
    routes = [
        Route("/v1/backups", gateway.answer, methods=["POST"]),
        Route("/v1/backups/{id}", gateway.answer, methods=["GET"]),
    ]
    config = uvicorn.Config(Starlette(routes=routes), port=0, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn sets no event
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    gateway.url = f"http://{host}:{port}/v1"
    yield gateway
    gateway.open.set()
    server.should_exit = True
    await running


def problem(status: int, detail: str, **headers: str) -> Response:
    body = {"type": "x", "title": "X", "status": status, "detail": detail}
    return JSONResponse(body, status, headers, "application/problem+json")
