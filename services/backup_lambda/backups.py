"""Backups as their objects in the bucket tell them: requested, shown, listed.

A backup's state is which of its objects exist, and is stored nowhere else.
"""

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from backup_lambda.errors import BackupNotFound, BackupUnreadable, InvalidRequest, KeyReused, ObjectChanged
from backup_lambda.lease import LAST_ATTEMPT, TAKEN_OVER_WITHIN, Clock, Progress
from backup_lambda.manifest import Manifest, Previous, Request
from backup_lambda.schemas import Backup, BackupIn, BackupPage, ProgressOut, TableOut
from backup_lambda.store import S3Store

ROOT = "backups/"
PAGE = 100
SHOWN_AT_ONCE = 16
ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")
TIME = "%Y%m%dT%H%M%SZ"
# Lambda keeps an invocation that it cannot begin for an hour.
STARTED_WITHIN = timedelta(minutes=70)
Read = TypeVar("Read", bound=BaseModel)


class Failure(BaseModel):
    """`failure.json`: the backup has ended, and why."""

    request: Request
    reason: str
    started_at: datetime
    ended_at: datetime


class KeyRecord(BaseModel):
    """`idempotency/{sha256 of the key}.json`: which backup the key made, and of which request."""

    backup_id: str
    request_sha256: str


def folder(backup_id: str) -> str:
    return f"{ROOT}{backup_id}/"


async def request(
    store: S3Store,
    start_worker: Callable[[str], Awaitable[None]],
    wanted: BackupIn,
    *,
    key: str | None,
    requested_by: str | None,
    now: Clock,
) -> Backup:
    """Ask for a backup; with the `key` of an earlier request, the backup that it asked for.

    The worker is started as long as none has begun: whoever repeats a request that stopped half-way completes it.
    """
    backup_id = _new_id(now()) if key is None else await _id_for(store, key, wanted, now)
    asked = Request(
        id=backup_id, created_at=_time_of(backup_id), label=wanted.label, requested_by=requested_by
    ).model_dump_json(indent=1)
    try:
        await store.put(f"{folder(backup_id)}request.json", asked.encode())
    except ObjectChanged:
        if key is None:
            raise
        # An earlier request with this key wrote it.
    backup = await show(store, backup_id, now)
    if backup.state == "queued":
        await start_worker(backup_id)
    return backup


async def show(store: S3Store, backup_id: str, now: Clock) -> Backup:
    """Raises BackupNotFound, BackupUnreadable and AwsError."""
    names = await store.names(folder(backup_id)) if ID.fullmatch(backup_id) else set()
    if not names:
        raise BackupNotFound("No backup has this id.")

    async def read(name: str, kind: type[Read]) -> Read:
        try:
            return kind.model_validate_json((await store.get(folder(backup_id) + name)).body)
        except ValidationError as error:
            raise BackupUnreadable(f"{name} is not one that this release reads") from error

    progress = await read("progress.json", Progress) if "progress.json" in names else None
    announced = progress is not None and progress.announced
    if "manifest.json" in names:
        return _stored(await read("manifest.json", Manifest), announced)
    if "failure.json" in names:
        return _failed(await read("failure.json", Failure), announced)
    if "request.json" not in names:
        raise BackupUnreadable("request.json is missing")
    asked = await read("request.json", Request)
    if progress is None:
        return _not_begun(asked, now())
    if running := _running(asked, progress, now()):
        return running
    if await store.names(folder(backup_id)) != names:
        return await show(store, backup_id, now)  # it ended while we looked
    reason = f"lost: {progress.reason or 'its worker was not heard of any more'}"
    lost = Failure(request=asked, reason=reason, started_at=progress.started_at, ended_at=progress.lease_until)
    return _failed(lost, announced)


async def page(store: S3Store, before: str | None, now: Clock) -> BackupPage:
    """Up to 100 backups that are older than the id `before`, newest first.

    One that cannot be read is shown as failed, with the reason: it must not hide the others.
    """
    ids = await _newest(store, PAGE + 1, before, now)
    gate = asyncio.Semaphore(SHOWN_AT_ONCE)

    async def show_one(backup_id: str) -> Backup:
        async with gate:
            try:
                return await show(store, backup_id, now)
            except (BackupNotFound, BackupUnreadable) as error:
                reason, at = f"unreadable: {error.detail}", _time_of(backup_id)
                return Backup(id=backup_id, state="failed", label=None, created_at=at, reason=reason, requested_by=None)

    items = await asyncio.gather(*(show_one(backup_id) for backup_id in ids[:PAGE]))
    has_more = len(ids) > PAGE
    return BackupPage(items=items, next_cursor=ids[PAGE - 1] if has_more else None, has_more=has_more)


async def newest_stored(store: S3Store, now: Clock) -> Previous | None:
    """The newest stored backup, if there is one."""
    before = None
    while ids := await _newest(store, PAGE, before, now):
        for earlier in ids:
            if "manifest.json" in await store.names(folder(earlier)):
                body = (await store.get(f"{folder(earlier)}manifest.json")).body
                return Previous(id=earlier, sha256=hashlib.sha256(body).hexdigest())
        before = ids[-1]
    return None


def _new_id(at: datetime) -> str:
    return f"{at:{TIME}}-{secrets.token_hex(4)}"


def _time_of(backup_id: str) -> datetime:
    """Raises InvalidRequest when this is no id."""
    try:
        return datetime.strptime(backup_id.partition("-")[0], TIME).replace(tzinfo=UTC)
    except ValueError:
        raise InvalidRequest("This is not the id of a backup.") from None


def _is_id(name: str) -> bool:
    try:
        return bool(ID.fullmatch(name) and _time_of(name))
    except InvalidRequest:
        return False


async def _id_for(store: S3Store, key: str, wanted: BackupIn, now: Clock) -> str:
    # Defaults are left out, so that a field which a later release adds does not change the digest of an old request.
    digest = hashlib.sha256(wanted.model_dump_json(exclude_defaults=True).encode()).hexdigest()
    record = KeyRecord(backup_id=_new_id(now()), request_sha256=digest)
    name = f"idempotency/{hashlib.sha256(key.encode()).hexdigest()}.json"
    try:
        await store.put(name, record.model_dump_json(indent=1).encode())
    except ObjectChanged:
        record = KeyRecord.model_validate_json((await store.get(name)).body)
    if record.request_sha256 != digest:
        raise KeyReused(f"It asked for the backup {record.backup_id}, in other words.")
    return record.backup_id


async def _newest(store: S3Store, limit: int, before: str | None, now: Clock) -> list[str]:
    """Up to `limit` ids, newest first.

    S3 lists in ascending order only. So ever longer spans of time are listed, each ending where the last one began:
    a handful of requests, however many backups there are.
    """
    found: list[str] = []
    start, span, end = now(), timedelta(days=1), before or "~"
    if before:
        start = min(start, _time_of(before))  # a clock may have been wrong, but not by thousands of years
    oldest = await anext(_ids(store), "~")
    while len(found) < limit and oldest < end:
        start, span = start - span, 4 * span
        begin = f"{start:{TIME}}"
        found += reversed([each async for each in _ids(store, begin, end)])
        end = begin
    return found[:limit]


async def _ids(store: S3Store, begin: str = "", end: str = "~") -> AsyncIterator[str]:
    async for name in store.folders(ROOT, begin):
        if name >= end:
            return
        if _is_id(name):
            yield name


def _not_begun(asked: Request, now: datetime) -> Backup:
    if now < asked.created_at + STARTED_WITHIN:
        return Backup(**asked.model_dump(), state="queued")
    ended = {"ended_at": asked.created_at + STARTED_WITHIN, "reason": "lost: it was never started"}
    return Backup(**asked.model_dump(), state="failed", **ended)


def _running(asked: Request, progress: Progress, now: datetime) -> Backup | None:
    """None when its worker's lease has ended, and no other worker is to be expected any more."""
    reason = progress.reason
    if progress.lease_until <= now:
        if progress.attempt >= LAST_ATTEMPT or now >= progress.lease_until + TAKEN_OVER_WITHIN:
            return None
        silent = f"its worker was not heard of since {progress.updated_at:%H:%M:%S} UTC"
        reason = f"{reason or silent}; another attempt is due"
    told = ProgressOut.model_validate(progress, from_attributes=True)
    began = {"started_at": progress.started_at, "progress": told, "reason": reason}
    return Backup(**asked.model_dump(), state="running", **began)


def _stored(manifest: Manifest, announced: bool) -> Backup:
    tables = [TableOut.model_validate(table, from_attributes=True) for table in manifest.tables]
    return Backup(
        **manifest.request.model_dump(),
        state="stored",
        started_at=manifest.started_at,
        ended_at=manifest.ended_at,
        tables=tables,
        rows=sum(table.rows for table in tables),
        bytes=sum(table.bytes for table in tables),
        stored_bytes=sum(table.stored_bytes for table in tables),
        announced=announced,
    )


def _failed(failure: Failure, announced: bool) -> Backup:
    ended = {"started_at": failure.started_at, "ended_at": failure.ended_at, "reason": failure.reason}
    return Backup(**failure.request.model_dump(), state="failed", announced=announced, **ended)
