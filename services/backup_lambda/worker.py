"""What Lambda, or a process of its own, is asked to do: make a backup, prove or restore one.

AWS delivers an asynchronous invocation at least once, and again after it failed: every step is made once, or can be
made again. An error that comes out of here asks for such another attempt. What is the end of the task (PostgreSQL
is away, say; or whatever happens at the last attempt) is recorded and announced instead.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Never

from backup_lambda import aws, history, housekeeping, login, notices, objects, restores, signing
from backup_lambda.attempt import Attempt, reason_of
from backup_lambda.errors import BackupNotFound, BackupsError, LeaseLost, NotYet, RestoreNotFound
from backup_lambda.guards import KEPT_SECONDS, deadline, stopped, unless
from backup_lambda.lease import LAST_ATTEMPT, RESTORE, Clock, Lease, understood
from backup_lambda.making import Means
from backup_lambda.notices import Topic
from backup_lambda.objects import folder
from backup_lambda.restoring import RestoreAttempt
from backup_lambda.settings import WorkerSettings, is_secret
from backup_lambda.store import S3Store
from backup_lambda.tasks import RestoreTask, Task, TrialTask

LEFT_ALONE = "left alone"
PROVEN_WITHOUT_END = 5  # backups of others, by a process that may take its time: it is to end some day
LOOK_AGAIN_SECONDS = 2
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """What makes, proves and restores backups, opened once. When `stop` is set it ends what it does, and says so."""

    means: Means
    topic: Topic
    reprove_after: timedelta | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def back_up(self, backup_id: str, seconds_left: Callable[[], float]) -> str:
        """Make the backup, or do what is left of it, and then what others left; how it ended."""
        outcome = await self.do(Task(task="backup", backup_id=backup_id), seconds_left)
        if outcome != LEFT_ALONE:
            await self.keep_house(seconds_left)
        return outcome

    async def do(self, task: Task, seconds_left: Callable[[], float]) -> str:
        """The state that the backup is in afterwards; or that it was left alone, to another worker or for good."""
        names = await objects.names_of(self.means.store, task.backup_id)
        if "request.json" not in names:
            raise BackupNotFound(f"{task.backup_id} was never asked for")
        if task.task == "proof" and ("manifest.json" not in names or "expired.json" in names):
            raise NotYet(f"{task.backup_id} has nothing to prove")
        if task.accept_suspect:
            task, lease = await unless(self._accepting(task), *self._guards(seconds_left))
        else:
            lease = await self._lease(task)
        if lease is None:
            log.info("%s: another worker has it, or nothing is left to do", task.backup_id)
            return LEFT_ALONE
        try:
            return await self._attempt(task, lease, seconds_left).to_the_end()
        except LeaseLost as lost:
            log.warning("%s: %s", task.backup_id, lost)
            return LEFT_ALONE

    async def restore(self, task: RestoreTask, seconds_left: Callable[[], float]) -> str:
        """The state that the restore is in afterwards; or that it was left alone. And then what others left."""
        if "request.json" not in await self.means.store.names(restores.folder(task.restore_id)):
            raise RestoreNotFound(f"{task.restore_id} was never asked for")
        if (lease := await self._restores_lease(task.restore_id)) is None:
            log.info("%s: another worker has it, or nothing is left to do", task.restore_id)
            return LEFT_ALONE
        try:
            outcome = await self._restore(task.restore_id, lease, seconds_left).to_the_end()
        except LeaseLost as lost:
            log.warning("%s: %s", task.restore_id, lost)
            return LEFT_ALONE
        await self.keep_house(seconds_left)
        return outcome

    async def send_trial(self, task: TrialTask) -> None:
        """Tell everybody who is subscribed that mails arrive. Raises AwsError."""
        at = self.means.now()
        await notices.publish(self.topic, notices.trial(history.new_id(at), at, task.requested_by))

    async def insist(self, task: Task, seconds_left: Callable[[], float]) -> str:
        """Where nobody else would try again."""
        for _ in range(LAST_ATTEMPT - 1):
            try:
                return await self.do(task, seconds_left)
            except Exception as error:  # noqa: BLE001  # whatever it is, another attempt may heal it
                log.warning("%s: tried again after: %s", task.backup_id, reason_of(error))
        return await self.do(task, seconds_left)

    async def keep_house(self, seconds_left: Callable[[], float]) -> None:
        """What others left. A failure changes nothing about the backup that was made."""
        if self.stop.is_set():
            return
        try:
            listing = await unless(housekeeping.listed(self.means.store), *self._guards(seconds_left))
            await unless(self._sweep(listing), *self._guards(seconds_left))
            if self.reprove_after and self.means.proves_always:
                due = housekeeping.due(self.means.store, listing, self.means.now(), self.reprove_after)
                await self._prove_old_ones(await unless(due, *self._guards(seconds_left)), seconds_left)
        except Exception as error:
            log.warning("housekeeping stopped: %s", reason_of(error), exc_info=not isinstance(error, BackupsError))

    async def _sweep(self, listing: housekeeping.Listing) -> None:
        """Tell the end of what nobody works on any more."""
        for left in await housekeeping.abandoned(self.means.store, listing, self.means.now):
            try:
                if lease := await self._lease(left.task):
                    await self._attempt(left.task, lease, no_end).give_up(left.failure)
            except Exception as error:  # noqa: BLE001  # the others are not to wait for this one
                log.warning("%s: its end could not be told: %s", left.task.backup_id, reason_of(error))
        for restore_id, reason in await housekeeping.abandoned_restores(self.means.store, self.means.now):
            try:
                if lease := await self._restores_lease(restore_id):
                    await self._restore(restore_id, lease, no_end).give_up(reason)
            except Exception as error:  # noqa: BLE001  # the same
                log.warning("%s: its end could not be told: %s", restore_id, reason_of(error))

    async def _prove_old_ones(self, due: Sequence[housekeeping.Due], seconds_left: Callable[[], float]) -> None:
        """As many as the time allows."""
        left = PROVEN_WITHOUT_END if math.isinf(seconds_left()) else len(due)
        for task, seconds in due:
            if not left or self.stop.is_set():
                return
            if seconds > seconds_left() - 2 * KEPT_SECONDS:
                continue
            log.info("%s: it is proven again, or at last", task.backup_id)
            if await self.insist(task, seconds_left) == LEFT_ALONE:
                continue
            left -= 1
            if (await objects.read_proof(self.means.store, task.backup_id, task.number or 0)).verdict == "unfinished":
                return  # what prevented it prevents the others, too, and each would be told

    async def _accepting(self, task: Task) -> tuple[Task, Lease | None]:
        """With the number of the first proof that nobody made without accepting what is suspect.

        Proofs that were asked for at once have the same number. Whoever accepts waits for the other one to end.
        """
        task = await self._not_taken(task)
        while not (lease := await self._lease(task)):
            progress = understood((await self.means.store.get(f"{folder(task.backup_id)}progress.json")).body)
            task = await self._not_taken(task)
            if progress is None or progress.free_for(task.name, self.means.now()):
                continue  # the other one has just ended
            if progress.announced or not progress.live(self.means.now()):
                return task, None
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        return task, lease

    async def _not_taken(self, task: Task) -> Task:
        store, number = self.means.store, task.number or 1
        numbers = objects.numbers(await objects.names_of(store, task.backup_id))
        while number in numbers and not (await objects.read_proof(store, task.backup_id, number)).accepts_suspect:
            number += 1
        return task.model_copy(update={"number": number})

    async def _lease(self, task: Task) -> Lease | None:
        key = f"{folder(task.backup_id)}progress.json"
        return await Lease.take(self.means.store, key, self.means.now, task.name)

    def _attempt(self, task: Task, lease: Lease, seconds_left: Callable[[], float]) -> Attempt:
        return Attempt(self.means, self.topic, task, lease, lambda: self._guards(seconds_left))

    async def _restores_lease(self, restore_id: str) -> Lease | None:
        key = f"{restores.folder(restore_id)}progress.json"
        return await Lease.take(self.means.store, key, self.means.now, RESTORE)

    def _restore(self, restore_id: str, lease: Lease, seconds_left: Callable[[], float]) -> RestoreAttempt:
        return RestoreAttempt(self.means, self.topic, restore_id, lease, lambda: self._guards(seconds_left))

    def _guards(self, seconds_left: Callable[[], float]) -> list[Coroutine[Any, Any, Never]]:
        return [deadline(seconds_left), stopped(self.stop)]


def no_end() -> float:
    """Seconds left of a process that may take its time."""
    return math.inf


def create_worker(settings: WorkerSettings, now: Clock, *, s3: Any, sns: Any, secrets: Any, kms: Any) -> Worker:
    """Out of clients; anew for each task, so that a key that changed is read again."""

    async def url_of(database: str) -> str:
        if is_secret(database):
            with aws.errors_named():
                database = str((await secrets.get_secret_value(SecretId=database))["SecretString"])
        return login.trusting(database, settings.database_ca)

    means = Means(
        store=S3Store(s3, settings.bucket, settings.object_lock_days),
        database_url=lambda: url_of(settings.database),
        proof_url=lambda: url_of(settings.proof_database),
        signer=signing.signer_of(settings.signing_key, kms=kms, secrets=secrets),
        now=now,
        schemas=settings.schemas,
        include_tables=settings.include_tables,
        exclude_tables=settings.exclude_tables,
        suspect_fall_percent=settings.suspect_fall_percent,
        changed_percent=settings.changed_percent,
        proves_always=settings.prove == "always",
        restore_url=(lambda: url_of(live)) if (live := settings.restore_database) else None,
        proof_room_bytes=settings.proof_room_bytes,
        former_keys=settings.former_keys,
    )
    reprove_after = timedelta(days=settings.reprove_after_days) if settings.reprove_after_days else None
    return Worker(means, Topic(sns, settings.topic_arn), reprove_after)
