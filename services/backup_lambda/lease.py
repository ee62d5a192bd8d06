"""The lock of a backup: `progress.json`, which one worker at a time holds by a lease, and which says how far it is."""

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Never, Self

from pydantic import BaseModel, computed_field

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
RENEW_SECONDS = 2
Clock = Callable[[], datetime]


class Progress(BaseModel):
    """What `progress.json` says. Rows are counted twice: when they are copied, and when they are read back."""

    owner: str
    attempt: int = 1
    started_at: datetime
    updated_at: datetime
    lease_until: datetime
    stage: str = "starting"
    rows: int = 0
    bytes: int = 0
    checked_rows: int = 0
    total_rows: int = 0
    reason: str | None = None  # why the worker gave up: whoever comes may go on
    announced: bool = False  # the end of the backup was published: nothing is left to do

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def percent(self) -> int:
        return min(99, 100 * (self.rows + self.checked_rows) // (2 * self.total_rows)) if self.total_rows else 0

    def copied(self, rows: int, size: int) -> None:
        self.rows += rows
        self.bytes += size

    def checked(self, rows: int) -> None:
        self.checked_rows += rows


class Lease:
    """Held from `take` on, as long as `keep` runs. Every method raises LeaseLost when another worker has it now."""

    def __init__(self, store: S3Store, key: str, progress: Progress, etag: str | None, now: Clock) -> None:
        self._store = store
        self._key = key
        self._etag = etag
        self._now = now
        self.progress = progress

    @classmethod
    async def take(cls, store: S3Store, key: str, now: Clock) -> Self | None:
        """A lease that nobody has; None while somebody has it, or when there is nothing left to do."""
        fresh = Progress(owner=secrets.token_hex(8), started_at=now(), updated_at=now(), lease_until=now())
        try:
            lease = cls(store, key, fresh, None, now)
            await lease.renew()
        except LeaseLost:
            found = await store.get(key)
            theirs = Progress.model_validate_json(found.body)
            held = theirs.lease_until > now() and not theirs.reason
            if theirs.announced or held:
                return None
            again = {"attempt": theirs.attempt + 1, "started_at": theirs.started_at}
            lease = cls(store, key, fresh.model_copy(update=again), found.etag, now)
            try:
                await lease.renew()
            except LeaseLost:
                return None
        return lease

    async def keep(self) -> Never:
        """Renew it again and again; ends only by an error."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                async with asyncio.timeout((self.progress.lease_until - self._now()).total_seconds()):
                    await self.renew()
            except TimeoutError:
                raise AwsUnavailable("the lease could not be renewed before it ended") from None

    async def renew(self) -> None:
        await self._write(LEASE)

    async def release(self, reason: str) -> None:
        """Give it up before the end, to another attempt."""
        self.progress.reason = reason
        await self._write(ANOTHER_ATTEMPT_WITHIN)

    async def close(self) -> None:
        """Nothing is left to do. The lease runs out by itself: a reader must not take the end for a loss."""
        self.progress.announced = True
        await self._write(LEASE)

    async def _write(self, lease: timedelta) -> None:
        self.progress.updated_at = self._now()
        self.progress.lease_until = self._now() + lease
        body = self.progress.model_dump_json(indent=1).encode()
        try:
            self._etag = await self._store.put(self._key, body, self._etag)
        except ObjectChanged:
            # A renewal that was cancelled, or whose answer got lost, may have been written all the same.
            found = await self._store.get(self._key)
            if Progress.model_validate_json(found.body).owner != self.progress.owner:
                raise LeaseLost("another worker took the backup over") from None
            self._etag = await self._store.put(self._key, body, found.etag)
