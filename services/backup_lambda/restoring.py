"""One attempt at a restore, by the worker that holds the lease: do it, record how it ended, and announce that.

What is about to be done for good is noted down right before: see `restores.Prepared`. Whoever finds such a note asks
the database whether it was done, so that nothing is done twice, and nothing that was done is called a failure.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Never

from backup_lambda import live, notices, objects, proving, restores, scratch, whole
from backup_lambda.attempt import COMMIT_SECONDS, announce, commit, reason_of
from backup_lambda.errors import (
    AwsError,
    AwsUnavailable,
    BackupExpired,
    BackupsError,
    BlockDamaged,
    DatabaseFailed,
    FateUnknown,
    LeaseLost,
    ObjectChanged,
    ProofUnfinished,
    RestoreRefused,
    RowsDiffer,
    SignatureInvalid,
    StoredDiffers,
)
from backup_lambda.guards import stalled, unless
from backup_lambda.lease import Lease
from backup_lambda.making import Means
from backup_lambda.manifest import Manifest
from backup_lambda.notices import Topic
from backup_lambda.restores import Prepared, Request, Restored, Result, Transaction
from backup_lambda.schemas import TableRestored
from backup_lambda.store import S3Store

ASK_SECONDS = 20  # of the time that is kept for the end
EXPIRED = "retention removed the data of the backup"
NO_LIVE_DATABASE = "nothing can be restored into the live database: HOLDFAST_RESTORE_DATABASE is not set"
log = logging.getLogger(__name__)


@dataclass
class RestoreAttempt:
    """Its methods raise LeaseLost, and whatever else while another attempt is left, or the end cannot be known."""

    means: Means
    topic: Topic
    id: str
    lease: Lease
    guards: Callable[[], list[Coroutine[Any, Any, Never]]]  # what ends the work early, made anew for each part of it
    _left: str | None = field(default=None, init=False)  # the ETag of what another attempt prepared

    async def to_the_end(self) -> str:
        """How the restore ended; it was announced, unless it was a dry run."""
        try:
            found = await restores.read(self._store, self.id)
            if found.result is None:
                await self._restore(found.asked)
            return await self._announce()
        except LeaseLost:
            raise
        except Exception as error:
            log.warning("%s: attempt %d stopped: %s", self.id, self.lease.progress.attempt, reason_of(error))
            await self.lease.release(reason_of(error))
            raise

    async def give_up(self, reason: str) -> str:
        """End what other workers left, and announce it: nobody goes on with it."""
        found = await restores.read(self._store, self.id)
        if found.result is None:
            restored = await self._done(found.asked)
            if restored is None and (name := found.asked.wanted.database):
                with suppress(BackupsError):  # another restore drops, some day, what is left of this one
                    await scratch.comment_of(await self.means.proof_url(), name, self.id)
            await self._end(restored, f"lost: {reason}")
        return await self._announce()

    async def _restore(self, asked: Request) -> None:
        try:
            restored = await self._done(asked) or await unless(self._do(asked), *self._all_guards())
        except LeaseLost:
            raise
        except Exception as error:
            if done := await self._done(asked):  # only the answer was lost
                await self._end(done)
                return
            if isinstance(
                error, ObjectChanged | StoredDiffers | BlockDamaged | RestoreRefused
            ) and await self._has_expired(asked):
                error = BackupExpired(EXPIRED)  # it is why
            if not self.lease.last and (isinstance(error, AwsError) or not isinstance(error, BackupsError)):
                raise
            log.warning("%s: failed: %s", self.id, reason_of(error), exc_info=not isinstance(error, BackupsError))
            tables = error.tables if isinstance(error, RowsDiffer) else ()
            await self._end(None, reason_of(error), tables)
        else:
            await self._end(restored)

    async def _do(self, asked: Request) -> Restored:
        means, progress = self.means, self.lease.progress
        await restores.allowed(self._store, asked.backup_id, asked.wanted, means.now)
        manifest = await self._manifest(asked.backup_id)
        if name := asked.wanted.database:
            return await whole.into_new(
                self._store,
                manifest,
                url=await means.proof_url(),
                room_bytes=means.proof_room_bytes,
                restore_id=self.id,
                name=name,
                skip_damaged=asked.wanted.skip_damaged,
                progress=progress,
                before_it_is_kept=self._prepare,
            )
        return await live.restore(
            self._store, manifest, await self._live_url(), asked.wanted, progress, before_commit=self._prepare
        )

    async def _manifest(self, backup_id: str) -> Manifest:
        try:
            return await proving.signed(self.means, backup_id, await proving.manifest_body(self.means, backup_id))
        except SignatureInvalid as error:
            raise RestoreRefused(
                f"manifest.json of the backup is not to be trusted: {error}. Nothing of it was restored"
            ) from error

    async def _prepare(self, restored: Restored, transaction: Transaction | None = None) -> None:
        """The last thing before the end. A worker that slept, and that another one took over from, comes to it late."""
        body = Prepared(restored=restored, transaction=transaction).model_dump_json(indent=1).encode()
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                await self.lease.renew()
                self._left = await self._store.put(f"{self._folder}prepared.json", body, self._left)
        except ObjectChanged as error:
            raise LeaseLost("another worker came to the end of it") from error
        except TimeoutError:
            raise AwsUnavailable("the end could not be prepared in time") from None

    async def _done(self, asked: Request) -> Restored | None:
        """What an attempt has restored for good. Raises FateUnknown, and AwsError."""
        if "prepared.json" not in await self._store.names(self._folder):
            return None
        found = await self._store.get(f"{self._folder}prepared.json")
        self._left, prepared = found.etag, Prepared.model_validate_json(found.body)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                if prepared.transaction:
                    done = await live.committed(await self._live_url(), prepared.transaction)
                else:
                    name = asked.wanted.database or ""
                    comment = await scratch.comment_of(await self.means.proof_url(), name, self.id)
                    done = comment == whole.comment(asked.backup_id, self.id)
        except TimeoutError:
            raise FateUnknown("whether it was committed could not be asked in time") from None
        except (DatabaseFailed, ProofUnfinished, RestoreRefused) as error:
            raise FateUnknown(f"whether it was committed could not be asked: {error}") from error
        return prepared.restored if done else None

    async def _end(self, restored: Restored | None, reason: str = "", tables: Sequence[TableRestored] = ()) -> None:
        """Completed with what was restored; else failed, for this reason."""
        progress = self.lease.progress
        result = Result(
            outcome="completed" if restored else "failed",
            restored=restored or Restored(tables=[*tables]),
            reason=None if restored else reason,
            started_at=progress.started_at,
            ended_at=max(self.means.now(), progress.started_at),
        )
        body = result.model_dump_json(indent=1).encode()
        await commit(self._store, self.lease, self._folder, {"result.json": body})

    async def _announce(self) -> str:
        """A notice is published again when nobody knows whether it was. Of a dry run nobody is told."""
        restore = await restores.show(self._store, self.id, self.means.now)
        if restore.dry_run:
            await self.lease.close(restore.state)
        else:
            await announce(self.topic, self.lease, restore.state, [notices.of_restore(restore)])
        log.info("%s: %s", self.id, restore.state)
        return restore.state

    async def _live_url(self) -> str:
        if self.means.restore_url is None:
            raise RestoreRefused(NO_LIVE_DATABASE)
        return await self.means.restore_url()

    async def _has_expired(self, asked: Request) -> bool:
        return "expired.json" in await objects.names_of(self._store, asked.backup_id)

    def _all_guards(self) -> list[Coroutine[Any, Any, Never]]:
        return [self.lease.keep(), stalled(self.lease.progress), *self.guards()]

    @property
    def _store(self) -> S3Store:
        return self.means.store

    @property
    def _folder(self) -> str:
        return restores.folder(self.id)
