"""What can go wrong with a backup, as facts. `problems` renders them for HTTP; the worker records them.

BackupsError              500
├── BackupNotFound        404
├── BackupUnreadable      500   its objects are not what this release writes
├── MalformedRequest      400   cannot be understood: broken JSON, a query parameter
├── InvalidRequest        422   understood, and not allowed
├── KeyReused             422   the Idempotency-Key belongs to another request
├── AlreadySubscribed     409   with other events
├── NotYet                409   the backup has not come so far: there is nothing to prove or to download
├── AlreadyEnded          409   there is nothing left to cancel
├── TableNotFound         404   the backup has no such table
├── RowNotFound           404   the table has no such row, or cannot have this key
├── RowTooLarge           413   for an answer; its table can be downloaded
├── BackupExpired         410   retention removed its data
├── ObjectAltered         409   it is not the one that was stored: the backup is to be proven
│   └── BlockDamaged      409   so of some rows, which are refused; the others can be had
├── NotComparable         409   nothing can be said about what differs
├── RestoreNotFound       404
├── RestoreRefused        409   what was asked for cannot be done; nothing was touched
│   └── RowsDiffer              so: rows are there with other values
├── FateUnknown           500   whether a restore was committed cannot be told, and must not be guessed
├── StalePlan             409   the plan is not what retention would do now
├── PlanRefused           409   what the plan relies upon is not what was signed
├── SubscriptionNotFound  404
├── LeaseLost             500   another worker has the backup: stop at once, write nothing
├── AwsError              500
│   ├── AwsUnavailable    503   asking again may help
│   ├── AwsRefused        500   asking again will not: a right, a name
│   └── ObjectChanged     500   somebody else wrote the object meanwhile
├── NotRestored           500   PostgreSQL refused what a backup says: its SQL or its rows
├── ProofUnfinished       500   nothing is proven, and nothing disproven; the text says why
├── SignatureInvalid      500   a manifest or a proof is not what was signed, or by another key
├── NothingToTell         500   nobody is told of a backup that has not ended, or expired
└── BackupFailed          500   the backup ends here; the text is its reason
    ├── Cancelled               somebody asked for it
    ├── DatabaseFailed          PostgreSQL stopped, refused or could not be reached
    ├── CountsDiffer            rows were lost or doubled on the way
    ├── StoredDiffers           what was read back is not what was written
    ├── Stalled                 nothing moved for very long
    ├── DeadlineReached         the invocation's time is nearly over
    └── Stopped                 the process is told to end
"""

from collections.abc import Sequence
from typing import Any, ClassVar


class BackupsError(Exception):
    """Something went wrong on our side."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal-error"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail


class BackupNotFound(BackupsError):
    """There is no such backup."""

    status, type = 404, "backup-not-found"


class BackupUnreadable(BackupsError):
    """What the bucket holds of the backup cannot be understood."""

    type = "backup-unreadable"


class MalformedRequest(BackupsError):
    """The request cannot be understood."""

    status, type = 400, "malformed-request"


class InvalidRequest(BackupsError):
    """The request is understood, and not allowed."""

    status, type = 422, "invalid-request"


class KeyReused(BackupsError):
    """The Idempotency-Key was used for another request."""

    status, type = 422, "idempotency-key-reused"


class AlreadySubscribed(BackupsError):
    """The address is subscribed to other events."""

    status, type = 409, "already-subscribed"


class NotYet(BackupsError):
    """The backup has not come so far."""

    status, type = 409, "backup-not-ready"


class AlreadyEnded(BackupsError):
    """The backup has ended."""

    status, type = 409, "backup-ended"


class TableNotFound(BackupsError):
    """The backup has no such table."""

    status, type = 404, "table-not-found"


class ObjectAltered(BackupsError):
    """An object of the backup is not the one that was stored."""

    status, type = 409, "object-altered"


class RowNotFound(BackupsError):
    """There is no such row."""

    status, type = 404, "row-not-found"


class RowTooLarge(BackupsError):
    """The row is too large for an answer."""

    status, type = 413, "row-too-large"


class BackupExpired(BackupsError):
    """Retention removed the data of the backup."""

    status, type = 410, "backup-expired"


class BlockDamaged(ObjectAltered):
    """Some rows of the backup are not what was stored."""

    type = "block-damaged"


class NotComparable(BackupsError):
    """What differs cannot be told."""

    status, type = 409, "not-comparable"


class RestoreNotFound(BackupsError):
    """There is no such restore."""

    status, type = 404, "restore-not-found"


class RestoreRefused(BackupsError):
    """The restore cannot be done. Nothing was touched."""

    status, type = 409, "restore-refused"


class RowsDiffer(RestoreRefused):
    """Rows are there with other values. `tables` are those of a restore, each a schemas.TableRestored."""

    def __init__(self, detail: str, tables: Sequence[Any]) -> None:
        super().__init__(detail)
        self.tables = tables


class FateUnknown(BackupsError):
    """Whether a restore was committed cannot be told."""


class StalePlan(BackupsError):
    """The plan is not what retention would do now."""

    status, type = 409, "stale-plan"


class PlanRefused(BackupsError):
    """The plan relies upon what was not signed. Nothing was deleted."""

    status, type = 409, "plan-refused"


class SubscriptionNotFound(BackupsError):
    """There is no such subscription."""

    status, type = 404, "subscription-not-found"


class LeaseLost(BackupsError):
    """Another worker has the backup."""


class AwsError(BackupsError):
    """A service of AWS did not do what it was asked."""


class AwsUnavailable(AwsError):
    """A service of AWS cannot be reached, or is too busy."""

    status, type = 503, "aws-unavailable"


class AwsRefused(AwsError):
    """A service of AWS refused the call."""

    type = "aws-refused"


class ObjectChanged(AwsError):
    """Somebody else wrote the object meanwhile."""


class NotRestored(BackupsError):
    """PostgreSQL refused what a backup says: its SQL or its rows. The cause is its error, whose text may hold rows."""


class ProofUnfinished(BackupsError):
    """A proof could not be carried to its end, which says nothing about the backup."""


class SignatureInvalid(BackupsError):
    """A manifest or a proof is not what was signed, or was signed by another key."""


class NothingToTell(BackupsError):
    """A backup in this state is no news: it has not ended, or its end was told long ago."""


class BackupFailed(BackupsError):
    """The backup could not be made."""


class Cancelled(BackupFailed):
    """Somebody asked for it."""


class DatabaseFailed(BackupFailed):
    """PostgreSQL stopped, refused or could not be reached."""


class CountsDiffer(BackupFailed):
    """Rows were lost or doubled on the way."""


class StoredDiffers(BackupFailed):
    """What was read back is not what was written."""


class Stalled(BackupFailed):
    """Nothing moved for very long: a connection is dead, and nobody said so."""


class DeadlineReached(BackupFailed):
    """The invocation's time is nearly over."""


class Stopped(BackupFailed):
    """The process was told to end."""
