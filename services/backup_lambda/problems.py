"""Errors as application/problem+json (RFC 9457), rendered here and nowhere else."""

import inspect
import logging
import re
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from backup_lambda.errors import BackupsError, InvalidRequest, MalformedRequest
from backup_lambda.schemas import Problem, ProblemError

# Of a client's own input, a problem repeats only so much.
MAX_PARTS = 20
MAX_CHARACTERS = 200
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
    return _ours(request, type(error), error.detail)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = error.errors()
    kind = MalformedRequest if any(each["type"] == "json_invalid" for each in wrong) else InvalidRequest
    parts = [_part(each) for each in wrong[:MAX_PARTS]]
    return _ours(request, kind, parts[0].detail, parts)


async def _http(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)  # a Starlette HTTPException, whose class FastAPI does not hand on
    detail = str(getattr(error, "detail", ""))
    if status == MalformedRequest.status:  # the framework reads the body: it is no UTF-8, or nested too deeply
        return _ours(request, MalformedRequest, detail)
    response = _problem(request, "about:blank", HTTPStatus(status).phrase, status, detail)
    response.headers.update(getattr(error, "headers", None) or {})
    return response


async def _unknown(request: Request, error: Exception) -> Response:
    # The error itself is logged by Mangum, with its trace.
    return _ours(request, BackupsError, "It was logged.")


def _part(error: dict[str, Any]) -> ProblemError:
    place, *path = error["loc"]
    if error["type"] == "json_invalid":
        return ProblemError(pointer="#", code="json_invalid", detail=f"{error['ctx']['error']} at character {path[0]}.")
    where = {"pointer": _pointer(path)} if place == "body" else {"parameter": str(path[0])}
    return ProblemError(**where, code=error["type"], detail=f"{error['msg']}.")


def _pointer(path: Sequence[str | int]) -> str:
    """RFC 6901, as the fragment of an URI."""
    names = [str(part)[:MAX_CHARACTERS].replace("~", "~0").replace("/", "~1") for part in path]
    return "/".join(["#", *(quote(name) for name in names)])


def _ours(
    request: Request, kind: type[BackupsError], detail: str, errors: list[ProblemError] | None = None
) -> Response:
    return _problem(request, f"/problems/{kind.type}", inspect.getdoc(kind) or "", kind.status, detail, errors=errors)


def _problem(
    request: Request, kind: str, title: str, status: int, detail: str, *, errors: list[ProblemError] | None = None
) -> Response:
    request_id = getattr(request.state, "request_id", None) or request_id_of(request)
    problem = Problem(type=kind, title=title, status=status, detail=detail, request_id=request_id, errors=errors)
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status,
        {"X-Request-Id": request_id},
        media_type="application/problem+json",
    )
