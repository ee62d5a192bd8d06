"""The lock of a backup or a restore: `progress.json`, which one worker holds by a lease; it says how far it is."""

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Never, Self

from pydantic import AwareDatetime, BaseModel, Field, ValidationError, computed_field

from backup_lambda.errors import AwsUnavailable, LeaseLost, ObjectChanged
from backup_lambda.store import S3Store

# Lambda tries a failed invocation again after a minute: a dead worker's lease must have ended by then.
LEASE = timedelta(seconds=45)
# A backup whose worker gave up, and said so, is not lost before that.
ANOTHER_ATTEMPT_WITHIN = timedelta(minutes=3)
# The stack has a failed invocation tried again once. With more retries a backup would be given up early, with fewer
# it would end as lost, a while later and without a notice.
LAST_ATTEMPT = 2
# When the lease of a dead worker has ended, another attempt has come by then, or none will.
TAKEN_OVER_WITHIN = timedelta(seconds=60)
# A lease that ends later than this was written by a clock that is wrong, or that was set back since: it is not waited
# for. Should its worker live, it finds the lease taken.
LONGEST_LEASE = ANOTHER_ATTEMPT_WITHIN + timedelta(minutes=2)
RENEW_SECONDS = 2
BACKUP, RESTORE = "backup", "restore"
Clock = Callable[[], datetime]


class Progress(BaseModel):
    """What `progress.json` says. Rows are counted at every pass: copied, read back, and in a proof restored, compared.

    Except `started_at`, which is the first attempt's, everything is of the attempt that wrote last.
    """

    owner: str
    # `proof/{n}` is of a backup that has ended.
    task: str = Field(default=BACKUP, pattern=r"^(backup|restore|proof/[1-9][0-9]{0,5})$")
    attempt: int = 1
    started_at: AwareDatetime
    attempt_at: AwareDatetime | None = None
    updated_at: AwareDatetime
    lease_until: AwareDatetime
    stage: str = "starting"
    stage_started_at: datetime | None = None  # not later than the stage began, and at most a renewal earlier
    stage_began_with: int = 0  # rows of all passes that were done by then
    rows: int = 0
    bytes: int = 0
    checked_rows: int = 0
    restored_rows: int = 0
    compared_rows: int = 0
    total_rows: int = 0
    passes: int = 2  # that this attempt has to make over `total_rows`
    reason: str | None = None  # why the worker gave up: whoever comes may go on
    announced: bool = False  # the end of the task was published: nothing is left to do
    outcome: str | None = None  # the state of the backup that was announced
    listeners: int | None = None  # subscriptions that hear it, as far as that could be asked; see `subscriptions`

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def percent(self) -> int:
        return min(99, 100 * self.passed // (self.passes * self.total_rows)) if self.total_rows else 0

    @property
    def passed(self) -> int:
        """Rows of all passes."""
        return self.rows + self.checked_rows + self.restored_rows + self.compared_rows

    @property
    def rows_per_second(self) -> float | None:
        """In the present stage; None while there is nothing to tell it from."""
        if self.stage_started_at is None or self.passed <= self.stage_began_with:
            return None
        seconds = (self.updated_at - self.stage_started_at).total_seconds()
        return (self.passed - self.stage_began_with) / seconds if seconds > 0 else None

    @property
    def bytes_per_second(self) -> float | None:
        """Uncompressed; as many as these rows had on average when they were copied."""
        return self.rows_per_second * self.bytes / self.rows if self.rows_per_second and self.rows else None

    @property
    def seconds_left(self) -> int | None:
        """If all that is left goes as fast as the present stage."""
        left = max(0, self.passes * self.total_rows - self.passed)
        return round(left / self.rows_per_second) if self.rows_per_second else None

    def live(self, now: datetime) -> bool:
        """Its worker may be at work."""
        return now < self.lease_until <= now + LONGEST_LEASE

    def lost(self, now: datetime) -> bool:
        """Nobody works on it, and no other attempt is to be expected any more."""
        if self.lease_until > now:
            return not self.live(now)
        return self.attempt >= LAST_ATTEMPT or now >= self.lease_until + TAKEN_OVER_WITHIN

    def free_for(self, task: str, now: datetime) -> bool:
        """Whether a worker on `task` may take the lease.

        After a task only a later one: an old invocation that is delivered once more has nothing to do.
        """
        if _order(task) < _order(self.task) or (self.announced and task == self.task):
            return False
        return self.announced or self.reason is not None or not self.live(now)

    def copied(self, rows: int, size: int) -> None:
        self.rows += rows
        self.bytes += size

    def checked(self, rows: int) -> None:
        self.checked_rows += rows

    def restored(self, rows: int) -> None:
        self.restored_rows += rows

    def compared(self, rows: int) -> None:
        self.compared_rows += rows

    def count_as_made(self, rows: int, size: int) -> None:
        """Of a backup that another attempt made: it is no work of this stage."""
        self.rows, self.bytes, self.checked_rows = rows, size, rows
        self.stage_began_with = self.passed


class Lease:
    """Held from `take` on, as long as `keep` runs. Every method raises LeaseLost when another worker has it now."""

    def __init__(self, store: S3Store, key: str, progress: Progress, etag: str | None, now: Clock) -> None:
        self._store = store
        self._key = key
        self._etag = etag
        self._now = now
        self._ends = 0.0  # by the loop's clock: nobody sets that one
        self._stage, self._passed, self._updated_at = "", 0, progress.updated_at  # as they were written last
        self.progress = progress

    @classmethod
    async def take(cls, store: S3Store, key: str, now: Clock, task: str = BACKUP) -> Self | None:
        """A lease that is free for this task; None while somebody has it, or when there is nothing left to do."""
        at = now()
        fresh = Progress(
            owner=secrets.token_hex(8), task=task, started_at=at, attempt_at=at, updated_at=at, lease_until=at
        )
        try:
            lease = cls(store, key, fresh, None, now)
            await lease.renew()
        except LeaseLost:
            found = await store.get(key)
            theirs = understood(found.body)
            if theirs and theirs.announced and not await _has_ended(store, key):
                theirs = None  # no worker wrote that
            if theirs and not theirs.free_for(task, at):
                return None
            if theirs and theirs.task == task:
                again = {"attempt": theirs.attempt + 1, "started_at": theirs.started_at}
                fresh = fresh.model_copy(update=again)
            lease = cls(store, key, fresh, found.etag, now)
            try:
                await lease.renew()
            except LeaseLost:
                return None
        return lease

    @property
    def last(self) -> bool:
        """No other attempt follows this one."""
        return self.progress.attempt >= LAST_ATTEMPT

    async def keep(self) -> Never:
        """Renew it again and again; ends only by an error."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                async with asyncio.timeout_at(self._ends):
                    await self.renew()
            except TimeoutError:
                raise AwsUnavailable("the lease could not be renewed before it ended") from None

    async def renew(self) -> None:
        await self._write(LEASE)

    async def release(self, reason: str) -> None:
        """Give it up before the end, to another attempt if one is left."""
        self.progress.reason = reason
        await self._write(timedelta(0) if self.last else ANOTHER_ATTEMPT_WITHIN)

    async def close(self, outcome: str, listeners: int | None = None) -> None:
        """Nothing is left to do. The lease runs out by itself: a reader must not take the end for a loss."""
        self.progress.announced, self.progress.outcome, self.progress.listeners = True, outcome, listeners
        await self._write(LEASE)

    async def _write(self, lease: timedelta) -> None:
        ends = asyncio.get_running_loop().time() + lease.total_seconds()
        self._notice_the_stage()
        self.progress.updated_at = self._now()
        self.progress.lease_until = self.progress.updated_at + lease
        body = self.progress.model_dump_json(indent=1).encode()
        try:
            self._etag = await self._store.put(self._key, body, self._etag)
        except ObjectChanged:
            # A renewal that was cancelled, or whose answer got lost, may have been written all the same.
            found = await self._store.get(self._key)
            theirs = understood(found.body)  # what nobody understands is nobody's
            if theirs and theirs.owner != self.progress.owner:
                raise LeaseLost("another worker took it over") from None
            self._etag = await self._store.put(self._key, body, found.etag)
        self._ends = ends

    def _notice_the_stage(self) -> None:
        if self.progress.stage != self._stage:
            self.progress.stage_started_at = self._updated_at
            self.progress.stage_began_with = self._passed
        self._stage, self._passed, self._updated_at = self.progress.stage, self.progress.passed, self._now()


def understood(body: bytes) -> Progress | None:
    """What `progress.json` says, if it is one: whoever damaged it must not keep a backup from its end."""
    try:
        return Progress.model_validate_json(body)
    except ValidationError:
        return None


async def _has_ended(store: S3Store, key: str) -> bool:
    """Also one whose manifest was removed since: to make it anew would hide that."""
    names = await store.names(f"{key.rpartition('/')[0]}/")
    return not names.isdisjoint({"manifest.json", "manifest.sig", "failure.json", "result.json"})


def _order(task: str) -> int:
    return int(task.removeprefix("proof/")) if task not in (BACKUP, RESTORE) else 0
