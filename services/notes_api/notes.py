"""Notes: what an owner may do with them. Somebody else's note does not exist."""

import base64
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from notes_api.errors import InvalidCursor, NoteNotFound
from notes_api.models import Note
from notes_api.schemas import NoteIn

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Cursor:
    """A place in an owner's notes: that of the note it names, whether or not it still exists."""

    created_at: datetime
    id: UUID

    @classmethod
    def read(cls, text: str) -> Self:
        """What `str` gave. Raises InvalidCursor."""
        try:
            microseconds, id_ = struct.unpack(">q16s", base64.b64decode(text, altchars=b"-_", validate=True))
            return cls(_EPOCH + timedelta(microseconds=microseconds), UUID(bytes=id_))
        except (ValueError, OverflowError, struct.error):
            raise InvalidCursor("Begin again without a cursor.") from None

    def __str__(self) -> str:
        microseconds = (self.created_at - _EPOCH) // timedelta(microseconds=1)
        return base64.urlsafe_b64encode(struct.pack(">q16s", microseconds, self.id.bytes)).decode()


async def create(session: AsyncSession, owner: UUID, new: NoteIn) -> Note:
    note = Note(owner=owner, title=new.title, content=new.content, tags=new.tags)
    session.add(note)
    await session.flush()
    return note


async def get(session: AsyncSession, owner: UUID, note_id: UUID) -> Note:
    """Raises NoteNotFound."""
    note = await session.scalar(select(Note).where(Note.id == note_id, Note.owner == owner))
    if note is None:
        raise NoteNotFound(f"You have no note {note_id}.")
    return note


async def page(
    session: AsyncSession, owner: UUID, after: Cursor | None, limit: int
) -> tuple[list[Note], Cursor | None]:
    """Up to `limit` notes of `owner`, newest first, strictly after `after`; and the cursor of the next page, if any.

    Their content is not read. None is returned twice; one whose transaction ends while a client pages may be missed.
    """
    query = select(Note).where(Note.owner == owner).options(defer(Note.content, raiseload=True))
    if after:
        query = query.where(tuple_(Note.created_at, Note.id) < (after.created_at, after.id))
    query = query.order_by(Note.created_at.desc(), Note.id.desc()).limit(limit + 1)
    found = list(await session.scalars(query))
    notes = found[:limit]
    return notes, Cursor(notes[-1].created_at, notes[-1].id) if len(found) > limit else None
