"""Notes, one by one."""

import re
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from notes_api import notes, revisions
from notes_api.access import Reader, Writer
from notes_api.db import Db
from notes_api.errors import (
    IdTaken,
    MalformedRequest,
    NoteExists,
    NoteNotFound,
    NoteNotTrashed,
    RevisionNotFound,
)
from notes_api.fields import Time
from notes_api.idempotency import Doing
from notes_api.notes import Version
from notes_api.problems import documented
from notes_api.routes.parts import (
    ALWAYS,
    ETAG,
    LOCATION,
    TO_CHANGE,
    WITH_BODY,
    WITH_KEY,
    IfMatch,
    IfNoneMatch,
    Route,
    state,
)
from notes_api.schemas import NoteEdit, NoteIn, NoteOut

router = APIRouter(prefix="/v1", tags=["notes"], route_class=Route)


@router.post(
    "/notes",
    operation_id="createNote",
    status_code=201,
    response_model=NoteOut,
    responses={201: {"headers": LOCATION | ETAG}, **documented(*WITH_BODY, *WITH_KEY)},
)
async def create(new: NoteIn, caller: Writer, connection: Db, once: Doing) -> Response:
    """Make a note."""
    note = NoteOut.of(await notes.create(connection, caller.owner, new))
    return await once.answer(note, 201, {"Location": f"/v1/notes/{note.id}", **state(note)})


At = Annotated[
    Time | None,
    Query(description="A time, as in `2026-11-22T09:30:00Z`: the note as it was then."),
]


@router.get(
    "/notes/{note_id:uuid}",
    operation_id="getNote",
    response_model=NoteOut,
    responses={
        200: {"headers": ETAG},
        304: {"description": "The note is as `If-None-Match` says.", "headers": ETAG},
        **documented(*ALWAYS, NoteNotFound, RevisionNotFound),
    },
)
async def show(
    note_id: UUID,
    caller: Reader,
    connection: Db,
    at: At = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Read a note, also one in the trash; or with `at` what it was, with those attachments that it still has."""
    if at is None:
        row = await notes.get(connection, caller.owner, note_id)
    else:
        row = await revisions.at(connection, caller.owner, note_id, at)
    note = NoteOut.of(row)
    if if_none_match and (if_none_match.strip() == "*" or note.etag in re.findall(r'"[^"]*"', if_none_match)):
        return Response(status_code=304, headers=state(note))
    return Response(note.model_dump_json(), 200, state(note), "application/json")


@router.put(
    "/notes/{note_id:uuid}",
    operation_id="putNote",
    response_model=NoteOut,
    responses={
        200: {"headers": ETAG},
        201: {"model": NoteOut, "description": "The note was made.", "headers": LOCATION | ETAG},
        **documented(*WITH_BODY, *WITH_KEY, *TO_CHANGE, NoteExists, IdTaken),
    },
)
async def put(
    note_id: UUID,
    new: NoteIn,
    caller: Writer,
    connection: Db,
    once: Doing,
    if_match: IfMatch = None,
    if_none_match: Annotated[
        str | None,
        Header(
            description="`*`: only if there is no such note.", examples=["*"], json_schema_extra={"pattern": r"^\*$"}
        ),
    ] = None,
) -> Response:
    """Make a note with an id of your own, with `If-None-Match: *`; or replace a whole note, with `If-Match`."""
    if if_none_match is not None:
        _only_star(if_match, if_none_match)
        note = NoteOut.of(await notes.create_with_id(connection, caller.owner, note_id, new))
        return await once.answer(note, 201, {"Location": f"/v1/notes/{note.id}", **state(note)})
    row = await notes.replace(connection, caller.owner, note_id, new, Version.read(if_match))
    return await once.answer(note := NoteOut.of(row), 200, state(note))


@router.patch(
    "/notes/{note_id:uuid}",
    operation_id="editNote",
    response_model=NoteOut,
    responses={200: {"headers": ETAG}, **documented(*WITH_BODY, *WITH_KEY, *TO_CHANGE)},
    openapi_extra={"requestBody": {"content": {"application/merge-patch+json": {}}}},
)
async def edit(
    note_id: UUID,
    wanted: NoteEdit,
    caller: Writer,
    connection: Db,
    once: Doing,
    if_match: IfMatch = None,
) -> Response:
    """Change some of a note, by a merge patch (RFC 7396)."""
    note = NoteOut.of(await notes.edit(connection, caller.owner, note_id, wanted, Version.read(if_match)))
    return await once.answer(note, 200, state(note))


class DeleteQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    permanent: bool = False


@router.delete(
    "/notes/{note_id:uuid}",
    operation_id="deleteNote",
    response_model=NoteOut,
    responses={
        200: {"headers": ETAG, "description": "It is in the trash until `purge_at`."},
        204: {"description": "It is gone for good."},
        **documented(*ALWAYS, *TO_CHANGE, NoteNotTrashed),
    },
)
async def delete(
    request: Request,
    note_id: UUID,
    caller: Writer,
    connection: Db,
    query: Annotated[DeleteQuery, Query()],
    if_match: IfMatch = None,
) -> Response:
    """Put a note into the trash; or delete what is there for good, with `permanent=true`."""
    expected = Version.read(if_match)
    if query.permanent:
        await notes.purge(connection, caller.owner, note_id, expected)
        return Response(status_code=204)
    days = request.app.state.settings.trash_days
    note = NoteOut.of(await notes.trash(connection, caller.owner, note_id, expected, days))
    return Response(note.model_dump_json(), 200, state(note), "application/json")


@router.post(
    "/notes/{note_id:uuid}:restore",
    operation_id="restoreNote",
    response_model=NoteOut,
    responses={200: {"headers": ETAG}, **documented(*ALWAYS, *WITH_KEY, *TO_CHANGE, NoteNotTrashed)},
)
async def restore(note_id: UUID, caller: Writer, connection: Db, once: Doing, if_match: IfMatch = None) -> Response:
    """Take a note out of the trash."""
    note = NoteOut.of(await notes.restore(connection, caller.owner, note_id, Version.read(if_match)))
    return await once.answer(note, 200, state(note))


def _only_star(if_match: str | None, if_none_match: str) -> None:
    if if_match is not None or if_none_match.strip() != "*":
        raise MalformedRequest("Send either `If-None-Match: *`, to make a note, or `If-Match`, to replace one.")
