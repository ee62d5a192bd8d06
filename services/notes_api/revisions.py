"""Revisions: the states that a note had. Each change, a restore by SQL among them, keeps the one before it.

A state lasts until its `replaced_at`, and the current one has none; that, not the number, is their order. A restore by
SQL can bring former numbers back: where several states have one, the latest of them is meant.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from notes_api import lines, notes
from notes_api.db import Connection, Row
from notes_api.errors import NoteNotFound, RevisionNotFound
from notes_api.notes import FIELDS, PUBLIC_NAMES, Version, changed_fields

_COLUMNS = (
    "replaced_at, revision, updated_at, title, content, tags, pinned, archived, metadata, attachment_count, deleted_at,"
    " purge_at"
)
# `$3`, the place to go on from, is null at the beginning. The state before the last one of the page is read, too: each
# is compared with the one before it.
_LIST = f"""
with states as (
    select null::timestamptz as {_COLUMNS} from notes.notes where id = $1 and owner = $2 and $3::timestamptz is null
    union all (
        select {_COLUMNS} from notes.revisions where note_id = $1 and replaced_at <= coalesce($3, 'infinity')
        order by replaced_at desc limit $4
    )
)
select revision, updated_at, replaced_at, title, deleted_at, replaced_at is null as current,
    case when lead(revision) over before is null then '{{}}'
         else {changed_fields("(lead({}) over before)", "{}")} end as changed_fields
from states window before as (order by replaced_at desc nulls first)
order by replaced_at desc nulls first limit $4
"""  # noqa: S608  # constants
_EXISTS = "select exists (select from notes.notes where id = $1 and owner = $2)"
_AT = f"""
select {_COLUMNS} from notes.revisions where note_id = $1 and replaced_at > $2 order by replaced_at limit 1
"""  # noqa: S608  # constants
_OF_NUMBER = f"""
select {_COLUMNS} from notes.revisions where note_id = $1 and revision = $2 order by replaced_at desc limit 1
"""  # noqa: S608  # constants


class Page(NamedTuple):
    rows: Sequence[Row]
    next: datetime | None  # where to go on, None at the end


class Diff(NamedTuple):
    before: Row
    after: Row
    fields: Mapping[str, tuple[Any, Any]]  # other than content: before and after
    content: lines.Difference


async def page(connection: Connection, owner: UUID, note_id: UUID, start: datetime | None, limit: int) -> Page:
    """Up to `limit` states, the latest first, from `start` on. Raises NoteNotFound.

    A change that is made meanwhile moves none of them: a page begins at a time, which is where a state ended.
    """
    if not await connection.fetchval(_EXISTS, note_id, owner):
        raise NoteNotFound(f"You have no note {note_id}.")
    rows = await connection.fetch(_LIST, note_id, owner, start, limit + 1)
    return Page(rows[:limit], rows[limit]["replaced_at"] if len(rows) > limit else None)


async def at(connection: Connection, owner: UUID, note_id: UUID, time: datetime) -> Row:
    """The note as it was then. Raises NoteNotFound, and RevisionNotFound for a time before what is known of it."""
    there = await notes.get(connection, owner, note_id)
    row = _state(there, await connection.fetchrow(_AT, note_id, time))
    if row["updated_at"] > time:
        raise RevisionNotFound(f"The first state that is known of it is of {row['updated_at'].isoformat()}.")
    return row


async def get(connection: Connection, owner: UUID, note_id: UUID, revision: int) -> Row:
    """With `replaced_at`. Raises NoteNotFound and RevisionNotFound."""
    return await _of_number(connection, await notes.get(connection, owner, note_id), revision)


async def restore(connection: Connection, owner: UUID, note_id: UUID, revision: int, expected: Version) -> Row:
    """Make the note what it was, as a new revision; attachments and trash stay as they are.

    Raises NoteNotFound, RevisionNotFound, NoteTrashed and VersionMismatch.
    """
    state = await get(connection, owner, note_id, revision)
    return await notes.change(connection, owner, note_id, {name: state[name] for name in FIELDS}, expected)


async def diff(connection: Connection, owner: UUID, note_id: UUID, of: int, to: int | None) -> Diff:
    """From revision `of` to revision `to`, or to the current one. Raises NoteNotFound and RevisionNotFound."""
    there = await notes.get(connection, owner, note_id)
    before = await _of_number(connection, there, of)
    after = _state(there, None) if to is None else await _of_number(connection, there, to)
    content = await lines.difference(before["content"], after["content"])
    fields = {
        public: (before[name], after[name])
        for name, public in PUBLIC_NAMES.items()
        if name != "content" and notes.differ(before[name], after[name])
    }
    return Diff(before, after, fields, content)


async def _of_number(connection: Connection, there: Row, revision: int) -> Row:
    if there["revision"] == revision:
        return _state(there, None)
    if former := await connection.fetchrow(_OF_NUMBER, there["id"], revision):
        return _state(there, former)
    raise RevisionNotFound(f"The note has no revision {revision}.")


def _state(there: Row, former: Row | None) -> Row:
    """A former state of a note, with those of its attachments of then that it still has; None is the current state."""
    if former is None:
        return {**there, "replaced_at": None}
    attachments = [each for each in there.get("attachments", ()) if each["confirmed_at"] <= former["updated_at"]]
    return {"id": there["id"], "created_at": there["created_at"], "attachments": attachments, **former}
