"""The run of one backup, from its request to its announcement.

AWS delivers an asynchronous invocation at least once, and again after it failed: every step is made once, or can be
made again. An error that comes out of here asks for such another attempt. What is the end of the backup (PostgreSQL
is away, say; or whatever happens at the last attempt) is recorded and announced instead.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Never, TypeVar

from backup_lambda import backups, notices, snapshot
from backup_lambda.backups import Failure, folder
from backup_lambda.dump import Dump
from backup_lambda.errors import (
    AwsUnavailable,
    BackupFailed,
    BackupNotFound,
    BackupsError,
    DeadlineReached,
    LeaseLost,
)
from backup_lambda.lease import LAST_ATTEMPT, LEASE, Clock, Lease, Progress
from backup_lambda.manifest import Manifest, Request
from backup_lambda.notices import Topic
from backup_lambda.store import S3Store

KEPT_SECONDS = 30  # for aborting, recording and announcing
COMMIT_SECONDS = LEASE.total_seconds() / 2
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """What makes backups, opened once. `database_url` asks for a URL anew: passwords change."""

    store: S3Store
    topic: Topic
    database_url: Callable[[], Awaitable[str]]
    schemas: Sequence[str]
    now: Clock

    async def back_up(self, backup_id: str, seconds_left: Callable[[], float]) -> str:
        """Make the backup, or do what is left of it; how it ended.

        A notice is published again when nobody knows whether it was: rather twice than never.
        """
        if "request.json" not in await self.store.names(folder(backup_id)):
            raise BackupNotFound(f"{backup_id} was never asked for")
        lease = await Lease.take(self.store, f"{folder(backup_id)}progress.json", self.now)
        if lease is None:
            log.info("%s: another worker has it, or nothing is left to do", backup_id)
            return "left alone"
        try:
            return await self._to_the_end(backup_id, lease, seconds_left)
        except LeaseLost as lost:
            log.warning("%s: %s", backup_id, lost)
            return "left alone"

    async def _to_the_end(self, backup_id: str, lease: Lease, seconds_left: Callable[[], float]) -> str:
        try:
            if not {"manifest.json", "failure.json"} & await self.store.names(folder(backup_id)):
                await self._make(backup_id, lease, seconds_left)
            backup = await backups.show(self.store, backup_id, self.now)
            await notices.publish(self.topic, backup)
            await lease.close()
        except LeaseLost:
            raise
        except Exception as error:
            log.warning("%s: attempt %d stopped: %s", backup_id, lease.progress.attempt, _reason(error))
            await lease.release(_reason(error))
            raise
        log.info("%s: %s", backup_id, backup.state)
        return backup.state

    async def _make(self, backup_id: str, lease: Lease, seconds_left: Callable[[], float]) -> None:
        """Write the manifest, or the failure. Raises LeaseLost, and whatever else while another attempt is left."""
        request = Request.model_validate_json((await self.store.get(f"{folder(backup_id)}request.json")).body)
        try:
            manifest = await _unless(self._dump(request, lease.progress), lease.keep(), _deadline(seconds_left))
            await _commit(lease, self.store, f"{folder(backup_id)}manifest.json", manifest.body())
        except LeaseLost:
            raise
        except Exception as error:
            if not isinstance(error, BackupFailed) and lease.progress.attempt < LAST_ATTEMPT:
                raise
            log.warning("%s: failed: %s", backup_id, _reason(error), exc_info=not isinstance(error, BackupsError))
            failure = Failure(
                request=request, reason=_reason(error), started_at=lease.progress.started_at, ended_at=self.now()
            )
            body = failure.model_dump_json(indent=1).encode()
            await _commit(lease, self.store, f"{folder(backup_id)}failure.json", body)

    async def _dump(self, request: Request, progress: Progress) -> Manifest:
        previous = await backups.newest_stored(self.store, self.now)
        dump = Dump(self.store, folder(request.id), progress)
        async with snapshot.opened(await self.database_url(), self.schemas) as source:
            copied = await dump.copy(source)
        await dump.read_back(copied)
        ended_at = self.now()
        return Manifest(
            id=request.id,
            created_at=request.created_at,
            request=request,
            started_at=progress.started_at,
            ended_at=ended_at,
            duration_seconds=(ended_at - progress.started_at).total_seconds(),
            database=source.database,
            snapshot=source.taken,
            schema_revision=source.schema_revision,
            sequences=source.sequences,
            tables=[table.entry for table in copied],
            not_backed_up=source.not_backed_up,
            previous=previous,
        )


def _reason(error: Exception) -> str:
    """For the record. The text of an error that is not ours could show a row, or a secret."""
    return str(error) if isinstance(error, BackupsError) else f"unforeseen: {type(error).__name__}"


async def _commit(lease: Lease, store: S3Store, key: str, body: bytes) -> None:
    """Only while the lease surely lasts: a write that hangs longer could meet another worker's objects."""
    try:
        async with asyncio.timeout(COMMIT_SECONDS):
            await lease.renew()
            await store.put(key, body)
    except TimeoutError:
        raise AwsUnavailable("the end of the backup could not be written in time") from None


async def _unless(work: Coroutine[Any, Any, T], *guards: Coroutine[Any, Any, Never]) -> T:
    """The result of `work`, unless a guard raises first: that error comes out, and the work is cancelled."""
    tasks = [asyncio.create_task(each) for each in (work, *guards)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for guard in tasks[1:]:
            if guard.done():
                guard.result()
        return await tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _deadline(seconds_left: Callable[[], float]) -> Never:
    while (left := seconds_left() - KEPT_SECONDS) > 0:  # noqa: ASYNC110  # an invocation's clock rings no event
        await asyncio.sleep(min(left, 1))
    raise DeadlineReached(
        f"deadline: the invocation's time was nearly over ({KEPT_SECONDS} s before its end the backup gives up)"
    )
