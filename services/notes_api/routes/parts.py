"""What routes have in common: what their headers say, the media types they take, and the errors that any may answer."""

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NoReturn

from fastapi import Header, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

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
from notes_api.schemas import NoQuery, NoteListed

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

Nothing = Annotated[NoQuery, Query()]
IfMatch = Annotated[
    str | None,
    Header(description="The ETag of the version that is changed.", examples=['"3-64436af8a8c40"']),
]
IfNoneMatch = Annotated[str | None, Header(description="ETags that the client has.")]


def header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


ETAG = {"ETag": header("Names this state of the note.")}
LOCATION = {"Location": header("The path of what was made.")}


class StrictRoute(APIRoute):
    """Takes only JSON that means one thing.

    No name twice in an object, of which each reader keeps another value, and no NaN or Infinity, which JSON has not.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        return json.loads((await self.body()).decode(), object_pairs_hook=_unique, parse_constant=_no_number)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise HTTPException(400, "An object of the body has a name twice.")
    return found


def _no_number(name: str) -> NoReturn:
    raise HTTPException(400, f"JSON has no {name}.")


class Takes:
    """Dependency of a route with a body. Clearer than what else a form, curl's default, would get."""

    def __init__(self, media_type: str) -> None:
        self.media_type = media_type

    async def __call__(self, request: Request) -> None:  # async: what is not is run in a thread
        """Raises UnsupportedMediaType."""
        given = request.headers.get("content-type", "")
        if given.partition(";")[0].strip().lower() != self.media_type:
            accepts = "Accept-Patch" if request.method == "PATCH" else "Accept"
            raise UnsupportedMediaType(f"Send `Content-Type: {self.media_type}`.", {accepts: self.media_type})


json_body = Takes("application/json")
merge_patch = Takes("application/merge-patch+json")


def state(note: NoteListed) -> dict[str, str]:
    """The headers of an answer that is this note."""
    return {"ETag": note.etag, "Cache-Control": "private, no-cache"}
