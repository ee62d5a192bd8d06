"""A request and its answer, as those see them who count, log and trace: no query, no content, and no token."""

import re
from contextvars import ContextVar
from time import perf_counter
from typing import Any
from uuid import UUID

from starlette.types import Scope

UNMATCHED = "unmatched"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLOSED_BY_CLIENT = 499  # as NGINX writes it: nobody waits for the answer any more
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


class Exchange:
    """Of one request. `answer_headers` go with its answer, whoever gives it."""

    __slots__ = ("answer_headers", "method", "request_id", "scope", "span", "started", "status", "token_id", "trace_id")

    def __init__(self, scope: Scope, request_id: str, traceparent: str) -> None:
        traced = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
        method = scope["method"]
        self.scope = scope
        self.request_id = request_id
        self.trace_id = traced[1] if traced else ""
        self.method = method if method in METHODS else "OTHER"  # whoever makes methods up makes no time series
        self.answer_headers: list[tuple[bytes, bytes]] = [(b"x-request-id", request_id.encode())]
        self.status = 0
        self.token_id: UUID | None = None
        self.span: Any = None
        self.started = perf_counter()

    @property
    def route(self) -> str:
        """Its template, `/v1/notes/{note_id}`; never the path, of which there are as many as clients like."""
        scope = self.scope
        if chosen := scope.get("fastapi", {}).get("effective_route_context") or scope.get("route"):
            return str(chosen.path_format)
        if mounted := scope.get("root_path"):  # all of the console is one
            return str(mounted)
        # What the framework itself serves, as /docs, has an endpoint and no route; then the path is a literal.
        return str(scope["path"]) if "endpoint" in scope and not scope.get("path_params") else UNMATCHED


current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)
