"""What can go wrong with a backup, as facts. `problems` renders them for HTTP; the worker records them.

BackupsError              500
├── BackupNotFound        404
├── BackupUnreadable      500   its objects are not what this release writes
├── MalformedRequest      400   cannot be understood: broken JSON, a query parameter
├── InvalidRequest        422   understood, and not allowed
├── KeyReused             422   the Idempotency-Key belongs to another request
├── AlreadySubscribed     409   with other events
├── LeaseLost             500   another worker has the backup: stop at once, write nothing
├── AwsError              500
│   ├── AwsUnavailable    503   asking again may help
│   ├── AwsRefused        500   asking again will not: a right, a name
│   └── ObjectChanged     500   somebody else wrote the object meanwhile
└── BackupFailed          500   the backup ends here; the text is its reason
    ├── DatabaseFailed          PostgreSQL stopped, refused or could not be reached
    ├── CountsDiffer            rows were lost or doubled on the way
    ├── StoredDiffers           what was read back is not what was written
    └── DeadlineReached         the invocation's time is nearly over
"""

from typing import ClassVar


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


class BackupFailed(BackupsError):
    """The backup could not be made."""


class DatabaseFailed(BackupFailed):
    """PostgreSQL stopped, refused or could not be reached."""


class CountsDiffer(BackupFailed):
    """Rows were lost or doubled on the way."""


class StoredDiffers(BackupFailed):
    """What was read back is not what was written."""


class DeadlineReached(BackupFailed):
    """The invocation's time is nearly over."""
