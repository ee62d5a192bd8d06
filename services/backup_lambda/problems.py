"""Errors as application/problem+json (RFC 9457), rendered here and nowhere else."""

import inspect
import logging
import re
import secrets
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from backup_lambda.errors import BackupsError, InvalidRequest
from backup_lambda.schemas import Problem, ProblemError

CLIENTS_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
log = logging.getLogger(__name__)


def add_to(app: FastAPI) -> None:
    @app.middleware("http")
    async def echo_request_id(request: Request, call_next: Any) -> Response:
        request.state.request_id = request_id_of(request)
        response: Response = await call_next(request)
        response.headers["X-Request-Id"] = request.state.request_id
        return response

    app.add_exception_handler(BackupsError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    for status in (400, 404, 405):
        app.add_exception_handler(status, _http)
    app.add_exception_handler(Exception, _unknown)


def request_id_of(request: Request) -> str:
    """The gateway's id, which its own log has too; else the client's, if it is one; else a new one."""
    event = request.scope.get("aws.event") or {}
    if gateways := event.get("requestContext", {}).get("requestId"):
        return str(gateways)
    clients = request.headers.get("X-Request-Id", "")
    return clients if CLIENTS_REQUEST_ID.fullmatch(clients) else secrets.token_hex(16)


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, BackupsError)
    if error.status >= 500:
        log.error("%s: %s", type(error).__name__, error)
    return _problem(request, error.status, error.type, inspect.getdoc(type(error)) or "", detail=error.detail)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        ProblemError(pointer="/" + "/".join(map(str, each["loc"])), code=each["type"], detail=each["msg"])
        for each in error.errors()
    ]
    title = inspect.getdoc(InvalidRequest) or ""
    detail = "; ".join(f"{each.pointer}: {each.detail}" for each in errors)
    return _problem(request, InvalidRequest.status, InvalidRequest.type, title, detail=detail, errors=errors)


async def _http(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)  # a Starlette HTTPException, whose class FastAPI does not hand on
    kind = {404: "not-found", 405: "method-not-allowed"}.get(status, "malformed-request")
    title = {404: "There is nothing at this path.", 405: "This path has no such method."}.get(status, "Malformed.")
    response = _problem(request, status, kind, title, detail=str(getattr(error, "detail", "")))
    response.headers.update(getattr(error, "headers", None) or {})
    return response


async def _unknown(request: Request, error: Exception) -> Response:
    # The error itself is logged by Mangum, with its trace.
    return _problem(request, 500, BackupsError.type, inspect.getdoc(BackupsError) or "", detail="It was logged.")


def _problem(
    request: Request, status: int, kind: str, title: str, *, detail: str, errors: list[ProblemError] | None = None
) -> Response:
    request_id = getattr(request.state, "request_id", None) or request_id_of(request)
    problem = Problem(type=kind, title=title, status=status, detail=detail, request_id=request_id, errors=errors)
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status,
        {"X-Request-Id": request_id},
        media_type="application/problem+json",
    )
