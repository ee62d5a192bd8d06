"""What retention decides about: the backups that have data, as they are now, and whether somebody is at work on them.

Backups without data are none: those that expired, or failed and left nothing. They cost nothing beyond the listing.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ValidationError

from backup_lambda import history, housekeeping, objects, restores, states
from backup_lambda.errors import AwsRefused, BackupNotFound, BackupUnreadable, ObjectChanged
from backup_lambda.lease import Clock, understood
from backup_lambda.objects import Found, folder
from backup_lambda.schemas import State
from backup_lambda.states import STARTED_WITHIN
from backup_lambda.store import S3Store

READ_AT_ONCE = 16
DATA = ("data/", "index/")  # what retention may remove; all else of a backup stays for ever
STORED = {"stored", "suspect", "proven", "broken"}


@dataclass(frozen=True)
class Candidate:
    """A backup, as far as retention asks. `written_at` is when anything of it was written last, as S3 says."""

    id: str
    state: State
    written_at: datetime
    label: str | None = None
    selection: tuple[str, ...] | None = None  # the tables that were asked for; None is all
    stored_bytes: int = 0
    has_data: bool = True
    working: bool = False  # it is being made, or a proof of it is
    restored_by: str | None = None  # a restore that reads it, or is about to
    unreadable: str | None = None  # why nothing can be said about it

    @property
    def at(self) -> datetime:
        return history.time_of(self.id)

    @property
    def held(self) -> str | None:
        """Why it is not touched, whatever the policy says."""
        if self.unreadable:
            return f"it cannot be judged: {self.unreadable}"
        if self.state in ("queued", "running"):
            return f"it is {self.state}"
        if self.working:
            return "a worker is busy with it, or due"
        return f"{self.restored_by} restores it" if self.restored_by else None


class _Wanted(BaseModel):
    """Of `restores/{id}/request.json`."""

    backup_id: str


async def all_of(store: S3Store, now: Clock) -> list[Candidate]:
    """In no order; READ_AT_ONCE at once. Raises AwsError."""
    listing, restored = await housekeeping.listed(store), await being_restored(store, now)
    gate = asyncio.Semaphore(READ_AT_ONCE)

    async def read(backup_id: str, written: Mapping[str, datetime]) -> Candidate | None:
        async with gate:
            return await _candidate(store, backup_id, written, restored, now)

    found = await asyncio.gather(*(read(*each) for each in listing.items() if history.is_id(each[0])))
    return [each for each in found if each]


async def look(store: S3Store, backup_id: str, now: Clock) -> Candidate | None:
    """One, again. Raises AwsError."""
    restored = await being_restored(store, now)
    return await _candidate(store, backup_id, await objects.written_of(store, backup_id), restored, now)


async def being_restored(store: S3Store, now: Clock) -> dict[str, str]:
    """The backups that a restore reads, or is about to, each with the id of a restore. Raises AwsError.

    What was written long ago is no restore that runs: a live one writes its progress every few seconds.
    """
    objects_of: dict[str, dict[str, datetime]] = {}
    async for key, at in store.written(restores.ROOT):
        restore_id, _, name = key.removeprefix(restores.ROOT).partition("/")
        objects_of.setdefault(restore_id, {})[name] = at
    found = dict[str, str]()
    for restore_id, written in objects_of.items():
        recent = max(written.values()) > now() - STARTED_WITHIN
        if recent and "request.json" in written and "result.json" not in written:
            if "progress.json" in written:
                progress = understood((await store.get(f"{restores.folder(restore_id)}progress.json")).body)
                if progress and (progress.announced or progress.lost(now())):
                    continue
            try:
                wanted = (await store.get(f"{restores.folder(restore_id)}request.json")).body
                found[_Wanted.model_validate_json(wanted).backup_id] = restore_id
            except ValidationError:
                continue  # nobody can restore what nobody can read
    return found


async def _candidate(
    store: S3Store, backup_id: str, written: Mapping[str, datetime], restored: Mapping[str, str], now: Clock
) -> Candidate | None:
    has_data = any(name.startswith(DATA) for name in written)
    ended_without = "failure.json" in written and "manifest.json" not in written
    if not written or (not has_data and ("expired.json" in written or ended_without)):
        return None
    at, restored_by = max(written.values()), restored.get(backup_id)
    if "expired.json" in written:
        working = "progress.json" in written and await _at_work(store, backup_id, now)
        size = await _size(store, backup_id)
        return Candidate(backup_id, "expired", at, stored_bytes=size, working=working, restored_by=restored_by)
    try:
        found = await objects.read(store, backup_id, written)
    except BackupNotFound:
        return None
    except (BackupUnreadable, AwsRefused, ObjectChanged) as error:
        return Candidate(backup_id, "failed", at, has_data=has_data, unreadable=str(error))
    backup = states.shown(found, now())
    working = bool(found.at_work and not found.at_work.lost(now()))
    if backup.state in ("failed", "cancelled") and not (has_data or working):
        return None
    return Candidate(
        backup_id,
        backup.state,
        at,
        label=backup.label,
        selection=None if backup.selection is None else tuple(backup.selection),
        stored_bytes=backup.stored_bytes if found.manifest else await _size(store, backup_id),
        has_data=has_data,
        working=working,
        restored_by=restored_by,
        unreadable=_what_is_missing(found, written),
    )


async def _at_work(store: S3Store, backup_id: str, now: Clock) -> bool:
    """A proof that began right before it expired."""
    progress = understood((await store.get(f"{folder(backup_id)}progress.json")).body)
    return progress is not None and not progress.announced and not progress.lost(now())


def _what_is_missing(found: Found, written: Collection[str]) -> str | None:
    """Whatever is left of it may be what somebody puts the rest back for; and nothing else may be removed for it."""
    if found.manifest:
        data = [name for table in found.manifest.tables for name in (table.object, table.index)]
        lost = [name for name in data if name not in written]
        return f"{lost[0]} is missing, and {len(lost) - 1} more objects" if lost else None
    stored = found.progress is not None and found.progress.outcome in STORED
    if "manifest.json" not in found.names and (
        stored or found.newest_number > 0 or ("manifest.sig" in found.names and found.failure is None)
    ):
        return "it was stored once, and its manifest is missing"
    return None


async def _size(store: S3Store, backup_id: str) -> int:
    sizes = await store.sizes(folder(backup_id))
    return sum(size for key, size in sizes.items() if key.removeprefix(folder(backup_id)).startswith(DATA))
