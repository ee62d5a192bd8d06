"""Edits of a note's content that need not send all of it."""

from uuid import UUID

from notes_api import notes
from notes_api.db import Connection, Row
from notes_api.errors import InvalidRequest, TextFoundOften, TextNotFound
from notes_api.fields import MAX_CONTENT_BYTES
from notes_api.notes import Version


async def append(
    connection: Connection, owner: UUID, note_id: UUID, expected: Version, *, content: str, separator: str
) -> Row:
    """`separator` stands between what is there and `content`, so not at the beginning of an empty note.

    Raises NoteNotFound, NoteTrashed, VersionMismatch, and InvalidRequest when the note becomes too large.
    """
    there = await notes.current(connection, owner, note_id, expected)
    parts = [there["content"], separator] if there["content"] else []
    changed = "".join([*parts, content])
    _within_limit(len(changed.encode()))
    return await notes.change(connection, owner, note_id, {"content": changed}, Version.of(there))


async def replace(
    connection: Connection, owner: UUID, note_id: UUID, expected: Version, *, find: str, by: str, everywhere: bool
) -> Row:
    """The one place where `find` stands, or each of several from the beginning on.

    Raises NoteNotFound, NoteTrashed, VersionMismatch, TextNotFound, TextFoundOften, and InvalidRequest when the note
    becomes too large.
    """
    there = await notes.current(connection, owner, note_id, expected)
    content: str = there["content"]
    first = content.find(find)
    if first < 0:
        raise TextNotFound("Characters and their case are compared one by one.")
    if not everywhere and content.find(find, first + 1) >= 0:  # one that overlaps the first is another place, too
        raise TextFoundOften("Find more of the text around it, or send `all: true`.")
    # Counted before it is made: a million empty lines replaced by 1 MiB each would be 1 TiB.
    _within_limit(len(content.encode()) + content.count(find) * (len(by.encode()) - len(find.encode())))
    return await notes.change(connection, owner, note_id, {"content": content.replace(find, by)}, Version.of(there))


def _within_limit(size_bytes: int) -> None:
    if size_bytes > MAX_CONTENT_BYTES:
        raise InvalidRequest(f"The content would have {size_bytes} bytes; it may have {MAX_CONTENT_BYTES}.")
