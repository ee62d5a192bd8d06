"""Attachments: files that belong to a note. Their bytes go between clients and the bucket, not through here.

An attachment is announced, uploaded, and confirmed, when what is stored has been compared with what was announced. Only
then it counts: the note's count and so its ETag change in the database, see migrations/versions/0002. One that is
deleted leaves the name of its object in `notes.discarded_objects`, for `Storage.discard`.
"""

from collections.abc import Iterator, Sequence
from typing import NoReturn
from uuid import UUID

from notes_api.db import Connection, Row
from notes_api.errors import AttachmentNotFound, InvalidRequest, NoteNotFound, NoteTrashed, NotUploaded
from notes_api.storage import PREFIX, Storage, Stored

MAX_OF_A_NOTE = 100
# An upload may begin until its form expires, and take its time. What is not confirmed then is forgotten, when nothing
# can be uploaded to its place any more.
PENDING = "1 hour"

_SHOWN = "id, note_id, name, content_type, size_bytes, encode(sha256, 'base64') as sha256, created_at, confirmed_at"
_COLUMNS = f"{_SHOWN}, object, version, sha256 as digest"
_LOCK = "select deleted_at is not null as trashed from notes.notes where id = $1 and owner = $2 for update"
_OWNED = "select exists (select from notes.notes where id = $1 and owner = $2)"
_COUNT = """
select count(*) from notes.attachments where note_id = $1 and (confirmed_at is not null or expires_at > now())
"""
_ANNOUNCE = f"""
insert into notes.attachments (id, note_id, name, content_type, size_bytes, sha256, object, expires_at)
select id, $1, $2, $3, $4, $5, '{PREFIX}' || $1::uuid || '/' || id, now() + interval '{PENDING}'
from (select uuidv7() as id) as new
returning {_COLUMNS}
"""  # noqa: S608  # constants
_LIST = f"""
select {_SHOWN} from notes.attachments where note_id = $1 and confirmed_at is not null order by id
"""  # noqa: S608  # constants
_GET = f"""
select {_COLUMNS} from notes.attachments
where id = $1 and note_id = (select id from notes.notes where id = $2 and owner = $3)
"""  # noqa: S608  # constants
_PENDING = f"""
select {_COLUMNS} from notes.attachments where id = $1 and confirmed_at is null and expires_at > now()
"""  # noqa: S608  # constants
_CONFIRM = "update notes.attachments set confirmed_at = clock_timestamp(), version = $2 where id = $1"
_SET_VERSION = "update notes.attachments set version = $2 where id = $1"
# The note is locked first, as whoever else changes attachments has it.
_DELETE = """
delete from notes.attachments
where id = $1 and note_id = (select id from notes.notes where id = $2 and owner = $3 for update) returning id
"""


async def announce(
    connection: Connection,
    owner: UUID,
    note_id: UUID,
    *,
    name: str,
    content_type: str,
    size_bytes: int,
    sha256: bytes,
    max_bytes: int,
) -> Row:
    """One that is not there yet. Raises NoteNotFound, NoteTrashed and InvalidRequest."""
    if size_bytes > max_bytes:
        detail = f"An attachment has at most {max_bytes} bytes here."
        raise InvalidRequest(detail, errors=[{"pointer": "#/size_bytes", "code": "too_large", "detail": detail}])
    async with connection.transaction():
        await _lock(connection, owner, note_id)
        if await connection.fetchval(_COUNT, note_id) >= MAX_OF_A_NOTE:
            raise InvalidRequest(f"A note has at most {MAX_OF_A_NOTE} attachments.")
        row = await connection.fetchrow(_ANNOUNCE, note_id, name, content_type, size_bytes, sha256)
    assert row is not None
    return row


async def of_note(connection: Connection, owner: UUID, note_id: UUID) -> Sequence[Row]:
    """Those that count, in the order in which they were announced; never over MAX_OF_A_NOTE. Raises NoteNotFound."""
    found = await connection.fetch(_LIST, note_id)
    if not await connection.fetchval(_OWNED, note_id, owner):
        raise NoteNotFound(f"You have no note {note_id}.")
    return found


async def get(connection: Connection, owner: UUID, note_id: UUID, attachment_id: UUID) -> Row:
    """Also one that is not confirmed. Raises NoteNotFound and AttachmentNotFound."""
    row = await connection.fetchrow(_GET, attachment_id, note_id, owner)
    if row is None:
        await _refuse(connection, owner, note_id, attachment_id)
    return row


async def pending(connection: Connection, attachment_id: UUID) -> Row | None:
    """None for one that is confirmed, expired or gone."""
    return await connection.fetchrow(_PENDING, attachment_id)


async def confirm(connection: Connection, storage: Storage, owner: UUID, note_id: UUID, attachment_id: UUID) -> Row:
    """Once its bytes are there; again does nothing.

    Raises NoteNotFound, AttachmentNotFound, NoteTrashed, NotUploaded and StorageUnavailable.
    """
    row = await get(connection, owner, note_id, attachment_id)
    if row["confirmed_at"] is not None:
        return row
    stored = await _uploaded(storage, row)
    async with connection.transaction():
        await _lock(connection, owner, note_id)
        row = await get(connection, owner, note_id, attachment_id)
        if row["confirmed_at"] is None:  # else another request has confirmed it meanwhile
            await connection.execute(_CONFIRM, attachment_id, stored.version)
            row = await get(connection, owner, note_id, attachment_id)
    return row


async def find(connection: Connection, storage: Storage, row: Row) -> str | None:
    """The version of a confirmed attachment's object to download. Raises NotUploaded and StorageUnavailable.

    A form can be sent again while it is valid, even after the confirmation: then the version that was confirmed is a
    former one, and the bucket drops those after a while. The latest has the same bytes, and takes its place.
    """
    if await storage.head(row["object"], row["version"]) is None:
        stored = await _uploaded(storage, row)
        await connection.execute(_SET_VERSION, row["id"], stored.version)
        return stored.version
    version: str | None = row["version"]
    return version


async def delete(connection: Connection, owner: UUID, note_id: UUID, attachment_id: UUID) -> None:
    """Confirmed or not. Raises NoteNotFound and AttachmentNotFound."""
    if await connection.fetchval(_DELETE, attachment_id, note_id, owner) is None:
        await _refuse(connection, owner, note_id, attachment_id)


async def _lock(connection: Connection, owner: UUID, note_id: UUID) -> None:
    note = await connection.fetchrow(_LOCK, note_id, owner)
    if note is None:
        raise NoteNotFound(f"You have no note {note_id}.")
    if note["trashed"]:
        raise NoteTrashed("Restore it first: POST .../notes/{id}:restore.")


async def _uploaded(storage: Storage, row: Row) -> Stored:
    """The latest version, which is as was announced. Raises NotUploaded and StorageUnavailable."""
    stored = await storage.head(row["object"])
    if stored is None:
        raise NotUploaded("Nothing was uploaded. Send the form with the bytes, and then confirm.")
    if stored.size_bytes == row["size_bytes"] and stored.sha256 is None:
        stored = stored._replace(sha256=await storage.digest(row["object"], stored.version))
    if wrong := " and ".join(_differences(stored, row)):
        raise NotUploaded(f"What was uploaded has another {wrong}. Upload again what was announced.")
    return stored


def _differences(stored: Stored, row: Row) -> Iterator[str]:
    if stored.size_bytes != row["size_bytes"]:
        yield "size"
    if stored.content_type != row["content_type"]:
        yield "content type"
    if stored.sha256 is not None and stored.sha256 != row["digest"]:
        yield "checksum"


async def _refuse(connection: Connection, owner: UUID, note_id: UUID, attachment_id: UUID) -> NoReturn:
    if not await connection.fetchval(_OWNED, note_id, owner):
        raise NoteNotFound(f"You have no note {note_id}.")
    raise AttachmentNotFound(f"The note has no attachment {attachment_id}.")
