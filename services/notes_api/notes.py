"""Notes: what an owner may do with them. Somebody else's note does not exist.

Every change names the version that it changes, and is one UPDATE that finds a row of that version or none. Revisions,
former states and the owner's changes follow from it in the database: see migrations/versions/0002.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, NoReturn
from uuid import UUID

from notes_api.db import Connection, Row
from notes_api.errors import (
    IdTaken,
    MalformedRequest,
    NoteExists,
    NoteNotFound,
    NoteNotTrashed,
    NoteTrashed,
    PreconditionMissing,
    VersionMismatch,
)
from notes_api.fields import metadata_within_limits
from notes_api.schemas import NoteEdit, NoteIn, etag

# What a client sees of a note in a list, and alone.
LISTED = (
    "id, title, tags, pinned, archived, metadata, attachment_count, revision, created_at, updated_at, deleted_at,"
    " purge_at"
)
WHOLE = f"{LISTED}, content"
FIELDS = ("title", "content", "tags", "pinned", "archived", "metadata")
# All that is a part of a state, by column: what clients see it named.
PUBLIC_NAMES = {name: name for name in FIELDS} | {"attachment_count": "attachments", "deleted_at": "deleted_at"}


def changed_fields(before: str, after: str) -> str:
    """SQL for the names of what differs; `before` and `after` have `{}` where the column stands."""
    text = {"metadata": "{}::text"}  # 1 and 1.0 are equal numbers, and not the same state
    return "array_remove(array[{}]::text[], null)".format(
        ", ".join(
            "case when {} is distinct from {} then '{}' end".format(
                text.get(name, "{}").format(before.format(name)),
                text.get(name, "{}").format(after.format(name)),
                public,
            )
            for name, public in PUBLIC_NAMES.items()
        )
    )


_CREATE = f"""
insert into notes.notes (owner, title, content, tags, pinned, archived, metadata)
values ($1, $2, $3, $4, $5, $6, $7) returning {WHOLE}
"""  # noqa: S608  # constants
# Those of an owner who make notes with ids take turns: two that make the same in another order would deadlock.
TURN = "pg_advisory_xact_lock(hashtextextended('notes:' || $1::uuid, 0))"
_CREATE_WITH_ID = f"""
with turn as (select {TURN})
insert into notes.notes (owner, title, content, tags, pinned, archived, metadata, id)
select $1, $2, $3, $4, $5, $6, $7, $8 from turn on conflict (id) do nothing returning {WHOLE}
"""  # noqa: S608  # constants
_GET = f"select {WHOLE} from notes.notes where id = $1 and owner = $2"  # noqa: S608  # constants
_ATTACHMENTS = """
select id, note_id, name, content_type, size_bytes, encode(sha256, 'base64') as sha256, created_at, confirmed_at
from notes.attachments where note_id = $1 and confirmed_at is not null order by id
"""
_UPDATE = """
update notes.notes set {columns}
where id = $1 and owner = $2
    and (revision, updated_at) in (select * from unnest($3::int[], $4::timestamptz[]))
    and deleted_at is {trashed}
returning {whole}
"""
_CHANGED_SINCE = f"""
select {changed_fields("f.{}", "n.{}")} from notes.notes as n join notes.revisions as f on f.note_id = n.id
where n.id = $1 and (f.revision, f.updated_at) in (select * from unnest($2::int[], $3::timestamptz[]))
order by f.replaced_at desc limit 1
"""  # noqa: S608  # constants
_PURGE = """
delete from notes.notes
where id = $1 and owner = $2
    and (revision, updated_at) in (select * from unnest($3::int[], $4::timestamptz[]))
    and deleted_at is not null returning id
"""
_VERSION = re.compile(r'"([1-9][0-9]{0,9})-([0-9a-f]{1,15})"')
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Version(NamedTuple):
    """What `If-Match` names, of a note of ours: the states any of which the client knows."""

    revisions: Sequence[int]
    times: Sequence[datetime]

    @classmethod
    def read(cls, if_match: str | None) -> "Version":
        """Raises PreconditionMissing and MalformedRequest. A `W/`, which a proxy that compresses adds, is ignored."""
        if if_match is None:
            raise PreconditionMissing("Send `If-Match` with the ETag of the version that you have read.")
        if if_match.strip() == "*":
            raise MalformedRequest("`If-Match: *` names no version: send the ETag of the one that you have read.")
        if if_match.count('"') < 2:
            raise MalformedRequest("`If-Match` has an ETag as it was given, quotes included.")
        found = _VERSION.findall(if_match)
        known = [(int(number), int(time, 16)) for number, time in found if int(number) < 2**31]
        return cls([n for n, _ in known], [_EPOCH + timedelta(microseconds=min(t, 2**57)) for _, t in known])

    @classmethod
    def of(cls, row: Row) -> "Version":
        return cls([row["revision"]], [row["updated_at"]])

    def includes(self, row: Row) -> bool:
        return (row["revision"], row["updated_at"]) in zip(self.revisions, self.times, strict=True)


async def create(connection: Connection, owner: UUID, new: NoteIn) -> Row:
    row = await connection.fetchrow(_CREATE, owner, *_values(new))
    assert row
    return row


async def create_with_id(connection: Connection, owner: UUID, note_id: UUID, new: NoteIn) -> Row:
    """Raises NoteExists, and IdTaken for one that is somebody else's."""
    if row := await connection.fetchrow(_CREATE_WITH_ID, owner, *_values(new), note_id):
        return row
    there = await connection.fetchrow(_GET, note_id, owner)
    if there is None:
        raise IdTaken(f"Make another id than {note_id}.")
    raise NoteExists(
        "An empty `changed_fields` says that it is as you want it.",
        current_etag=etag(there),
        changed_fields=[name for name in FIELDS if differ(there[name], getattr(new, name))],
    )


async def get(connection: Connection, owner: UUID, note_id: UUID) -> Row:
    """In the trash, too, until it is purged. With `attachments`. Raises NoteNotFound."""
    row = await connection.fetchrow(_GET, note_id, owner)
    if row is None:
        raise NoteNotFound(f"You have no note {note_id}.")
    return await with_attachments(connection, row)


async def with_attachments(connection: Connection, row: Row) -> Row:
    if not row["attachment_count"]:
        return row
    return {**row, "attachments": [dict(each) for each in await connection.fetch(_ATTACHMENTS, row["id"])]}


async def replace(connection: Connection, owner: UUID, note_id: UUID, new: NoteIn, expected: Version) -> Row:
    """Raises NoteNotFound, NoteTrashed and VersionMismatch."""
    return await change(connection, owner, note_id, dict(zip(FIELDS, _values(new), strict=True)), expected)


async def edit(connection: Connection, owner: UUID, note_id: UUID, wanted: NoteEdit, expected: Version) -> Row:
    """Raises NoteNotFound, NoteTrashed, VersionMismatch and InvalidRequest, for metadata that becomes too large."""
    values = wanted.changes
    if "metadata" in values:
        there = await current(connection, owner, note_id, expected)
        values["metadata"] = metadata_within_limits(merged(there["metadata"], values["metadata"]) or {})
        expected = Version.of(there)
    return await change(connection, owner, note_id, values, expected)


async def trash(connection: Connection, owner: UUID, note_id: UUID, expected: Version, days: int) -> Row:
    """Raises NoteNotFound, NoteTrashed and VersionMismatch."""
    now = datetime.now(UTC)
    values = {"deleted_at": now, "purge_at": now + timedelta(days=days)}
    return await change(connection, owner, note_id, values, expected)


async def restore(connection: Connection, owner: UUID, note_id: UUID, expected: Version) -> Row:
    """Out of the trash. Raises NoteNotFound, NoteNotTrashed and VersionMismatch."""
    values = {"deleted_at": None, "purge_at": None}
    return await change(connection, owner, note_id, values, expected, trashed=True)


async def purge(connection: Connection, owner: UUID, note_id: UUID, expected: Version) -> None:
    """For good, with revisions and attachments. Raises NoteNotFound, NoteNotTrashed and VersionMismatch."""
    if await connection.fetchval(_PURGE, note_id, owner, *expected) is None:
        await refuse(connection, owner, note_id, expected, trashed=True)


async def change(
    connection: Connection,
    owner: UUID,
    note_id: UUID,
    values: Mapping[str, Any],
    expected: Version,
    *,
    trashed: bool = False,
) -> Row:
    """Set these columns; when they are so already, nothing changes. What it raises: see those above."""
    columns = ", ".join(f"{name} = ${number}" for number, name in enumerate(values, 5)) or "title = title"
    query = _UPDATE.format(columns=columns, trashed="not null" if trashed else "null", whole=WHOLE)
    row = await connection.fetchrow(query, note_id, owner, *expected, *values.values())
    if row is None:
        await refuse(connection, owner, note_id, expected, trashed=trashed)
    return await with_attachments(connection, row)


async def current(connection: Connection, owner: UUID, note_id: UUID, expected: Version) -> Row:
    """What a change is computed from, which then names its `Version.of`. What it raises: as `change`."""
    row = await connection.fetchrow(_GET, note_id, owner)
    if row is None or row["deleted_at"] is not None or not expected.includes(row):
        await refuse(connection, owner, note_id, expected, trashed=False)
    return row


async def refuse(connection: Connection, owner: UUID, note_id: UUID, expected: Version, *, trashed: bool) -> NoReturn:
    """Raises what explains why no row was found."""
    row = await get(connection, owner, note_id)
    if expected.includes(row) and trashed and row["deleted_at"] is None:
        raise NoteNotTrashed("It is there already: only a note in the trash can be restored or deleted for good.")
    if expected.includes(row) and not trashed and row["deleted_at"] is not None:
        raise NoteTrashed("Restore it first: POST .../notes/{id}:restore.")
    raise VersionMismatch(
        "Read the note again, and make the change on what it is now.",
        current_etag=etag(row),
        changed_fields=await connection.fetchval(_CHANGED_SINCE, note_id, *expected),
    )


def differ(one: Any, other: Any) -> bool:
    """Whether they are not the same as JSON: for Python `True` is 1."""
    return bool(one != other) or json.dumps(one, sort_keys=True, default=str) != json.dumps(
        other, sort_keys=True, default=str
    )


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, of an object; None for a patch empties it."""
    if not isinstance(patch, dict):
        return patch
    kept = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = merged(kept.get(name), value)
    return kept


def _values(new: NoteIn) -> tuple[Any, ...]:
    return tuple(getattr(new, name) for name in FIELDS)
