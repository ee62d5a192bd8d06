"""What surrounds every request: its id, its line in the log, its limits, and the last resort."""

import logging
import re
from time import perf_counter
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler import logs, problems
from scheduler.errors import SchedulerError
from scheduler.metrics import ApiMetrics
from scheduler.traces import Traces

HEADER = "X-Request-Id"
_ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,64}")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLOSED_BY_CLIENT = 499  # as NGINX writes it: nobody waits for the answer any more
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)

log = logging.getLogger(__name__)
access = logging.getLogger("scheduler.access")


class Edge:
    """Takes the request's `X-Request-Id`, or makes one, and gives it back. Counts, logs and traces each request, once.

    Nothing raised passes it: it answers 500.
    """

    def __init__(self, app: ASGIApp, metrics: ApiMetrics, traces: Traces) -> None:
        self.app = app
        self.metrics = metrics
        self.traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, started, status = Headers(scope=scope), perf_counter(), 0
        given, traceparent = headers.get(HEADER, ""), headers.get("traceparent", "")
        request_id = given if _ACCEPTED.fullmatch(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        ids = {"request_id": request_id}
        if traced := _TRACEPARENT.fullmatch(traceparent):
            ids["trace_id"] = traced[1]
        method = (
            scope["method"] if scope["method"] in METHODS else "OTHER"
        )  # whoever makes some up makes no time series
        span = self.traces.request(method, traceparent)
        entered = logs.IDS.set(ids)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise  # the server cuts the connection, so that half an answer is not taken for a whole one
            await problems.response(SchedulerError("It has been logged under this request id."), request_id)(
                scope, receive, send_with_id
            )
        finally:
            status = status or CLOSED_BY_CLIENT
            name, seconds = route(scope), perf_counter() - started
            self.metrics.answered(method, name, status, seconds)
            if span:
                self.traces.ended(span, name, method, status, request_id)
            told = {"method": method, "route": name, "status": status, "seconds": round(seconds, 6)}
            access.info("request", extra={"fields": told | {"token": scope["state"].get("caller")}})
            logs.IDS.reset(entered)


def route(scope: Scope) -> str:
    """Its template, `/v1/runs/{run_id}`; never the path, of which there are as many as clients like."""
    if chosen := scope.get("fastapi", {}).get("effective_route_context") or scope.get("route"):
        return str(chosen.path_format)
    if mounted := scope.get("root_path"):  # all of the console is one
        return str(mounted)
    # What the framework itself serves, as /docs, has an endpoint and no route; then the path is a literal.
    return str(scope["path"]) if "endpoint" in scope and not scope.get("path_params") else "unmatched"


class BodyLimit:
    """Ends the reading of a body at `max_bytes`, with a 413, however it is framed."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes or (announced.isdecimal() and int(announced) > self.max_bytes):
                raise HTTPException(413, f"A body may have {self.max_bytes} bytes.")
            return message

        await self.app(scope, receive_within_limit, send)
