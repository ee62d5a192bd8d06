"""Many changes at once: all or none of them, or each for itself; or only what would become of them."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Literal, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from notes_api import notes
from notes_api.db import Connection, Row
from notes_api.errors import NotesError
from notes_api.notes import Version
from notes_api.schemas import ETAG_PATTERN, InvalidPart, NoteEdit, NoteIn

MOST = 100
TAKE_TURNS = f"select {notes.TURN}"
# In the order of their ids, before the first change takes the row of `feeds`: a single change has its note first, too.
_LOCK = "select from notes.notes where owner = $1 and id = any ($2) order by id for update"
_NOT_SHOWN = {"content", "attachments"}  # a hundred contents are 100 MiB

IfMatch = Annotated[
    str,
    Field(max_length=200, json_schema_extra={"pattern": ETAG_PATTERN}, description="The ETag of the version."),
]


class _Operation(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Create(_Operation):
    """Make a note."""

    op: Literal["create"]
    note: NoteIn
    id: Annotated[UUID | None, Field(strict=False, description="One of your own; without it, one is made.")] = None


class Update(_Operation):
    """Change some of a note, by a merge patch."""

    op: Literal["update"]
    id: Annotated[UUID, Field(strict=False)]
    if_match: IfMatch
    change: NoteEdit


class Delete(_Operation):
    """Put a note into the trash."""

    op: Literal["delete"]
    id: Annotated[UUID, Field(strict=False)]
    if_match: IfMatch


class Restore(_Operation):
    """Take a note out of the trash."""

    op: Literal["restore"]
    id: Annotated[UUID, Field(strict=False)]
    if_match: IfMatch


Operation = Annotated[Create | Update | Delete | Restore, Field(discriminator="op")]


class _NothingIsKept(Exception):
    """Of a dry run."""


class Done(NamedTuple):
    """What became of an operation: the note without its content, or why it was refused."""

    operation: Create | Update | Delete | Restore
    row: Row | None
    refused: NotesError | None = None


async def run(
    connection: Connection,
    owner: UUID,
    operations: Sequence[Operation],
    trash_days: int,
    *,
    atomic: bool,
    dry_run: bool,
) -> list[Done]:
    """One for each operation, in their order. If `atomic`, raises what the first that is refused raised."""
    done: list[Done] = []
    with suppress(_NothingIsKept):
        async with connection.transaction():
            await connection.execute(TAKE_TURNS, owner)
            await connection.execute(_LOCK, owner, [operation.id for operation in operations if operation.id])
            for index, each in enumerate(operations):
                done.append(await _do(connection, owner, each, trash_days))
                if atomic and (refused := done[-1].refused):
                    raise _of_operation(refused, index)
            if dry_run:
                raise _NothingIsKept
    return done


async def _do(connection: Connection, owner: UUID, operation: Operation, trash_days: int) -> Done:
    try:
        async with connection.transaction():  # a savepoint
            row = await _changed(connection, owner, operation, trash_days)
            return Done(operation, {name: value for name, value in row.items() if name not in _NOT_SHOWN})
    except NotesError as error:
        return Done(operation, None, error)


async def _changed(connection: Connection, owner: UUID, operation: Operation, trash_days: int) -> Row:
    match operation:
        case Create(id=None):
            return await notes.create(connection, owner, operation.note)
        case Create():
            assert operation.id
            return await notes.create_with_id(connection, owner, operation.id, operation.note)
        case Update():
            expected = Version.read(operation.if_match)
            return await notes.edit(connection, owner, operation.id, operation.change, expected)
        case Delete():
            expected = Version.read(operation.if_match)
            return await notes.trash(connection, owner, operation.id, expected, trash_days)
        case Restore():
            return await notes.restore(connection, owner, operation.id, Version.read(operation.if_match))


def _of_operation(error: NotesError, index: int) -> NotesError:
    """With the place of the operation that it is about."""
    part = InvalidPart(pointer=f"#/operations/{index}", code=error.type, detail=error.detail)
    error.members = {**error.members, "errors": [part]}
    error.detail = f"Operation {index} was refused, so nothing was changed. {error.detail}"
    return error
