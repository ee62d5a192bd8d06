"""What a worker looks after when its own backup is done: ends that nobody told, and proofs that have grown old."""

import asyncio
from collections.abc import Coroutine, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias, TypeVar

from backup_lambda import backups, objects, restores
from backup_lambda.lease import BACKUP, Clock, understood
from backup_lambda.manifest import Manifest
from backup_lambda.objects import ID, ROOT, Failure, folder
from backup_lambda.states import SILENT
from backup_lambda.store import S3Store
from backup_lambda.tasks import Task

# Older ones stay as they are: lists show that they are lost, and everybody has had the time to look.
LOOKED_AFTER = timedelta(days=7)
READ_AT_ONCE = 16
TRIED_AGAIN_AFTER = timedelta(days=1)  # and twice as long after each further proof that was not finished
MOST_DOUBLED = 5
A_SLOWER_DAY = 1.5  # a proof may take so much longer than the one before it
A_PROOF_TAKES = 2  # times as long as making the backup, where no proof has told

T = TypeVar("T")
Listing: TypeAlias = Mapping[str, Mapping[str, datetime]]


class Abandoned(NamedTuple):
    """A task that nobody works on any more, and how the backup has failed if it has no manifest."""

    task: Task
    failure: Failure | None


class Due(NamedTuple):
    """A proof that is to be made again, or at last, and how long it may take."""

    task: Task
    seconds: float


async def listed(store: S3Store) -> Listing:
    """All backups, their objects, and when each was written: a request for every thousand objects."""
    found: dict[str, dict[str, datetime]] = {}
    async for key, written_at in store.written(ROOT):
        backup_id, _, name = key.removeprefix(ROOT).partition("/")
        if ID.fullmatch(backup_id):
            found.setdefault(backup_id, {})[name] = written_at
    return found


async def abandoned(store: S3Store, listing: Listing, now: Clock) -> list[Abandoned]:
    """Tasks of the last days whose worker is dead with no attempt left, and whose end was not announced."""
    since, gate = now() - LOOKED_AFTER, asyncio.Semaphore(READ_AT_ONCE)

    async def look(backup_id: str, objects: Mapping[str, datetime]) -> Abandoned | None:
        async with gate:
            there, progress = "progress.json" in objects, None
            if there:
                progress = understood((await store.get(f"{folder(backup_id)}progress.json")).body)
            ended = not {"manifest.json", "failure.json"}.isdisjoint(objects)
            if progress and (ended if progress.announced else not progress.lost(now())):
                return None
            failure = await backups.lost(store, backup_id, now)
            if not failure and not (there and ended):
                return None
            name = progress.task if progress and not progress.announced else BACKUP
            return Abandoned(_task(name, backup_id), failure)

    recent = [
        look(backup_id, objects)
        for backup_id, objects in sorted(listing.items())
        if "request.json" in objects and objects.get("progress.json", objects["request.json"]) > since
    ]
    found = await asyncio.gather(*recent, return_exceptions=True)
    return [each for each in found if isinstance(each, Abandoned)]  # what cannot be read is shown so, in lists


async def abandoned_restores(store: S3Store, now: Clock) -> list[tuple[str, str]]:
    """The ids of restores of the last days that nobody works on any more, and whose end was not announced; and why."""
    listing: dict[str, dict[str, datetime]] = {}
    async for key, at in store.written(restores.ROOT):
        restore_id, _, name = key.removeprefix(restores.ROOT).partition("/")
        listing.setdefault(restore_id, {})[name] = at
    gate = asyncio.Semaphore(READ_AT_ONCE)

    async def look(restore_id: str, written: Mapping[str, datetime]) -> tuple[str, str] | None:
        async with gate:
            progress = None
            if "progress.json" in written:
                progress = understood((await store.get(f"{restores.folder(restore_id)}progress.json")).body)
            if progress and ("result.json" in written if progress.announced else not progress.lost(now())):
                return None
            found = await restores.read(store, restore_id)
        untold = SILENT if found.result and not (found.progress and found.progress.announced) else None
        return (restore_id, why) if (why := found.lost(now()) or untold) else None

    since = now() - LOOKED_AFTER
    recent = [look(each, written) for each, written in sorted(listing.items()) if max(written.values()) > since]
    looked = await asyncio.gather(*recent, return_exceptions=True)
    return [each for each in looked if isinstance(each, tuple)]  # what cannot be read is shown so


async def due(store: S3Store, listing: Listing, now: datetime, reprove_after: timedelta) -> list[Due]:
    """Proofs to make: of the backups that were never proven, the newest first; then of those proven longest ago.

    For these `reprove_after` must have passed. None of a broken backup. It takes a request for every backup that has a
    proof, and some more for those that are due.
    """
    gate = asyncio.Semaphore(READ_AT_ONCE)

    async def read(looking: Coroutine[None, None, T]) -> T:
        async with gate:
            return await looking

    looks = [
        read(_due(store, backup_id, written, now, reprove_after))
        for backup_id, written in sorted(listing.items(), reverse=True)
        if "manifest.json" in written and "expired.json" not in written
    ]
    found = await asyncio.gather(*looks, return_exceptions=True)
    old = [each for each in found if isinstance(each, tuple)]  # what cannot be read is shown so, in lists
    return [each for _, each in sorted(old, key=lambda each: each[0])]


async def _due(
    store: S3Store, backup_id: str, written: Mapping[str, datetime], now: datetime, reprove_after: timedelta
) -> tuple[datetime, Due] | None:
    """With the time that it was proven at; the earliest of all times if it never was.

    A backup that its own worker did not prove has a day for that, and one whose proof was not finished another.
    """
    numbers, proven_at, unfinished = objects.numbers(frozenset(written)), datetime.min.replace(tzinfo=now.tzinfo), 0
    for number in numbers:
        if written[f"proof/{number}.json"] < written["manifest.json"]:
            break  # it is about the manifest that was there before
        proof = await objects.read_proof(store, backup_id, number)
        if proof.verdict == "broken":
            return None
        if proof.verdict == "proven":
            proven_at = written[f"proof/{number}.json"]
            break
        unfinished += 1
    newest = max(numbers, default=0)
    tried_at = written[f"proof/{newest}.json" if unfinished else "manifest.json"]
    again_at = tried_at + TRIED_AGAIN_AFTER * 2 ** min(max(unfinished - 1, 0), MOST_DOUBLED)
    if now < max(again_at, proven_at + reprove_after):
        return None
    task = Task(task="proof", backup_id=backup_id, number=newest + 1)
    return proven_at, Due(task, await _seconds(store, backup_id, newest))


async def _seconds(store: S3Store, backup_id: str, newest: int) -> float:
    if newest:
        last = await objects.read_proof(store, backup_id, newest)
        return (last.ended_at - last.started_at).total_seconds() * A_SLOWER_DAY
    body = (await store.get(f"{folder(backup_id)}manifest.json")).body
    return Manifest.model_validate_json(body).duration_seconds * A_PROOF_TAKES


def _task(name: str, backup_id: str) -> Task:
    number = None if name == BACKUP else int(name.removeprefix("proof/"))
    return Task(task="backup" if number is None else "proof", backup_id=backup_id, number=number)
