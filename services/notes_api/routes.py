"""The routes under /v1."""

import re
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Response

from notes_api import notes
from notes_api.access import Reader, Writer
from notes_api.db import Session
from notes_api.errors import (
    BodyTooLarge,
    DatabaseUnavailable,
    InvalidCursor,
    InvalidRequest,
    MalformedRequest,
    NotAuthenticated,
    NoteNotFound,
    NotesError,
    ScopeMissing,
    TokenRefused,
    UnsupportedMediaType,
)
from notes_api.problems import documented
from notes_api.schemas import NoQuery, NoteIn, NoteListed, NoteOut, NotePage, PageQuery

ALWAYS = (
    MalformedRequest,
    NotAuthenticated,
    TokenRefused,
    ScopeMissing,
    InvalidRequest,
    NotesError,
    DatabaseUnavailable,
)

router = APIRouter(prefix="/v1", tags=["notes"])


async def json_body(content_type: Annotated[str, Header(include_in_schema=False)] = "") -> None:
    """Raises UnsupportedMediaType, which is clearer than what else a form, curl's default, would get."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType("Send `Content-Type: application/json`.")


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


ETAG = {"ETag": _header("Names this state of the note.")}
LOCATION = {"Location": _header("The path of the new note.")}


@router.post(
    "/notes",
    operation_id="createNote",
    status_code=201,
    dependencies=[Depends(json_body)],
    responses={201: {"headers": LOCATION | ETAG}, **documented(*ALWAYS, BodyTooLarge, UnsupportedMediaType)},
)
async def create(
    new: NoteIn, owner: Writer, session: Session, response: Response, _: Annotated[NoQuery, Query()]
) -> NoteOut:
    """Make a note."""
    note = NoteOut.of(await notes.create(session, owner, new))
    response.headers.update({"Location": f"/v1/notes/{note.id}", **_state(note)})
    return note


@router.get("/notes", operation_id="listNotes", responses=documented(*ALWAYS, InvalidCursor))
async def page(owner: Reader, session: Session, query: Annotated[PageQuery, Query()]) -> NotePage:
    """List notes, newest first, without their content."""
    after = notes.Cursor.read(query.cursor) if query.cursor is not None else None
    found, more = await notes.page(session, owner, after, query.limit)
    items = [NoteListed.model_validate(note) for note in found]
    return NotePage(items=items, next_cursor=str(more) if more else None, has_more=more is not None)


@router.get(
    "/notes/{note_id}",
    operation_id="getNote",
    response_model=NoteOut,
    responses={
        200: {"headers": ETAG},
        304: {"description": "The note is as `If-None-Match` says.", "headers": ETAG},
        **documented(*ALWAYS, NoteNotFound),
    },
)
async def show(
    note_id: UUID,
    owner: Reader,
    session: Session,
    response: Response,
    _: Annotated[NoQuery, Query()],
    if_none_match: Annotated[str, Header(description="ETags that the client has.")] = "",
) -> NoteOut | Response:
    """Read a note."""
    note = NoteOut.of(await notes.get(session, owner, note_id))
    if if_none_match.strip() == "*" or note.etag in re.findall(r'"[^"]*"', if_none_match):
        return Response(status_code=304, headers=_state(note))
    response.headers.update(_state(note))
    return note


def _state(note: NoteOut) -> dict[str, str]:
    return {"ETag": note.etag, "Cache-Control": "private, no-cache"}
