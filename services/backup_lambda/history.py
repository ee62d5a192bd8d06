"""Which backups there are, newest first. Their ids sort by time."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from backup_lambda import objects, states
from backup_lambda.errors import BackupNotFound, BackupUnreadable, InvalidRequest
from backup_lambda.lease import Clock
from backup_lambda.manifest import Manifest, Previous
from backup_lambda.objects import ID, ROOT, folder
from backup_lambda.store import S3Store

PAGE = 100
LOOKED_THROUGH = 100  # for a proven one: whoever waits for the answer has no time for all that there are
LOOKED_AT_ONCE = 16
TIME = "%Y%m%dT%H%M%SZ"
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)  # no id is older
CLOCKS_DIFFER_BY = timedelta(minutes=5)  # at most; an id from further ahead was made by a wrong one


async def newest(store: S3Store, limit: int, before: str | None, now: Clock) -> list[str]:
    """Up to `limit` ids, newest first.

    S3 lists in ascending order only. So ever longer spans of time are listed, each ending where the last one began:
    a handful of requests, however many backups there are.
    """
    found: list[str] = []
    start, span, end = max(now(), EARLIEST), timedelta(days=1), before or "~"
    if before:
        start = min(start, time_of(before))  # a clock may have been wrong, but not by thousands of years
    oldest = await anext(_ids(store), "~")
    while len(found) < limit and oldest < end:
        start, span = start - min(span, start - EARLIEST), 4 * span
        begin = f"{start:{TIME}}"
        found += reversed([each async for each in _ids(store, begin, end)])
        end = begin
    return found[:limit]


async def newest_stored(store: S3Store, now: Clock) -> Previous | None:
    """The newest stored backup, if there is one.

    One from a time that is still to come counts only when there is no other: a clock that once ran ahead would have
    every later backup name the same one as the one before it.
    """
    ahead = None
    async for each in _backwards(store, now):
        if "manifest.json" not in await store.names(folder(each)):
            continue
        if time_of(each) <= now() + CLOCKS_DIFFER_BY:
            return await _previous(store, each)
        ahead = ahead or each
    return await _previous(store, ahead) if ahead else None


async def newest_proven(
    store: S3Store, now: Clock, wanted: Callable[[Manifest], bool] = lambda _: True
) -> Manifest | None:
    """The manifest of the newest proven backup that is `wanted`, if there is one among the newest LOOKED_THROUGH.

    One without any proof costs one request.
    """
    gate = asyncio.Semaphore(LOOKED_AT_ONCE)

    async def has_proofs(backup_id: str) -> bool:
        async with gate:
            names = await objects.names_of(store, backup_id)
        return "manifest.json" in names and "expired.json" not in names and bool(objects.numbers(names))

    ids = await newest(store, LOOKED_THROUGH, None, now)
    for each, may_be in zip(ids, await asyncio.gather(*map(has_proofs, ids)), strict=True):
        if not may_be:
            continue
        with suppress(BackupUnreadable, BackupNotFound):
            found = await objects.read(store, each)
            if found.manifest and states.shown(found, now()).state == "proven" and wanted(found.manifest):
                return found.manifest
    return None


def new_id(at: datetime) -> str:
    """Two of the same second sort by time, too: three digits are 4096ths of it, and five are random."""
    return f"{at:{TIME}}-{at.microsecond * 4096 // 1_000_000:03x}{secrets.randbits(20):05x}"


def time_of(backup_id: str) -> datetime:
    """Raises InvalidRequest when this is no id."""
    try:
        at = datetime.strptime(backup_id.partition("-")[0], TIME).replace(tzinfo=UTC)
    except ValueError:
        at = None
    if at is None or at < EARLIEST:
        raise InvalidRequest("This is not the id of a backup.")
    return at


def is_id(name: str) -> bool:
    """Whether a backup may have this id: some that look like one name no day."""
    try:
        return bool(ID.fullmatch(name) and time_of(name))
    except InvalidRequest:
        return False


async def _backwards(store: S3Store, now: Clock) -> AsyncIterator[str]:
    """All ids, newest first."""
    before = None
    while ids := await newest(store, PAGE, before, now):
        for each in ids:
            yield each
        before = ids[-1]


async def _ids(store: S3Store, begin: str = "", end: str = "~") -> AsyncIterator[str]:
    async for name in store.folders(ROOT, begin):
        if name >= end:
            return
        if is_id(name):
            yield name


async def _previous(store: S3Store, backup_id: str) -> Previous:
    body = (await store.get(f"{folder(backup_id)}manifest.json")).body
    return Previous(id=backup_id, sha256=hashlib.sha256(body).hexdigest())
