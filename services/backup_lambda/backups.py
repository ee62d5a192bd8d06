"""Backups as ops and the worker see them: asked for, shown, listed, cancelled, proven again, downloaded."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from pydantic import ValidationError

from backup_lambda import history, idempotency, objects, states
from backup_lambda.endings import Ending
from backup_lambda.errors import (
    AlreadyEnded,
    AwsError,
    BackupExpired,
    BackupNotFound,
    BackupUnreadable,
    NothingToTell,
    NotYet,
    ObjectAltered,
    ObjectChanged,
    TableNotFound,
)
from backup_lambda.history import PAGE
from backup_lambda.lease import Clock
from backup_lambda.manifest import Cancel, Manifest, Request, TableEntry
from backup_lambda.objects import Failure, folder
from backup_lambda.schemas import Backup, BackupIn, BackupPage, ProofAsked, ProofIn, ProofOut, TableLink, qualified
from backup_lambda.signing import Signature
from backup_lambda.store import S3Store
from backup_lambda.tasks import Started, Task

SHOWN_AT_ONCE = 16
LOOK_AGAIN_SECONDS = 0.5
LINK_SECONDS = 15 * 60
PROVEN_WITHIN_SECONDS = 10
EXPIRED = "Its manifest and its proofs are kept. GET /backups lists those that have their data."
StartWorker = Callable[[Started], Awaitable[None]]
log = logging.getLogger(__name__)


async def request(
    store: S3Store,
    start_worker: StartWorker,
    wanted: BackupIn,
    *,
    key: str | None,
    requested_by: str | None,
    now: Clock,
) -> Backup:
    """Ask for a backup; with the `key` of an earlier request, the backup that it asked for.

    The worker is started as long as none has begun: whoever repeats a request that stopped half-way completes it.
    """
    backup_id = history.new_id(now()) if key is None else await idempotency.id_for(store, key, wanted, now)
    asked = Request(
        id=backup_id,
        created_at=history.time_of(backup_id),
        label=wanted.label,
        requested_by=requested_by,
        tables=wanted.tables,
    ).model_dump_json(indent=1)
    try:
        await store.put(f"{folder(backup_id)}request.json", asked.encode())
    except ObjectChanged:
        if key is None:
            raise
        # An earlier request with this key wrote it.
    backup = await show(store, backup_id, now)
    if backup.state == "queued":
        await start_worker(Task(task="backup", backup_id=backup_id))
    return backup


async def show(store: S3Store, backup_id: str, now: Clock) -> Backup:
    """Raises BackupNotFound, BackupUnreadable and AwsError."""
    found = await objects.read(store, backup_id)
    backup = states.shown(found, now())
    recorded = found.failure is not None or found.newest_number > 0
    if backup.ended and not recorded and await objects.names_of(store, backup_id) != found.names:
        return await show(store, backup_id, now)  # it went on while we looked
    return backup


async def ended(store: S3Store, backup: Backup, seconds: float, now: Clock) -> Backup:
    """The backup when it has ended, or as it is after so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not backup.ended:
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
                with suppress(AwsError):  # it was asked for all the same, and the client shall hear that
                    backup = await show(store, backup.id, now)
    return backup


async def page(store: S3Store, before: str | None, now: Clock) -> BackupPage:
    """Up to 100 backups that are older than the id `before`, newest first.

    One that cannot be read is shown as failed, with the reason: it must not hide the others.
    """
    ids = await history.newest(store, PAGE + 1, before, now)
    gate = asyncio.Semaphore(SHOWN_AT_ONCE)

    async def show_one(backup_id: str) -> Backup:
        async with gate:
            try:
                return await show(store, backup_id, now)
            except (BackupNotFound, BackupUnreadable) as error:
                reason, at = f"unreadable: {error.detail}", history.time_of(backup_id)
                return Backup(id=backup_id, state="failed", label=None, created_at=at, reason=reason, requested_by=None)

    items = await asyncio.gather(*(show_one(backup_id) for backup_id in ids[:PAGE]))
    has_more = len(ids) > PAGE
    return BackupPage(items=items, next_cursor=ids[PAGE - 1] if has_more else None, has_more=has_more)


async def cancel(store: S3Store, backup_id: str, requested_by: str | None, now: Clock) -> Backup:
    """Ask the worker to stop, which it does soon; once or more often. Raises AlreadyEnded."""
    backup = await show(store, backup_id, now)
    if backup.ended:
        raise AlreadyEnded(f"It is {backup.state}: there is nothing left to cancel.")
    asked = Cancel(requested_by=requested_by, requested_at=now())
    with suppress(ObjectChanged):  # somebody asked before
        await store.put(f"{folder(backup_id)}cancel.json", asked.model_dump_json(indent=1).encode())
    return await show(store, backup_id, now)


async def prove(
    store: S3Store,
    start_worker: StartWorker,
    backup_id: str,
    wanted: ProofIn,
    *,
    requested_by: str | None,
    now: Clock,
) -> ProofAsked:
    """Ask for another proof. Raises NotYet and BackupExpired. Of two that are asked for at once, one is made."""
    found = await objects.read(store, backup_id)
    if "expired.json" in found.names:
        raise BackupExpired(EXPIRED)
    backup = states.shown(found, now())
    if found.at_work and not found.at_work.lost(now()):
        what = "a proof of it is being made" if backup.ended else f"it is {backup.state}"
        raise NotYet(f"Ask again when that has ended: {what}. GET /backups/{backup_id} shows how far it is.")
    if backup.state not in ("stored", "suspect", "proven", "broken"):
        raise NotYet(f"It is {backup.state}: there is nothing to prove. Ask for a new one with POST /backups.")
    task = Task(
        task="proof",
        backup_id=backup_id,
        number=(number := objects.next_number(found.names)),
        requested_by=requested_by,
        accept_suspect=wanted.accept_suspect,
    )
    await start_worker(task)
    return ProofAsked(backup_id=backup_id, number=number)


async def link(store: S3Store, backup_id: str, table: str, now: Clock) -> TableLink:
    """Where to download a table of any backup that has its data.

    Raises NotYet, BackupExpired, TableNotFound and ObjectAltered.
    """
    found = await objects.read(store, backup_id)
    if "expired.json" in found.names:
        raise BackupExpired(EXPIRED)
    if found.manifest is None:
        state = states.shown(found, now()).state
        raise NotYet(f"It is {state}: only a backup that is stored has tables.")
    entry = entry_of(found.manifest, table)
    expires_at = now() + timedelta(seconds=LINK_SECONDS)
    try:
        return TableLink(
            **entry.model_dump(include={"name", "rows", "bytes", "stored_bytes", "sha256"}),
            url=await store.link(folder(backup_id) + entry.object, entry.etag, LINK_SECONDS),
            index_url=await store.link(folder(backup_id) + entry.index, None, LINK_SECONDS),
            expires_at=expires_at,
        )
    except ObjectChanged as error:
        if "expired.json" in await objects.names_of(store, backup_id):
            raise BackupExpired(EXPIRED) from error  # while we looked
        raise ObjectAltered(
            f"The rows of {entry.name} are missing, or others than its manifest says. Do not rely on this backup, and"
            f" have it proven: POST /backups/{backup_id}/proofs with {{}}"
        ) from error


async def lost(store: S3Store, backup_id: str, now: Clock) -> Failure | None:
    """How a backup ends that nobody makes any more; None while somebody may, or when its end is recorded."""
    found = await objects.read(store, backup_id)
    failure = states.lost(found, now())
    if failure and await objects.names_of(store, backup_id) != found.names:
        return await lost(store, backup_id, now)
    return failure


async def ending(store: S3Store, backup_id: str, number: int | None, now: Clock) -> Ending:
    """What a worker has to announce that comes to the end of a backup, or of its later proof `number`.

    Raises NothingToTell.
    """
    found = await objects.read(store, backup_id)
    backup = states.shown(found, now(), ended=True)
    if backup.state == "expired":  # and the proof, perhaps, was never made
        raise NothingToTell(f"{backup_id} is expired: that is no end to tell of")
    signed_by = None
    if "manifest.sig" in found.names:
        body = (await store.get(f"{folder(backup_id)}manifest.sig")).body
        with suppress(ValidationError):  # whoever damaged it must not keep the notice back
            signed_by = Signature.model_validate_json(body).key
    proof = ProofOut.of(await objects.read_proof(store, backup_id, number)) if number else None
    proven, asked = (None, True) if backup.state == "proven" else await _newest_proven(store, now)
    changed = found.manifest.changed if found.manifest and not number else None
    return Ending(backup, now(), proof, signed_by, newest_proven=proven, newest_proven_known=asked, changed=changed)


async def _newest_proven(store: S3Store, now: Clock) -> tuple[Manifest | None, bool]:
    """And whether it could be asked: no notice is held back for want of it."""
    try:
        async with asyncio.timeout(PROVEN_WITHIN_SECONDS):
            return await history.newest_proven(store, now), True
    except Exception as error:  # noqa: BLE001  # whatever another backup's objects hold
        log.warning("the newest proven backup could not be asked for: %s", type(error).__name__)
        return None, False


def entry_of(manifest: Manifest, table: str) -> TableEntry:
    """By the table's name, or by that of its object, which two tables never share: names may hold dots.

    Raises TableNotFound.
    """
    with suppress(ValueError):
        wanted = qualified(table)
        for name_of in (_name, stem_of):
            named = [entry for entry in manifest.tables if name_of(entry) == wanted]
            if len(named) == 1:
                return named[0]
    raise TableNotFound("GET /backups/{id} names those that it has, as `schema.table`; percent-encode the name.")


def stem_of(entry: TableEntry) -> str:
    """Of its objects' names."""
    return entry.object.removeprefix("data/").removesuffix(".json.gz")


def _name(entry: TableEntry) -> str:
    return entry.name
