"""Waiting for changes: one query at a time for all who wait in this process, several times a second.

PostgreSQL could tell us (LISTEN and NOTIFY), but a transaction that notifies takes a lock of the whole server until its
commit is on disk, so that all writers would commit one after the other.
"""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

from notes_api import chores, feed, tokens
from notes_api.db import Pool, Row, connected
from notes_api.errors import DatabaseUnavailable, TooManyStreams
from notes_api.tokens import Caller

LOOK_SECONDS = 0.3
PING_SECONDS = 5  # and so often the token is looked at, too
MAX_STREAMS = 100  # of a process
AT_ONCE = 200

_NEWEST = "select owner, seq from notes.feeds where owner = any ($1)"


class Watch:
    """Of a process. `stopping` is set when it is told to end: nobody waits any longer then."""

    def __init__(self, pool: Pool, stopping: asyncio.Event) -> None:
        self._pool, self.stopping = pool, stopping
        self._waiting: set[tuple[UUID, int, asyncio.Event]] = set()
        self._somebody = asyncio.Event()
        self._streams = 0

    async def later(self, owner: UUID, after: int, seconds: float) -> None:
        """Returns when there is a change with a higher number, or after a while, or when the process is to end."""
        there = asyncio.Event()
        entry = (owner, after, there)
        self._waiting.add(entry)
        self._somebody.set()
        waits = [asyncio.create_task(there.wait()), asyncio.create_task(self.stopping.wait())]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.discard(entry)
            for each in waits:
                each.cancel()

    async def look(self) -> None:
        """Once, when somebody waits."""
        await self._somebody.wait()
        await asyncio.sleep(LOOK_SECONDS)
        if not self._waiting:
            self._somebody.clear()
            return
        owners = list({owner for owner, _, _ in self._waiting})
        async with connected(self._pool) as connection:
            newest = {row["owner"]: row["seq"] for row in await connection.fetch(_NEWEST, owners)}
        for owner, after, there in self._waiting:
            if newest.get(owner, 0) > after:
                there.set()

    def enter(self) -> None:
        """A stream is about to begin; `leave` when it has ended. Raises TooManyStreams."""
        if self._streams >= MAX_STREAMS:
            raise TooManyStreams
        self._streams += 1

    def leave(self) -> None:
        self._streams -= 1

    async def changes(self, caller: Caller, after: int) -> AsyncIterator[list[Row]]:
        """The next changes, as they come; an empty list every few seconds when there are none.

        It ends when the token is no good any more, when the changes that follow are not kept, when the database cannot
        be reached, and with the process. Whoever asks again from where it ended is told why, and misses nothing.
        """
        while not self.stopping.is_set():
            try:
                async with connected(self._pool) as connection:
                    if not await tokens.holds(connection, caller.token_id):
                        return
                    rows = list(await feed.page(connection, caller.owner, after, AT_ONCE))
            except DatabaseUnavailable:
                return
            if rows and rows[0]["seq"] != after + 1:
                return
            yield rows
            if rows:
                after = rows[-1]["seq"]
            else:
                await self.later(caller.owner, after, PING_SECONDS)


@asynccontextmanager
async def watch(pool: Pool) -> AsyncIterator[Watch]:
    """For the life of a process."""
    stopping = asyncio.Event()
    watching = Watch(pool, stopping)
    with _told_of_the_end(stopping):
        async with chores.running("watch", watching.look, every_seconds=0):
            yield watching


@contextmanager
def _told_of_the_end(stopping: asyncio.Event) -> Iterator[None]:
    """The server waits for open answers before it ends the application, which would wait for the application."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    former: dict[int, Any] = {}

    def told(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(stopping.set)
        former[number](number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        if callable(handler := signal.getsignal(number)):
            former[number] = handler
            signal.signal(number, told)
    try:
        yield
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)
