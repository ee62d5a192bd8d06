"""One attempt at a task, by the worker that holds the lease: make the backup, prove it, announce how it ended.

Whatever is there already is not made again, so that an attempt goes on where another one died.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Never

from backup_lambda import backups, making, notices, objects, proving, signing, subscriptions
from backup_lambda.errors import (
    AwsUnavailable,
    BackupFailed,
    BackupsError,
    Cancelled,
    LeaseLost,
    NothingToTell,
    ObjectChanged,
    ProofUnfinished,
)
from backup_lambda.guards import cancelled, stalled, unless
from backup_lambda.lease import Lease
from backup_lambda.making import Means
from backup_lambda.manifest import Request
from backup_lambda.notices import Notice, Topic
from backup_lambda.objects import Failure, folder
from backup_lambda.proof import Proof
from backup_lambda.states import SILENT
from backup_lambda.store import S3Store
from backup_lambda.tasks import Task

# Of the time that is kept for the end; a commit must end long before the lease does.
COMMIT_SECONDS, ANNOUNCE_SECONDS, LISTENERS_SECONDS = 10, 20, 3
NOT_KEPT = {"failure.json", "result.json"}
INLINE = 1  # the number of the proof that belongs to making a backup
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """Its methods raise LeaseLost, and whatever else while another attempt is left."""

    means: Means
    topic: Topic
    task: Task
    lease: Lease
    guards: Callable[[], list[Coroutine[Any, Any, Never]]]  # what ends the work early, made anew for each part of it

    async def to_the_end(self) -> str:
        """How the backup ended; it was announced."""
        try:
            if self.task.task == "backup":
                await self._make()
            await self._prove()
            return await self._announce()
        except LeaseLost:
            raise
        except Exception as error:
            log.warning("%s: attempt %d stopped: %s", self._id, self.lease.progress.attempt, reason_of(error))
            await self.lease.release(reason_of(error))
            raise

    async def give_up(self, failure: Failure | None) -> str:
        """End what other workers left, and announce it: nobody goes on with it. `failure` is for want of a manifest."""
        names = await self._names()
        if self._proof_to_come(names):
            await self._record_unfinished(SILENT, self.means.now())
        elif failure and not {"manifest.json", "failure.json"} & names:
            await self._commit({"failure.json": failure.model_dump_json(indent=1).encode()})
        return await self._announce()

    async def _make(self) -> None:
        """Write the manifest, or the failure."""
        self.lease.progress.passes = 4 if self.means.proves_always else 2
        if {"manifest.json", "failure.json"} & await self._names():
            return
        request = Request.model_validate_json((await self._store.get(f"{self._folder}request.json")).body)
        try:
            made = making.manifest_of(self.means, request, self.lease.progress)
            body, signature = await unless(made, *self._all_guards())
            await self._commit({"manifest.sig": signature, "manifest.json": body})
        except LeaseLost:
            raise
        except Exception as error:
            if not isinstance(error, BackupFailed) and not self.lease.last:
                raise
            log.warning("%s: failed: %s", self._id, reason_of(error), exc_info=not isinstance(error, BackupsError))
            if "manifest.json" in await self._names():
                return  # it was written, and only the answer was lost
            failure = Failure(
                request=request,
                outcome="cancelled" if isinstance(error, Cancelled) else "failed",
                reason=reason_of(error),
                started_at=self.lease.progress.started_at,
                ended_at=max(self.means.now(), self.lease.progress.started_at),
            )
            await self._commit({"failure.json": failure.model_dump_json(indent=1).encode()})

    async def _prove(self) -> None:
        """Write the record of the proof, unless it is there, or none is wanted."""
        if not self._proof_to_come(await self._names()):
            return
        started_at = self.means.now()
        try:
            proven = proving.proof_of(self.means, self.task, self._number, self.lease)
            proof = await unless(proven, *self._all_guards())
            if proof.verdict == "broken" and await self._has_expired():
                return  # its data was removed while we looked
            await self._record(proof)
        except LeaseLost:
            raise
        except Exception as error:
            if isinstance(error, ObjectChanged) and await self._has_expired():
                return
            if not isinstance(error, ProofUnfinished | BackupFailed) and not self.lease.last:
                raise
            log.warning("%s: not proven: %s", self._id, reason_of(error), exc_info=not isinstance(error, BackupsError))
            if self._proof_to_come(await self._names()):  # else it was written, and only the answer was lost
                await self._record_unfinished(reason_of(error), started_at)

    async def _record_unfinished(self, reason: str, started_at: datetime) -> None:
        await self._record(await proving.unfinished(self.means, self.task, self._number, reason, started_at))

    async def _record(self, proof: Proof) -> None:
        body = proof.model_dump_json(indent=1).encode()
        signature = await signing.signature_of(self.means.signer, body, signing.PROOF)
        await self._commit({f"proof/{self._number}.sig": signature, f"proof/{self._number}.json": body})

    async def _announce(self) -> str:
        """A notice is published again when nobody knows whether it was: rather twice than never.

        Of a backup that expired meanwhile nothing is told: whatever was found, nobody was to rely on it any more.
        """
        try:
            ending = await backups.ending(self._store, self._id, self.task.number, self.means.now)
        except NothingToTell:
            if not await self._has_expired():
                raise
            await self.lease.close("expired")
            log.info("%s: it has expired meanwhile", self._id)
            return "expired"
        told = [notices.of_backup(ending), *([notices.of_change(ending)] if ending.changed else [])]
        await announce(self.topic, self.lease, ending.backup.state, told)
        log.info("%s: %s %s", self._id, self.task.name, ending.backup.state)  # the alarms on AWS count these lines
        return ending.backup.state

    async def _commit(self, bodies: Mapping[str, bytes]) -> None:
        await commit(self._store, self.lease, self._folder, bodies)

    def _all_guards(self) -> list[Coroutine[Any, Any, Never]]:
        # A wish to cancel is about the backup and the proof that belongs to it, not about a later proof.
        cancel = [cancelled(self._store, self._folder)] if self.task.task == "backup" else []
        return [self.lease.keep(), stalled(self.lease.progress), *cancel, *self.guards()]

    def _proof_to_come(self, names: frozenset[str]) -> bool:
        wanted = self.task.task == "proof" or self.means.proves_always
        there = "manifest.json" in names and "expired.json" not in names
        return wanted and there and f"proof/{self._number}.json" not in names

    async def _has_expired(self) -> bool:
        return "expired.json" in await self._names()

    async def _names(self) -> frozenset[str]:
        return await objects.names_of(self._store, self._id)

    @property
    def _number(self) -> int:
        return self.task.number or INLINE

    @property
    def _store(self) -> S3Store:
        return self.means.store

    @property
    def _id(self) -> str:
        return self.task.backup_id

    @property
    def _folder(self) -> str:
        return folder(self._id)


async def commit(store: S3Store, lease: Lease, folder: str, bodies: Mapping[str, bytes]) -> None:
    """In this order, and only while the lease surely lasts: a later write could meet another worker's objects.

    A signature that a dead attempt left is replaced; everything else is written once. But for a failure, which says
    that there is no backup, and the result of a restore, it is kept.
    """
    try:
        async with asyncio.timeout(COMMIT_SECONDS):
            await lease.renew()
            there, written = await store.etags(folder), dict[str, str]()
            for name, body in bodies.items():
                key = folder + name
                left = there.get(key) if name.endswith(".sig") else None
                written[key] = await store.put(key, body, left, keep=name not in NOT_KEPT)
            there = await store.etags(folder)
    except TimeoutError:
        raise AwsUnavailable("the end could not be written in time") from None
    if missing := written.items() - there.items():
        raise AwsUnavailable(f"{min(missing)[0]} was written, and is not there")


async def announce(topic: Topic, lease: Lease, outcome: str, told: Sequence[Notice]) -> None:
    """Publish what is to be told of an end, and note down that it was."""
    asked = asyncio.create_task(_listeners(topic))
    try:
        async with asyncio.timeout(ANNOUNCE_SECONDS):
            for notice in told:
                await unless(notices.publish(topic, notice), lease.keep())
            if (listeners := await asked) == 0:
                log.warning("%s: nobody who would hear of its end is subscribed to the topic", told[0].id)
            await lease.close(outcome, listeners)
    except TimeoutError:
        raise AwsUnavailable("the end could not be announced in time") from None
    finally:
        asked.cancel()


async def _listeners(topic: Topic) -> int | None:
    """None when it cannot be asked, which holds no end back."""
    try:
        async with asyncio.timeout(LISTENERS_SECONDS):
            return await subscriptions.listeners(topic)
    except Exception as error:  # noqa: BLE001  # whatever it is
        log.warning("who hears of the end could not be asked: %s", reason_of(error))
        return None


def reason_of(error: Exception) -> str:
    """For the record. The text of an error that is not ours could show a row, or a secret."""
    return str(error) if isinstance(error, BackupsError) else f"unforeseen: {type(error).__name__}"
