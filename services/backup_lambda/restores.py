"""Restores as ops see them: asked for, shown. What of them is stored, and what that says."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from backup_lambda import __version__, backups, history, idempotency, objects, states
from backup_lambda.backups import StartWorker
from backup_lambda.errors import (
    BackupExpired,
    BackupUnreadable,
    InvalidRequest,
    NotYet,
    ObjectChanged,
    RestoreNotFound,
    RestoreRefused,
)
from backup_lambda.lease import Clock, Progress, understood
from backup_lambda.manifest import Manifest, TableEntry
from backup_lambda.schemas import ProgressOut, Restore, RestoreIn, TableRestored, TableWanted
from backup_lambda.states import SILENT, STARTED_WITHIN
from backup_lambda.store import S3Store
from backup_lambda.tasks import RestoreTask

ROOT = "restores/"
NEVER_STARTED = "it was never started"
Read = TypeVar("Read", bound=BaseModel)


class Request(BaseModel):
    """`request.json`: what was asked for."""

    id: str
    backup_id: str
    created_at: datetime
    requested_by: str | None
    wanted: RestoreIn
    app_version: str = __version__


class Restored(BaseModel):
    """What was restored; `reason` says what is not in it, if something had to be left out."""

    tables: list[TableRestored] = []
    rows: int = 0
    tokens_revoked: int = 0
    reason: str | None = None


class Transaction(BaseModel):
    """One of the live database, by which whoever comes later can ask whether it was committed."""

    xid: str
    system_identifier: str  # of the database cluster: another one numbers its transactions anew


class Prepared(BaseModel):
    """`prepared.json`: written right before the end, which may come without anybody who could write `result.json`.

    Without a transaction the end is that a new database gets its name.
    """

    restored: Restored
    transaction: Transaction | None


class Result(BaseModel):
    """`result.json`: the restore has ended."""

    outcome: Literal["completed", "failed"]
    restored: Restored
    reason: str | None = None  # why it failed
    started_at: datetime | None
    ended_at: datetime


@dataclass(frozen=True)
class Found:
    """What the bucket holds of a restore."""

    asked: Request
    progress: Progress | None
    result: Result | None
    prepared: bool

    def lost(self, now: datetime) -> str | None:
        """Why nobody works on it any more, although it has not ended."""
        if self.result:
            return None
        if self.progress is None:
            return NEVER_STARTED if now >= self.asked.created_at + STARTED_WITHIN else None
        if self.progress.announced or self.progress.lost(now):
            return self.progress.reason or SILENT
        return None


def folder(restore_id: str) -> str:
    return f"{ROOT}{restore_id}/"


async def request(
    store: S3Store,
    start_worker: StartWorker,
    backup_id: str,
    wanted: RestoreIn,
    *,
    key: str | None,
    requested_by: str | None,
    now: Clock,
) -> Restore:
    """Ask for a restore; with the `key` of an earlier request, the restore that it asked for.

    The worker is started as long as none has begun. Raises BackupNotFound, NotYet, BackupExpired, TableNotFound,
    RestoreRefused (not proven, and no reason; or these rows cannot be restored at all), KeyReused and AwsError.
    """
    if key is None:
        restore_id = history.new_id(now())
    else:
        restore_id = await idempotency.id_for(store, key, wanted, now, restored_id=backup_id)
    if not await store.names(folder(restore_id)):
        chosen(await allowed(store, backup_id, wanted, now), wanted)
        asked = Request(
            id=restore_id,
            backup_id=backup_id,
            created_at=now(),  # its id may be older: that of a key which asked before, and was refused
            requested_by=requested_by,
            wanted=wanted,
        )
        # Another request with this key may just write the same.
        with suppress(ObjectChanged):
            await store.put(f"{folder(restore_id)}request.json", asked.model_dump_json(indent=1).encode())
    restore = await show(store, restore_id, now)
    if restore.state == "queued":
        await start_worker(RestoreTask(restore_id=restore_id))
    return restore


async def allowed(store: S3Store, backup_id: str, wanted: RestoreIn, now: Clock) -> Manifest:
    """The manifest of a backup that may be restored. Raises BackupExpired, NotYet and RestoreRefused."""
    found = await objects.read(store, backup_id)
    if "expired.json" in found.names:
        raise BackupExpired(backups.EXPIRED)
    backup = states.shown(found, now())
    if found.manifest is None or not backup.ended:
        raise NotYet(f"It is {backup.state}: only a backup that is stored, and not being proven, can be restored.")
    if backup.state != "proven" and not wanted.because:
        why = f", {backup.reason}" if backup.reason else ""
        raise RestoreRefused(
            f"It is not proven, but {backup.state}{why}. Have it proven, POST /backups/{backup_id}/proofs with {{}}; or"
            " say in `because` why it is restored all the same."
        )
    return found.manifest


def chosen(manifest: Manifest, wanted: RestoreIn) -> list[tuple[TableWanted, TableEntry]]:
    """The tables that are to be restored into the live database. Raises TableNotFound, InvalidRequest, RestoreRefused.

    Not those of which old rows would do harm: tokens that were revoked since, and which migrations ran.
    """
    those = [(each, backups.entry_of(manifest, each.table)) for each in wanted.tables or ()]
    if len({entry.object for _, entry in those}) < len(those):
        raise InvalidRequest("A table is named twice.")
    for each, entry in those:
        if is_of_tokens(entry):
            raise RestoreRefused(
                f"{entry.name} holds access tokens: what was revoked since would be valid again. Make new ones."
            )
        if entry.name.endswith(".alembic_version"):
            raise RestoreRefused(f"{entry.name} says which migrations ran, and these did not run back.")
        if not entry.primary_key:
            raise RestoreRefused(f"{entry.name} has no primary key by which its rows could be told apart.")
        if any(len(key) != len(entry.primary_key) for key in each.keys or ()):
            raise InvalidRequest(f"A key of {entry.name} has these values: {', '.join(entry.primary_key)}.")
    return those


def is_of_tokens(entry: TableEntry) -> bool:
    """Whether its rows let somebody in."""
    columns = {column["name"] for column in entry.catalogue["columns"]}
    return entry.name.endswith(".tokens") and "expires_at" in columns


async def show(store: S3Store, restore_id: str, now: Clock) -> Restore:
    """Raises RestoreNotFound, BackupUnreadable and AwsError."""
    found = await read(store, restore_id)
    return shown(found, now())


async def read(store: S3Store, restore_id: str) -> Found:
    """Raises RestoreNotFound, BackupUnreadable and AwsError."""
    where = folder(restore_id)
    names = await store.names(where) if history.is_id(restore_id) else frozenset[str]()
    if "request.json" not in names:
        raise RestoreNotFound("No restore has this id.")
    asked = _parsed("request.json", (await store.get(f"{where}request.json")).body, Request)
    progress = understood((await store.get(f"{where}progress.json")).body) if "progress.json" in names else None
    # The result is written before the end is noted in the progress: in this order it is not missed.
    if progress and progress.announced and "result.json" not in names:
        names = await store.names(where)
    result = None
    if "result.json" in names:
        result = _parsed("result.json", (await store.get(f"{where}result.json")).body, Result)
    return Found(asked, progress, result, "prepared.json" in names)


def shown(found: Found, now: datetime) -> Restore:
    """The restore in the state that it has, first match wins."""
    wanted, progress = found.asked.wanted, found.progress
    restore = Restore(
        id=found.asked.id,
        backup_id=found.asked.backup_id,
        state="queued",
        database=wanted.database,
        dry_run=wanted.dry_run,
        on_conflict=wanted.on_conflict,
        because=wanted.because,
        created_at=found.asked.created_at,
        requested_by=found.asked.requested_by,
        started_at=progress.started_at if progress else None,
        announced=progress is not None and progress.announced,
    )
    if result := found.result:
        return restore.model_copy(
            update={
                "state": result.outcome,
                **{name: getattr(result.restored, name) for name in ("tables", "rows", "tokens_revoked")},
                "reason": result.reason or result.restored.reason,
                "started_at": result.started_at,
                "ended_at": result.ended_at,
            }
        )
    if lost := found.lost(now):
        if found.prepared:
            return restore.model_copy(update={"state": "running", "reason": f"{lost}; {_UNKNOWN}"})
        ended_at = progress.lease_until if progress else found.asked.created_at + STARTED_WITHIN
        return restore.model_copy(update={"state": "failed", "reason": f"lost: {lost}", "ended_at": ended_at})
    if progress:
        told = {"state": "running", "progress": ProgressOut.of(progress), "reason": progress.reason}
        return restore.model_copy(update=told)
    return restore


_UNKNOWN = (
    "that was at its very end, and whether it was committed is not known yet: the next worker, of any backup or"
    " restore, asks the database"
)


def counted(tables: Sequence[TableRestored]) -> int:
    """The rows that the tables were given, or had already."""
    return sum(each.added + each.changed + each.same for each in tables)


def _parsed(name: str, body: bytes, kind: type[Read]) -> Read:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise BackupUnreadable(f"{name} is not one that this release reads") from error
