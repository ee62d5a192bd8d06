"""All notes of an owner as lines of JSON, of one moment, without holding more than a few of them."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, JsonValue

from notes_api import feed
from notes_api.cursors import Signer
from notes_api.db import Pool, connected
from notes_api.errors import TooManyExports
from notes_api.notes import WHOLE

AT_ONCE = 4  # of a process, which has few connections
PREFETCHED = 16  # notes, of up to 1 MiB each

_ALL = f"select {WHOLE} from notes.notes where owner = $1 order by created_at, id"  # noqa: S608  # constants


class ExportedNote(BaseModel):
    """A line."""

    id: UUID
    title: str
    content: str
    tags: list[str]
    pinned: bool
    archived: bool
    metadata: dict[str, JsonValue]
    revision: int
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    purge_at: datetime | None


class Exports:
    """Of a process: so many at a time, and one of an owner, who keeps nobody else from theirs."""

    def __init__(self) -> None:
        self._running: set[UUID] = set()

    @contextmanager
    def running(self, owner: UUID) -> Iterator[None]:
        """Raises TooManyExports."""
        if owner in self._running or len(self._running) >= AT_ONCE:
            raise TooManyExports
        self._running.add(owner)
        try:
            yield
        finally:
            self._running.remove(owner)


async def lines(pool: Pool, exports: Exports, signer: Signer, owner: UUID) -> AsyncGenerator[bytes, None]:
    """First where to follow the changes from, of the same moment; then a line for each note, the trash included.

    What is raised behind the first line cuts the connection, so that nobody takes a part for the whole.
    """
    with exports.running(owner):
        async with connected(pool) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            standing = await feed.standing(connection, owner)
            yield feed.cursor_at(signer, await feed.epoch(connection), owner, standing.newest).encode()
            async for row in connection.cursor(_ALL, owner, prefetch=PREFETCHED):
                values = {name: value for name, value in row.items() if name != "attachment_count"}
                yield ExportedNote.model_construct(None, **values).model_dump_json().encode() + b"\n"
