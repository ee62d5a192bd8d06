"""The tags that an owner's notes have."""

from collections.abc import Sequence
from uuid import UUID

from notes_api.db import Connection, Row

_PAGE = """
select tag, count(*) as notes from notes.notes cross join unnest(tags) as tag
where owner = $1 and deleted_at is null and tag collate "C" > coalesce($2, '')
group by tag order by tag collate "C" limit $3
"""


async def page(connection: Connection, owner: UUID, after: str | None, limit: int) -> tuple[Sequence[Row], str | None]:
    """Up to `limit` tags after a tag, by their code points; and the last of them, if there are more.

    Notes in the trash do not count. It reads all notes of the owner: nobody keeps a sum that writers would wait for.
    """
    rows = await connection.fetch(_PAGE, owner, after, limit + 1)
    return rows[:limit], rows[limit - 1]["tag"] if len(rows) > limit else None
