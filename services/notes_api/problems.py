"""Errors on the wire: application/problem+json, RFC 9457. The one place that renders them, and documents them."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from notes_api.errors import BodyTooLarge, InvalidRequest, MalformedRequest, NotesError
from notes_api.schemas import InvalidPart, Problem

MEDIA_TYPE = "application/problem+json"
# Of a client's own input, a problem repeats only so much.
_MAX_PARTS = 20
_MAX_CHARACTERS = 200
# The framework reads bodies, and lets only its own exception pass: 400 for one that is no UTF-8 or nested too deeply.
_READING_FAILED: dict[int, type[NotesError]] = {400: MalformedRequest, 413: BodyTooLarge}


def handle(app: FastAPI) -> None:
    """Have `app` answer with problems, whatever raised: we, the framework, or the router."""
    app.add_exception_handler(NotesError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)


def response(error: NotesError, request_id: str, parts: list[InvalidPart] | None = None) -> Response:
    problem = Problem(
        type=f"/problems/{error.type}",
        title=_title(type(error)),
        status=error.status,
        detail=error.detail,
        request_id=request_id,
        errors=parts,
    )
    return _rendered(problem, error.headers)


def documented(*errors: type[NotesError]) -> dict[int | str, dict[str, Any]]:
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
    assert isinstance(error, NotesError)
    return response(error, request.state.request_id)


async def _invalid(request: Request, error: Exception) -> Response:
    """400 for what cannot be understood, 422 for what is understood and not allowed."""
    assert isinstance(error, RequestValidationError)
    wrong = error.errors()
    not_understood = any(e["type"] == "json_invalid" or _is_unknown_parameter(e) for e in wrong)
    kind = MalformedRequest if not_understood else InvalidRequest
    parts = [_part(e) for e in wrong[:_MAX_PARTS]]
    return response(kind(parts[0].detail), request.state.request_id, parts)


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if kind := _READING_FAILED.get(error.status_code):
        return response(kind(error.detail), request.state.request_id)
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


def _title(error: type[NotesError]) -> str:
    return (error.__doc__ or "").splitlines()[0]


def _is_unknown_parameter(error: dict[str, Any]) -> bool:
    return bool(error["type"] == "extra_forbidden" and error["loc"][0] == "query")


def _part(error: dict[str, Any]) -> InvalidPart:
    place, *path = error["loc"]
    if error["type"] == "json_invalid":
        return InvalidPart(pointer="#", code="json_invalid", detail=f"{error['ctx']['error']} at character {path[0]}.")
    where = {"pointer": _pointer(path)} if place == "body" else {"parameter": str(path[0])[:_MAX_CHARACTERS]}
    return InvalidPart(**where, code=error["type"], detail=f"{error['msg']}.")


def _pointer(path: Sequence[str | int]) -> str:
    """RFC 6901, as the fragment of an URI."""
    escaped = [quote(str(part)[:_MAX_CHARACTERS].replace("~", "~0").replace("/", "~1")) for part in path]
    return "/".join(["#", *escaped])
