"""Edits of a note's content that need not send all of it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from notes_api import text
from notes_api.access import Writer
from notes_api.db import Db
from notes_api.errors import TextFoundOften, TextNotFound
from notes_api.fields import Content
from notes_api.idempotency import Doing
from notes_api.notes import Version
from notes_api.problems import documented
from notes_api.routes.parts import ETAG, TO_CHANGE, WITH_BODY, WITH_KEY, IfMatch, Route, state
from notes_api.schemas import NoteOut

router = APIRouter(prefix="/v1", tags=["notes"], route_class=Route)


class Appended(BaseModel):
    """What comes to the end of a note."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"content": "- milk\n", "separator": "\n"}]}
    )

    content: Content
    separator: Annotated[
        Content, Field(max_length=1000, description="Between what is there and `content`; not in an empty note.")
    ] = ""


@router.post(
    "/notes/{note_id:uuid}:append",
    operation_id="appendToNote",
    response_model=NoteOut,
    responses={200: {"headers": ETAG}, **documented(*WITH_BODY, *WITH_KEY, *TO_CHANGE)},
)
async def append(
    note_id: UUID,
    new: Appended,
    caller: Writer,
    connection: Db,
    once: Doing,
    if_match: IfMatch = None,
) -> Response:
    """Add to the end of a note's content."""
    expected = Version.read(if_match)
    row = await text.append(connection, caller.owner, note_id, expected, content=new.content, separator=new.separator)
    return await once.answer(note := NoteOut.of(row), 200, state(note))


class Replacement(BaseModel):
    """What to find, and what to put in its place."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"find": "- bread", "replace": "- two breads"}]}
    )

    find: Annotated[Content, Field(min_length=1, description="Exactly as it stands there, and not a pattern.")]
    replace: Content
    all: Annotated[bool, Field(description="False: it has to stand there once.")] = False


@router.post(
    "/notes/{note_id:uuid}:replace",
    operation_id="replaceInNote",
    response_model=NoteOut,
    responses={
        200: {"headers": ETAG},
        **documented(*WITH_BODY, *WITH_KEY, *TO_CHANGE, TextNotFound, TextFoundOften),
    },
)
async def replace(
    note_id: UUID,
    new: Replacement,
    caller: Writer,
    connection: Db,
    once: Doing,
    if_match: IfMatch = None,
) -> Response:
    """Find text in a note's content, and replace it."""
    expected = Version.read(if_match)
    row = await text.replace(
        connection, caller.owner, note_id, expected, find=new.find, by=new.replace, everywhere=new.all
    )
    return await once.answer(note := NoteOut.of(row), 200, state(note))
