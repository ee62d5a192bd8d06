"""Errors on the wire: application/problem+json, RFC 9457. The one place that renders them, and documents them."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from scheduler.errors import BodyTooLarge, InvalidRequest, MalformedRequest, SchedulerError
from scheduler.schemas import InvalidPart, Problem

MEDIA_TYPE = "application/problem+json"
_DOCUMENTED = "application/json"  # the framework documents one type for all answers; `document` sets it right
# Of a client's own input, a problem repeats only so much.
_MAX_PARTS = 20
_MAX_CHARACTERS = 200
METHODS = ("DELETE", "GET", "PATCH", "POST")
# The framework reads bodies, and lets only its own exception pass: 400 for one that is no UTF-8 or nested too deeply.
_READING_FAILED: dict[int, type[SchedulerError]] = {400: MalformedRequest, 413: BodyTooLarge}


def handle(app: FastAPI) -> None:
    """Have `app` answer with problems, whatever raised: we, the framework, or the router."""
    app.add_exception_handler(SchedulerError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)


def response(error: SchedulerError, request_id: str, parts: list[InvalidPart] | None = None) -> Response:
    problem = Problem(
        type=f"/problems/{error.type}",
        title=title(type(error)),
        status=error.status,
        detail=error.detail,
        request_id=request_id,
        errors=parts,
    )
    return _rendered(problem, error.headers)


def documented(*errors: type[SchedulerError]) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: each status with what it may mean."""
    found: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        answer = found.setdefault(error.status, {"model": Problem, "description": "", "content": {_DOCUMENTED: {}}})
        answer["description"] += f"`{error.type}`: {title(error)}\n\n"
        said = {"type": f"/problems/{error.type}", "title": title(error), "status": error.status}
        example = {"value": said | {"detail": "What is wrong here, and what to do.", "request_id": "8e03978e40d543dd"}}
        answer["content"][_DOCUMENTED].setdefault("examples", {})[error.type] = example
    for answer in found.values():
        answer["description"] = answer["description"].strip()
    return found


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, SchedulerError)
    return response(error, request.state.request_id)


async def _invalid(request: Request, error: Exception) -> Response:
    """400 for what cannot be understood, 422 for what is understood and not allowed."""
    assert isinstance(error, RequestValidationError)
    wrong = sorted(error.errors(), key=_is_understood)  # what cannot be understood is told first
    kind = InvalidRequest if _is_understood(wrong[0]) else MalformedRequest
    parts = [_part(e, error.body) for e in wrong[:_MAX_PARTS]]
    return response(kind(parts[0].detail), request.state.request_id, parts)


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if kind := _READING_FAILED.get(error.status_code):
        return response(kind(error.detail), request.state.request_id)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    plain = Problem(
        type="about:blank",
        title=HTTPStatus(error.status_code).phrase,
        status=error.status_code,
        detail=error.detail,
        request_id=request.state.request_id,
    )
    return _rendered(plain, headers)


def _allowed(request: Request) -> list[str]:
    """By all routes of the path: the router names only those of the first."""
    routes, scope = request.app.router.routes, request.scope
    return [m for m in METHODS if any(r.matches({**scope, "method": m})[0] is Match.FULL for r in routes)]


def _rendered(problem: Problem, headers: dict[str, str]) -> Response:
    return JSONResponse(problem.model_dump(exclude_none=True), problem.status, headers, MEDIA_TYPE)


def title(error: type[SchedulerError] | SchedulerError) -> str:
    return (error.__doc__ or "").splitlines()[0]


def _is_understood(error: dict[str, Any]) -> bool:
    unknown_parameter = error["type"] == "extra_forbidden" and error["loc"][0] == "query"
    return not (error["type"] in {"json_invalid", "given_twice", "body_not_taken"} or unknown_parameter)


def _part(error: dict[str, Any], body: Any) -> InvalidPart:
    place, *path = error["loc"]
    if error["type"] == "json_invalid":
        return InvalidPart(pointer="#", code="json_invalid", detail=f"{error['ctx']['error']} at character {path[0]}.")
    if place == "body":
        where = {"pointer": _pointer(_in(body, path))}
    else:
        where = {"header" if place == "header" else "parameter": str(path[0])[:_MAX_CHARACTERS]}
    return InvalidPart(**where, code=error["type"], detail=f"{error['msg']}.")


def _in(body: Any, path: Sequence[str | int]) -> list[str | int]:
    """Without the names of alternatives, which are no place in the body."""
    *way, last = path or ("",)
    kept: list[str | int] = []
    for part in way:
        if isinstance(part, int) or (isinstance(body, dict) and part in body):
            kept.append(part)
            body = body[part] if isinstance(body, dict | list) else None  # type: ignore[index]
    return [*kept, last] if path else []


def _pointer(path: Sequence[str | int]) -> str:
    """RFC 6901, as the fragment of an URI."""
    escaped = [quote(str(part)[:_MAX_CHARACTERS].replace("~", "~0").replace("/", "~1")) for part in path]
    return "/".join(["#", *escaped])
