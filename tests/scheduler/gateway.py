"""A stand-in for the backup API behind its gateway: a real HTTP server, which does as a test tells it."""

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

NOW = "2026-11-22T02:00:00Z"
CANCELLED = {"state": "cancelled", "reason": "cancelled by a person", "announced": True}


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    headers: dict[str, str]
    body: Any

    @classmethod
    async def of(cls, request: Request) -> "Call":
        body = await request.body()
        return cls(request.method, request.url.path, dict(request.headers), json.loads(body) if body else None)


@dataclass
class Gateway:
    """Without being told otherwise it takes every backup, one per key, and says that it is `outcome`."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    instead: deque[Response] = field(default_factory=deque)  # the next answers, in place of what it would say
    backups: dict[str, str] = field(default_factory=dict)  # id by key
    outcome: dict[str, Any] = field(default_factory=lambda: {"state": "stored"})
    open: asyncio.Event = field(default_factory=asyncio.Event)  # while it is not set, nobody gets an answer
    loses_answers: bool = False  # does what a POST asks for, and then says 504
    listed: list[dict[str, Any]] = field(default_factory=list)  # newest first; shown as they stand here
    page: int = 100
    to_expire: list[str] = field(default_factory=list)
    to_clean: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    applied_at_once: int = 1000  # of those that expire

    @property
    def keys(self) -> list[str]:
        """Of every backup that was asked for, in their order."""
        return [call.headers["idempotency-key"] for call in self.calls if (call.method, call.path) == ASKED_FOR]

    @property
    def asked(self) -> list[str]:
        return [f"{call.method} {call.path.removeprefix('/v1')}" for call in self.calls]

    def routes(self) -> list[Route]:
        answers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "POST /backups": self.start,
            "GET /backups": self.list,
            "GET /backups/before/{id}": self.list,
            "GET /backups/{id}": self.show,
            "POST /backups/{id}/cancel": self.cancel,
            "POST /backups/{id}/proofs": self.prove,
            "GET /retention": self.plan,
            "POST /retention": self.apply,
        }
        return [
            Route(f"/v1{path}", self.told(answer), methods=[method])
            for (method, path), answer in ((each.split(), answer) for each, answer in answers.items())
        ]

    def told(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def told(request: Request) -> Response:
            self.calls.append(await Call.of(request))
            await self.open.wait()
            if self.instead:
                return self.instead.popleft()
            response = await answer(request)
            return Response("upstream timed out", 504) if self.loses_answers and request.method == "POST" else response

        return told

    async def start(self, request: Request) -> Response:
        key = request.headers["idempotency-key"]
        backup = self.backups.setdefault(key, f"20261122T020000Z-{len(self.backups):08x}")
        headers = {"Location": f"backups/{backup}"}
        return JSONResponse({"id": backup, "state": "queued", "created_at": NOW, "reason": None}, 202, headers)

    async def list(self, request: Request) -> Response:
        before = request.path_params.get("id", "~")
        found = [each for each in self.listed if each["id"] < before]
        more = len(found) > self.page
        cursor = found[self.page - 1]["id"] if more else None
        return JSONResponse({"items": found[: self.page], "next_cursor": cursor, "has_more": more})

    def shown(self, backup_id: str) -> dict[str, Any]:
        told = {"id": backup_id, "created_at": NOW, "progress": None, "reason": None, **self.outcome}
        return next((each for each in self.listed if each["id"] == backup_id), told)

    async def show(self, request: Request) -> Response:
        return JSONResponse(self.shown(request.path_params["id"]))

    async def cancel(self, request: Request) -> Response:
        backup = self.shown(request.path_params["id"])
        if backup["state"] not in ("queued", "running"):
            return problem(409, f"It is {backup['state']}: there is nothing left to cancel.")
        self.outcome = CANCELLED
        return JSONResponse(backup | {"reason": "it is being cancelled"}, 202)

    async def prove(self, request: Request) -> Response:
        backup = self.shown(request.path_params["id"])
        if backup["state"] == "expired":
            return problem(410, "Retention removed its data.")
        if backup["progress"] is not None:
            return problem(409, "Ask again when that has ended: a proof of it is being made.")
        backup["progress"] = {"stage": "restoring", "rows": 1, "bytes": 10, "percent": 5}
        return JSONResponse({"backup_id": backup["id"], "number": newest_proof(backup) + 1}, 202)

    def proved(self, backup_id: str, verdict: str = "proven", reason: str | None = None) -> None:
        """The proof that was asked for has ended."""
        backup = self.shown(backup_id)
        which = "unfinished_proof" if verdict == "unfinished" and backup["proof"] else "proof"
        backup[which] = proof(newest_proof(backup) + 1, verdict, datetime.now(UTC).isoformat(), reason)
        backup |= {"progress": None, "reason": reason, "announced": True}
        backup["state"] = {"unfinished": backup["state"]}.get(verdict, verdict)

    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.to_expire, self.to_clean]).encode()).hexdigest()

    async def plan(self, request: Request) -> Response:
        counts = {"keep": 3, "expire": len(self.to_expire), "clean": len(self.to_clean)}
        return JSONResponse({"digest": self.digest(), **counts})

    async def apply(self, request: Request) -> Response:
        if (digest := (await request.json())["digest"]) != self.digest():
            return problem(409, "Backups were made, proven or removed since.")
        now, self.to_expire = self.to_expire[: self.applied_at_once], self.to_expire[self.applied_at_once :]
        cleaned, self.to_clean = ([], self.to_clean) if self.to_expire else (self.to_clean, [])
        done = {"expired": now, "cleaned": cleaned, "left": self.left, "complete": not self.to_expire}
        return JSONResponse({"digest": digest, "objects_deleted": 4, **done})


ASKED_FOR = ("POST", "/v1/backups")


@asynccontextmanager
async def serving() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    gateway.open.set()
    async with listening(Starlette(routes=gateway.routes())) as (host, port):
        gateway.url = f"http://{host}:{port}/v1"
        yield gateway
        gateway.open.set()


@asynccontextmanager
async def listening(app: ASGIApp, **options: Any) -> AsyncIterator[tuple[str, int]]:
    """The host and the port of a server; `options` are uvicorn's."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error", **options))
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn sets no event
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        await running


def problem(status: int, detail: str, **headers: str) -> Response:
    body = {"type": "x", "title": "X", "status": status, "detail": detail}
    return JSONResponse(body, status, headers, "application/problem+json")


def proof(number: int, verdict: str, ended_at: str, reason: str | None = None) -> dict[str, Any]:
    return {"number": number, "verdict": verdict, "ended_at": ended_at, "reason": reason}


def a_backup(backup_id: str, state: str = "proven", proven_at: str | None = None, number: int = 1) -> dict[str, Any]:
    """As it is listed; its last proof ended at `proven_at`."""
    told = proof(number, "proven", proven_at) if proven_at else None
    return {"id": backup_id, "state": state, "created_at": NOW, "progress": None, "proof": told, "reason": None}


def newest_proof(backup: dict[str, Any]) -> int:
    return max((each["number"] for name in ("proof", "unfinished_proof") if (each := backup.get(name))), default=0)
