"""What routes have in common: what their headers say, the media types they take, and the errors that any may answer."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Annotated, Any, NoReturn

from fastapi import Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from notes_api.db import Held
from notes_api.errors import (
    BodyTooLarge,
    DatabaseUnavailable,
    HeadersTooLarge,
    InvalidRequest,
    KeyReused,
    MalformedRequest,
    NotAuthenticated,
    NoteNotFound,
    NotesError,
    NoteTrashed,
    PreconditionMissing,
    RequestInFlight,
    ScopeMissing,
    TargetTooLong,
    TokenRefused,
    TooManyRequests,
    UnsupportedMediaType,
    VersionMismatch,
)
from notes_api.schemas import NoteListed

ALWAYS = (
    MalformedRequest,
    NotAuthenticated,
    TokenRefused,
    ScopeMissing,
    InvalidRequest,
    TargetTooLong,
    TooManyRequests,
    HeadersTooLarge,
    NotesError,
    DatabaseUnavailable,
)
WITH_BODY = (*ALWAYS, BodyTooLarge, UnsupportedMediaType)
WITH_KEY = (RequestInFlight, KeyReused)
TO_CHANGE = (NoteNotFound, NoteTrashed, VersionMismatch, PreconditionMissing)

_UNKNOWN = "Extra inputs are not permitted"

SLOW_SECONDS = 30

IfMatch = Annotated[
    str | None,
    Header(description="The ETag of the version that is changed.", examples=['"3-64436af8a8c40"']),
]
IfNoneMatch = Annotated[str | None, Header(description="ETags that the client has.")]


def header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


ETAG = {"ETag": header("Names this state of the note.")}
LOCATION = {"Location": header("The path of what was made.")}


class InTime(StreamingResponse):
    """Cut when the client reads nothing for a while: it would keep its place, and what is open for it, for ever."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def in_time(message: Message) -> None:
            async with asyncio.timeout(SLOW_SECONDS):
                await send(message)

        try:
            await super().__call__(scope, receive, in_time)
        finally:
            if isinstance(self.body_iterator, AsyncGenerator):  # which nobody would close, with what it holds
                await self.body_iterator.aclose()


class Route(APIRoute):
    """Lets go of what the request holds before the answer leaves: a commit that fails does not follow a 201.

    Takes only JSON that means one thing: no name twice in an object, of which each reader keeps another value, and no
    NaN or Infinity, which JSON has not. Takes no query parameter that it does not read: that is a client's bug, which
    nobody would see. Where a model reads them, the model says that.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        read = self.dependant.query_params
        by_model = any(isinstance(kind := f.field_info.annotation, type) and issubclass(kind, BaseModel) for f in read)
        names = {field.alias for field in read}
        media_type = "application/merge-patch+json" if self.methods == {"PATCH"} else "application/json"

        def refuse_unknown(request: Request) -> None:
            """Raises RequestValidationError. Called when it is known who asks, to whom alone it matters."""
            unknown = [] if by_model else [each for each in request.query_params.multi_items() if each[0] not in names]
            if unknown:
                raise RequestValidationError(
                    [
                        {"type": "extra_forbidden", "loc": ("query", name), "msg": _UNKNOWN, "input": value}
                        for name, value in unknown
                    ]
                )

        async def strictly(request: Request) -> Response:
            if self.body_field:
                refuse_other_than(media_type, request)
            async with Held(request.app.state.pool) as held:
                request.scope["state"].update(held=held, refuse_unknown=refuse_unknown)
                return await handle(_StrictRequest(request.scope, request.receive) if self.body_field else request)

        return strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return json.loads((await self.body()).decode(), object_pairs_hook=_unique, parse_constant=_no_number)
        except RecursionError:  # how deep is too deep for the parser depends on the machine
            raise HTTPException(400, "The body is nested too deeply.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise HTTPException(400, "An object of the body has a name twice.")
    return found


def _no_number(name: str) -> NoReturn:
    raise HTTPException(400, f"JSON has no {name}.")


def refuse_other_than(media_type: str, request: Request) -> None:
    """Raises UnsupportedMediaType, which is clearer than what a form, curl's default, would get."""
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != media_type:
        accepts = "Accept-Patch" if request.method == "PATCH" else "Accept"
        raise UnsupportedMediaType(f"Send `Content-Type: {media_type}`.", {accepts: media_type})


def state(note: NoteListed) -> dict[str, str]:
    """The headers of an answer that is this note."""
    return {"ETag": note.etag, "Cache-Control": "private, no-cache"}
