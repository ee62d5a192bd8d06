"""Errors on the wire: application/problem+json, RFC 9457. The one place that renders them, and documents them."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from scheduler.errors import InvalidRequest, MalformedRequest, SchedulerError
from scheduler.schemas import InvalidPart, Problem

MEDIA_TYPE = "application/problem+json"
# Of a client's own input, a problem repeats only so much.
_MAX_PARTS = 20
_MAX_CHARACTERS = 200
_NOT_UNDERSTOOD = {"extra_forbidden", "given_twice", "body_not_taken"}


def handle(app: FastAPI) -> None:
    """Have `app` answer with problems, whatever raised: we, the framework, or the router."""
    app.add_exception_handler(SchedulerError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)


def response(error: SchedulerError, request_id: str, parts: list[InvalidPart] | None = None) -> Response:
    problem = Problem(
        type=f"/problems/{error.type}",
        title=_title(type(error)),
        status=error.status,
        detail=error.detail,
        request_id=request_id,
        errors=parts,
    )
    return _rendered(problem, error.headers)


def documented(*errors: type[SchedulerError]) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: each status with what it may mean."""
    titles: dict[int | str, list[str]] = {}
    for error in errors:
        titles.setdefault(error.status, []).append(f"`{error.type}`: {_title(error)}")
    return {status: {"model": Problem, "description": "\n\n".join(means)} for status, means in titles.items()}


def document(openapi: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document, with the media type of problems set right: it has one per route, that of the answer."""
    for path in openapi["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if status >= "400" and "application/json" in answer["content"]:
                    answer["content"] = {MEDIA_TYPE: answer["content"]["application/json"]}
    return openapi


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, SchedulerError)
    return response(error, request.state.request_id)


async def _invalid(request: Request, error: Exception) -> Response:
    """400 for what cannot be understood, 422 for what is understood and not allowed."""
    assert isinstance(error, RequestValidationError)
    wrong = error.errors()
    kind = MalformedRequest if any(e["type"] in _NOT_UNDERSTOOD for e in wrong) else InvalidRequest
    parts = [_part(e) for e in wrong[:_MAX_PARTS]]
    return response(kind(parts[0].detail), request.state.request_id, parts)


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = Problem(
        type="about:blank",
        title=HTTPStatus(error.status_code).phrase,
        status=error.status_code,
        detail=error.detail,
        request_id=request.state.request_id,
    )
    return _rendered(problem, dict(error.headers or {}))


def _rendered(problem: Problem, headers: dict[str, str]) -> Response:
    return JSONResponse(problem.model_dump(exclude_none=True), problem.status, headers, MEDIA_TYPE)


def _title(error: type[SchedulerError]) -> str:
    return (error.__doc__ or "").splitlines()[0]


def _part(error: dict[str, Any]) -> InvalidPart:
    """No route takes a body yet, so one is wrong as a whole: `#` is a pointer (RFC 6901) to all of it."""
    place, *path = error["loc"]
    where = {"pointer": "#"} if place == "body" else {"parameter": str(path[0])[:_MAX_CHARACTERS]}
    return InvalidPart(**where, code=error["type"], detail=f"{error['msg']}.")
