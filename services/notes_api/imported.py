"""Notes out of lines of JSON, as an export gives them: each for itself, and as often as one likes.

A line that was taken before changes nothing. Lines are stored some at a time, each time in a transaction; what was
stored before a break stays, and the same file once more does the rest.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from notes_api import tokens
from notes_api.batch import TAKE_TURNS
from notes_api.db import Connection, Pool, connected
from notes_api.errors import TokenRefused
from notes_api.fields import Time
from notes_api.notes import FIELDS, differ
from notes_api.schemas import InvalidPart, NoteIn
from notes_api.tokens import Caller

MAX_LINE_BYTES = 8 * 1024 * 1024  # 1 MiB of text whose every character is escaped
AT_ONCE = 200
AT_ONCE_BYTES = 2 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_STORED = {*FIELDS, "id", "created_at", "updated_at", "deleted_at", "purge_at"}

Status = Literal["created", "unchanged", "exists", "replaced", "failed"]

# By id, so that two imports of the same notes wait for each other, and do not deadlock. A note that was purged may have
# had the same id and time: revisions begin after the highest of any that is gone, so that no ETag names two states.
_INSERT = """
insert into notes.notes (owner, id, title, content, tags, pinned, archived, metadata, created_at, updated_at,
    deleted_at, purge_at, revision)
select $1, id, title, content, array(select jsonb_array_elements_text(tags)), pinned, archived, metadata,
    coalesce(created_at, now()), coalesce(updated_at, now()), deleted_at, purge_at,
    1 + coalesce((select purged_revision from notes.feeds where owner = $1), 0)
from jsonb_to_recordset($2) as given (id uuid, title text, content text, tags jsonb, pinned boolean, archived boolean,
    metadata jsonb, created_at timestamptz, updated_at timestamptz, deleted_at timestamptz, purge_at timestamptz)
order by id
on conflict (id) do nothing
returning id
"""
_LOCK = "select from notes.notes where owner = $1 and id = any ($2) order by id for update"
_THERE = """
select id, title, sha256(convert_to(content, 'UTF8')) as content, tags, pinned, archived, metadata, deleted_at
from notes.notes
where owner = $1 and id = any ($2)
"""
_REPLACE = """
update notes.notes set title = $3, content = $4, tags = $5, pinned = $6, archived = $7, metadata = $8, deleted_at = $9,
    purge_at = $10
where id = $1 and owner = $2
"""


def _since_1970(at: datetime) -> datetime:
    if not _EPOCH <= at <= datetime.now(UTC) + timedelta(days=1):
        raise PydanticCustomError("not_past", "A time should be since 1970, and not in the future")
    return at


Past = Annotated[Time, AfterValidator(_since_1970)]


class NoteLine(NoteIn):
    """A note as an export has it, or as a client writes one: only the title is needed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Shopping", "content": "- bread\n"}]})

    id: UUID | None = None
    created_at: Past | None = None
    updated_at: Past | None = None
    deleted_at: Past | None = None
    purge_at: Time | None = None
    revision: Annotated[Any, Field(description="Not taken, as what follows: they begin anew.")] = None
    etag: Any = None
    attachment_count: Any = None
    attachments: Any = None


class LineReport(BaseModel):
    """What became of a line."""

    line: Annotated[int, Field(description="The first is 1.")]
    status: Annotated[
        Status,
        Field(
            description="`unchanged`: it was so already; `exists`: there is another note with the id, which was left."
        ),
    ]
    id: UUID | None = None
    errors: list[InvalidPart] | None = None


class Summary(BaseModel):
    lines: int = 0
    created: int = 0
    unchanged: int = 0
    exists: int = 0
    replaced: int = 0
    failed: int = 0


async def reports(
    pool: Pool, caller: Caller, body: AsyncIterator[bytes], *, trash_days: int, replace: bool
) -> AsyncIterator[LineReport]:
    """One for each line that is not blank, in their order. Raises DatabaseUnavailable and TokenRefused."""
    kept = timedelta(days=trash_days)
    waiting: list[tuple[LineReport, NoteLine | None]] = []
    waiting_bytes = 0
    async for number, line in _lines(body):
        waiting.append(_read(caller.owner, number, line, kept))
        waiting_bytes += len(line or b"")
        if len(waiting) >= AT_ONCE or waiting_bytes >= AT_ONCE_BYTES:
            for report in await _store(pool, caller, waiting, replace=replace):
                yield report
            waiting, waiting_bytes = [], 0
    for report in await _store(pool, caller, waiting, replace=replace):
        yield report


async def _lines(body: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes | None]]:
    """Lines that are not blank, with their numbers; None for one that is too long, of which no more is kept."""
    number, rest, skipping = 1, bytearray(), False
    async for chunk in body:
        begin = 0
        while (end := chunk.find(b"\n", begin)) >= 0:
            rest += b"" if skipping else chunk[begin:end]
            skipping = skipping or len(rest) > MAX_LINE_BYTES
            if skipping or rest.strip():
                yield number, None if skipping else bytes(rest)
            number, begin, skipping = number + 1, end + 1, False
            rest.clear()
        if not skipping:
            rest += chunk[begin:]
            if len(rest) > MAX_LINE_BYTES:
                skipping = True
                rest.clear()
    if skipping or rest.strip():
        yield number, None if skipping else bytes(rest)


def _read(owner: UUID, number: int, line: bytes | None, kept: timedelta) -> tuple[LineReport, NoteLine | None]:
    if line is None:
        detail = f"A line may have {MAX_LINE_BYTES} bytes."
        return LineReport(line=number, status="failed", errors=[InvalidPart(code="too_long", detail=detail)]), None
    if number == 1:
        line = line.removeprefix(_BOM)
    try:
        note = NoteLine.model_validate_json(line, strict=True)
    except ValidationError as error:
        parts = [
            InvalidPart(pointer="/".join(["#", *map(str, e["loc"])])[:200], code=e["type"], detail=f"{e['msg']}.")
            for e in error.errors(include_url=False, include_input=False)[:5]
        ]
        return LineReport(line=number, status="failed", errors=parts), None
    if note.id is None:  # the same for the same line, so that it is known again
        note.id = UUID(bytes=hashlib.sha256(owner.bytes + line.strip()).digest()[:16], version=5)
    if note.deleted_at is not None and note.purge_at is None:
        note.purge_at = note.deleted_at + kept
    return LineReport(line=number, status="created", id=note.id), note


async def _store(
    pool: Pool, caller: Caller, given: Sequence[tuple[LineReport, NoteLine | None]], *, replace: bool
) -> list[LineReport]:
    notes = {note.id: note for _, note in reversed(given) if note}  # the first of those with the same id
    owner = caller.owner
    if notes:
        async with connected(pool) as connection, connection.transaction():
            if not await tokens.holds(connection, caller.token_id):  # it may have been revoked since the first line
                raise TokenRefused
            await connection.execute(TAKE_TURNS, owner)
            await connection.execute(_LOCK, owner, list(notes))
            rows = [note.model_dump(mode="json", include=_STORED) for note in notes.values()]
            made = {row["id"] for row in await connection.fetch(_INSERT, owner, rows)}
            there = {row["id"]: dict(row) for row in await connection.fetch(_THERE, owner, list(notes))}
            for report, note in given:
                if note and not (note is notes[note.id] and note.id in made):
                    await _meet(connection, owner, report, note, there.get(note.id, {}), replace=replace)
    return [report for report, _ in given]


async def _meet(
    connection: Connection, owner: UUID, report: LineReport, note: NoteLine, there: dict[str, Any], *, replace: bool
) -> None:
    """A note with the id is there, as an earlier line has left it."""
    values = {name: getattr(note, name) for name in (*FIELDS, "deleted_at")}
    state = values | {"content": hashlib.sha256(note.content.encode()).digest()}  # as `_THERE` has it
    if not there:  # somebody else's, or purged this moment
        report.status = "failed"
        report.errors = [InvalidPart(pointer="#/id", code="id_taken", detail="Make another id.")]
    elif not any(differ(there[name], value) for name, value in state.items()):
        report.status = "unchanged"
    elif replace:
        await connection.execute(_REPLACE, note.id, owner, *values.values(), note.purge_at)
        there.update(state)
        report.status = "replaced"
    else:
        report.status = "exists"
