"""What surrounds every request: its id, its line in the log, its limits, and the last resort.

All of it is plain ASGI. The framework's own limit of the body answers in plain text.
"""

import logging
import re
from collections.abc import Collection, Mapping
from secrets import token_hex

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from notes_api import logs, problems
from notes_api.errors import HeadersTooLarge, NotesError, TargetTooLong
from notes_api.exchange import CLOSED_BY_CLIENT, Exchange, current
from notes_api.metrics import Metrics
from notes_api.traces import Traces

MAX_TARGET_BYTES = 8 * 1024  # of path and query; NGINX has the same
MAX_HEADERS = 100
MAX_HEADERS_BYTES = 32 * 1024
_ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

log = logging.getLogger(__name__)


class Edge:
    """Takes the request's `X-Request-Id`, or makes one, and gives it back. Counts, logs and traces each request, once.

    Nothing raised passes it: it answers with what it is, or 500.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, traces: Traces | None) -> None:
        self.app = app
        self.metrics = metrics
        self.traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = self._begin(scope)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *exchange.answer_headers]
            await send(message)

        entered = current.set(exchange)
        self.metrics.began()
        try:
            await self.app(scope, receive, answer)
        except Exception as error:
            if exchange.status or not isinstance(error, NotesError):
                log.exception("request %s failed", exchange.request_id)
            if exchange.status:
                raise  # the server cuts the connection, so that half an answer is not taken for a whole one
            told = error if isinstance(error, NotesError) else NotesError("It has been logged under this request id.")
            await problems.response(told, exchange.request_id)(scope, receive, answer)
        finally:
            self._end(exchange)
            current.reset(entered)

    def _begin(self, scope: Scope) -> Exchange:
        given = traceparent = tracestate = b""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given = given or value
            elif name == b"traceparent":
                traceparent = value
            elif name == b"tracestate":
                tracestate = value
        request_id = given.decode("latin-1")
        if not _ACCEPTED.fullmatch(request_id):
            request_id = token_hex(16)
        exchange = Exchange(scope, request_id, traceparent.decode("latin-1"))
        scope.setdefault("state", {}).update(request_id=request_id, exchange=exchange)
        if self.traces:
            self.traces.began(exchange, traceparent.decode("latin-1"), tracestate.decode("latin-1"))
        return exchange

    def _end(self, exchange: Exchange) -> None:
        exchange.status = exchange.status or CLOSED_BY_CLIENT
        self.metrics.ended(exchange)
        if self.traces:
            self.traces.ended(exchange)
        logs.access(exchange)


class HeadLimit:
    """Refuses what is too long before the body. The server has read it by then; NGINX reads no more either."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises TargetTooLong and HeadersTooLarge, to the edge."""
        if scope["type"] == "http":
            if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET_BYTES:
                raise TargetTooLong(f"Path and query may have {MAX_TARGET_BYTES} bytes.")
            headers = scope["headers"]
            if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADERS_BYTES:
                raise HeadersTooLarge(f"There may be {MAX_HEADERS} headers, of {MAX_HEADERS_BYTES} bytes together.")
        await self.app(scope, receive, send)


class BodyLimit:
    """Ends the reading of a body at `max_bytes`, with a 413, however it is framed; of the paths in `larger` at those.

    Routes in `unlimited` read what they are sent bit by bit.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, unlimited: Collection[str], larger: Mapping[str, int] | None = None
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.unlimited = unlimited
        self.larger = larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self.unlimited:
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        max_bytes = self.larger.get(scope["path"], self.max_bytes)
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes or (announced.isdecimal() and int(announced) > max_bytes):
                raise HTTPException(413, f"A body may have {max_bytes} bytes.")
            return message

        await self.app(scope, receive_within_limit, send)
