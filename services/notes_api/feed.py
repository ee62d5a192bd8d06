"""The changes feed: what happened to an owner's notes, numbered 1, 2, 3 without a gap, in the order of their commits.

The database numbers them (migration 0002), whoever writes. A cursor is signed together with the owner and the epoch:
one that was given for another owner, or by a database that has been restored since, is no good here.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from notes_api.cursors import Signer
from notes_api.db import Connection, Row
from notes_api.errors import CursorGone, InvalidCursor

EXPORT = "/v1/notes:export"

# Another one after a restore into another database, from another server's files, or to a point in time.
_EPOCH = """
select (select system_identifier from pg_control_system()) || '-' || (select timeline_id from pg_control_checkpoint())
    || '-' || (select oid from pg_database where datname = current_database())
"""
_STANDING = """
select coalesce((select seq from notes.feeds where owner = $1), 0) as newest,
    (select min(seq) from notes.changes where owner = $1) as oldest
"""
_PAGE = """
select seq, type, note_id, revision, changed_fields, at from notes.changes
where owner = $1 and seq > $2 order by seq limit $3
"""


class Standing(NamedTuple):
    """The numbers of an owner's newest change, and of the one before the oldest that is kept."""

    newest: int
    before_oldest: int


async def epoch(connection: Connection) -> str:
    found: str = await connection.fetchval(_EPOCH)
    return found


async def standing(connection: Connection, owner: UUID) -> Standing:
    row = await connection.fetchrow(_STANDING, owner)
    assert row
    newest, oldest = row["newest"], row["oldest"]
    return Standing(newest, newest if oldest is None else oldest - 1)


def cursor_at(signer: Signer, epoch: str, owner: UUID, seq: int) -> str:
    """After the change with this number."""
    return signer.sign(seq, ["changes", str(owner), epoch])


async def read_cursor(connection: Connection, signer: Signer, owner: UUID, cursor: str) -> int:
    """The number after which to go on. Raises CursorGone."""
    try:
        seq: int = signer.read(cursor, ["changes", str(owner), await epoch(connection)])
    except InvalidCursor:
        raise gone("The cursor is not one of this feed, or from before the database was restored.") from None
    newest, before_oldest = await standing(connection, owner)
    if not before_oldest <= seq <= newest:
        raise gone("The changes that follow this cursor are not kept any more.")
    return seq


async def page(connection: Connection, owner: UUID, after: int, limit: int) -> Sequence[Row]:
    """The next changes. The one after `after` is the first, or there is none yet."""
    return await connection.fetch(_PAGE, owner, after, limit)


def gone(why: str) -> CursorGone:
    return CursorGone(
        f"{why} Read all notes with GET {EXPORT}, and go on from the cursor in its header `Changes-Cursor`.",
        begin_again=EXPORT,
    )
