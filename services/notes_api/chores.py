"""What has to be done beside requests, in each process and by whichever comes first: nothing here is done twice."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from notes_api.db import Pool, connected
from notes_api.errors import NotesError
from notes_api.settings import Settings
from notes_api.storage import Storage

EVERY_SECONDS = 60
AFTER_A_FAILURE_SECONDS = 5
AT_ONCE = 1000

_PURGE = """
delete from notes.notes where id in (
    select id from notes.notes where purge_at <= now() order by purge_at limit 100 for update skip locked
)
"""
# With their notes, which a change of attachments locks first.
_EXPIRE_ATTACHMENTS = """
delete from notes.attachments where id in (
    select a.id from notes.attachments as a join notes.notes as n on n.id = a.note_id
    where a.confirmed_at is null and a.expires_at < now() - interval '1 hour' limit 100 for update skip locked
)
"""
_FORGET_KEYS = """
delete from notes.idempotency_keys where ctid = any (array(
    select ctid from notes.idempotency_keys where created_at < now() - interval '24 hours' limit 1000
))
"""
_EMPTY_OUTBOX = "delete from notes.outbox where ctid = any (array(select ctid from notes.outbox limit 1000))"
# Of each owner from the first one on, so that what is kept has no gap; and never what has not been relayed.
_FORGET_CHANGES = """
with old as (
    select owner, max(seq) as newest from (
        select owner, seq from notes.changes as c where at < now() - make_interval(days => $1)
            and not exists (select from notes.outbox as o where o.owner = c.owner and o.seq <= c.seq)
        order by at limit 1000
    ) as expired group by owner
)
delete from notes.changes as c using old
where c.owner = old.owner and c.seq <= old.newest
    and not exists (select from notes.outbox as o where o.owner = c.owner and o.seq <= c.seq)
"""
# A restore may have brought back an attachment whose object was about to go.
_NEEDED = "delete from notes.discarded_objects as d using notes.attachments as a where a.object = d.object"
# Not before the form with which it may be uploaded has expired.
_DISCARDED = """
select object from notes.discarded_objects where discarded_at < now() - interval '20 minutes'
order by discarded_at limit $1 for update skip locked
"""
_FORGET_DISCARDED = "delete from notes.discarded_objects where object = any ($1)"

log = logging.getLogger(__name__)


async def do(pool: Pool, settings: Settings, storage: Storage | None) -> None:
    """All that is due."""
    await _until_none_is_left(pool, _PURGE)
    await _until_none_is_left(pool, _EXPIRE_ATTACHMENTS)
    await _until_none_is_left(pool, _FORGET_KEYS)
    if not settings.topic_arn:  # nobody is told
        await _until_none_is_left(pool, _EMPTY_OUTBOX)
    await _until_none_is_left(pool, _FORGET_CHANGES, settings.changes_days)
    if storage:
        await _discard(pool, storage)


async def _until_none_is_left(pool: Pool, statement: str, *values: object) -> None:
    done = ""
    while not done.endswith(" 0"):
        async with connected(pool) as connection:
            done = await connection.execute(statement, *values)


async def _discard(pool: Pool, storage: Storage) -> None:
    """The objects of attachments that are gone. One whose name could not be forgotten is discarded again."""
    objects = [""]
    while objects:
        async with connected(pool) as connection, connection.transaction():
            await connection.execute(_NEEDED)
            objects = [row["object"] for row in await connection.fetch(_DISCARDED, AT_ONCE)]
            if objects:
                await storage.discard(objects)
                await connection.execute(_FORGET_DISCARDED, objects)


@asynccontextmanager
async def running(name: str, work: Callable[[], Awaitable[object]], every_seconds: float) -> AsyncIterator[None]:
    """`work` is done after each pause, whatever it raised before, which is logged."""
    task = asyncio.create_task(_again_and_again(name, work, every_seconds))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _again_and_again(name: str, work: Callable[[], Awaitable[object]], every_seconds: float) -> None:
    pause = every_seconds
    while True:
        await asyncio.sleep(pause)
        pause = every_seconds
        try:
            await work()
        except NotesError as error:  # what is away comes back
            log.warning("%s: %s %s", name, error.type, error.detail)
            pause = max(pause, AFTER_A_FAILURE_SECONDS)
        except Exception:
            log.exception("%s failed", name)
            pause = max(pause, AFTER_A_FAILURE_SECONDS)
