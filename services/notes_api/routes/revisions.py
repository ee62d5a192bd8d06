"""The states that a note had."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.convertors import Convertor, register_url_convertor

from notes_api import revisions
from notes_api.access import Reader, Writer
from notes_api.db import Db, Row
from notes_api.errors import InvalidCursor, NoteNotFound, RevisionNotFound
from notes_api.idempotency import Doing
from notes_api.notes import Version
from notes_api.problems import documented
from notes_api.routes.parts import ALWAYS, ETAG, TO_CHANGE, WITH_KEY, IfMatch, Route, state
from notes_api.schemas import NoteOut, PageQuery, etag


class NumberConvertor(Convertor[int]):
    """Starlette's `int` reads any number of digits, and raises at more than 4,300."""

    regex = "[1-9][0-9]{0,9}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", NumberConvertor())
router = APIRouter(prefix="/v1", tags=["revisions"], route_class=Route)

MAX_REVISION = 2**31 - 1
Number = Annotated[int, Path(ge=1, le=MAX_REVISION, description="Of a revision; where two have one, of the later.")]


class RevisionListed(BaseModel):
    """A state of a note, without what it held."""

    revision: int
    etag: str
    title: str
    updated_at: datetime
    replaced_at: Annotated[datetime | None, Field(description="When the next one followed; null of the current one.")]
    current: bool
    deleted_at: Annotated[datetime | None, Field(description="When it went to the trash, if it was there.")]
    changed_fields: Annotated[
        list[str], Field(description="What differs from the state before; empty for the first that is known.")
    ]

    @classmethod
    def of(cls, row: Row) -> "RevisionListed":
        return cls.model_construct(None, **row, etag=etag(row))


class RevisionPage(BaseModel):
    items: list[RevisionListed]
    next_cursor: str | None
    has_more: bool


class RevisionOut(NoteOut):
    """A note as it was, with those attachments that it still has."""

    replaced_at: Annotated[datetime | None, Field(description="When the next one followed; null of the current one.")]


class DiffQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    from_: Annotated[int, Field(alias="from", ge=1, le=MAX_REVISION)]
    to: Annotated[int | None, Field(ge=1, le=MAX_REVISION, description="The current revision, when absent.")] = None


class FieldChange(BaseModel):
    before: Any
    after: Any


class RevisionDiff(BaseModel):
    """What differs between two revisions."""

    model_config = ConfigDict(populate_by_name=True)

    from_: Annotated[int, Field(alias="from")]
    to: int
    fields: Annotated[dict[str, FieldChange], Field(description="Other than the content, those that differ.")]
    content: Annotated[str, Field(description="Of the contents, as `diff -u` writes it; empty when they are equal.")]
    line_by_line: Annotated[
        bool,
        Field(description="False when the contents differ too much: then all between their equal ends is one change."),
    ]


@router.get(
    "/notes/{note_id:uuid}/revisions",
    operation_id="listRevisions",
    response_model=RevisionPage,
    responses=documented(*ALWAYS, NoteNotFound, InvalidCursor),
)
async def listed(
    request: Request, note_id: UUID, caller: Reader, connection: Db, query: Annotated[PageQuery, Query()]
) -> Response:
    """List the states of a note, the latest first."""
    signer, of = request.app.state.signer, ["listRevisions", caller.owner, note_id]
    start = datetime.fromisoformat(signer.read(query.cursor, of)) if query.cursor else None
    page = await revisions.page(connection, caller.owner, note_id, start, query.limit)
    cursor = signer.sign(page.next.astimezone(UTC).isoformat(), of) if page.next else None
    items = [RevisionListed.of(row) for row in page.rows]
    return _json(RevisionPage(items=items, next_cursor=cursor, has_more=cursor is not None))


@router.get(
    "/notes/{note_id:uuid}/revisions/{revision:number}",
    operation_id="getRevision",
    response_model=RevisionOut,
    responses={200: {"headers": ETAG}, **documented(*ALWAYS, NoteNotFound, RevisionNotFound)},
)
async def show(note_id: UUID, revision: Number, caller: Reader, connection: Db) -> Response:
    """Read a note as one of its revisions has it."""
    note = RevisionOut.of(await revisions.get(connection, caller.owner, note_id, revision))
    return Response(note.model_dump_json(), 200, state(note), "application/json")


@router.get(
    "/notes/{note_id:uuid}/diff",
    operation_id="diffRevisions",
    response_model=RevisionDiff,
    responses=documented(*ALWAYS, NoteNotFound, RevisionNotFound),
)
async def diff(note_id: UUID, caller: Reader, connection: Db, query: Annotated[DiffQuery, Query()]) -> Response:
    """Compare two revisions."""
    found = await revisions.diff(connection, caller.owner, note_id, query.from_, query.to)
    fields = {name: FieldChange(before=before, after=after) for name, (before, after) in found.fields.items()}
    return _json(
        RevisionDiff(
            from_=found.before["revision"],
            to=found.after["revision"],
            fields=fields,
            content=found.content.unified,
            line_by_line=found.content.line_by_line,
        )
    )


@router.post(
    "/notes/{note_id:uuid}/revisions/{revision:number}:restore",
    operation_id="restoreRevision",
    response_model=NoteOut,
    responses={200: {"headers": ETAG}, **documented(*ALWAYS, *WITH_KEY, *TO_CHANGE, RevisionNotFound)},
)
async def restore(
    note_id: UUID,
    revision: Number,
    caller: Writer,
    connection: Db,
    once: Doing,
    if_match: IfMatch = None,
) -> Response:
    """Make a note what it was in a revision. That is a change as any: it can be taken back in the same way."""
    row = await revisions.restore(connection, caller.owner, note_id, revision, Version.read(if_match))
    return await once.answer(note := NoteOut.of(row), 200, state(note))


def _json(model: BaseModel) -> Response:
    return Response(
        model.model_dump_json(by_alias=True), 200, {"Cache-Control": "private, no-cache"}, "application/json"
    )
