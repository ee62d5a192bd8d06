"""What can go wrong, as facts. `problems` renders them, at the edge and once.

SchedulerError              500
├── NotAuthenticated        401   no token
│   └── TokenRefused        401   an unknown or expired token
├── ScopeMissing            403   the token may not do this
├── ScheduleNotFound        404
├── RunNotFound             404
├── AlarmNotFound           404
├── NameTaken               409   another schedule has the name
├── RunActive               409   of a schedule that wants one run at a time
├── KeyTaken                409   the Idempotency-Key belongs to another request
├── RunEnded                409   nothing is left to cancel
├── NotPaused               409   nothing to resume
├── NotScheduled            409   an adopted run cannot be made again
├── BackfillRefused         409   not for this target, too much, or another count by now
├── VersionMismatch         412   the schedule changed since the client read it
├── PreconditionMissing     428   a change must say which version it changes
├── NeverDue                409   when it is due cannot be computed: its zone has gone
├── StillSettling           503   due times of an outage are still being recorded
├── MalformedRequest        400   cannot be understood: an unknown query parameter
├── BodyTooLarge            413
├── UnsupportedMediaType    415
├── InvalidRequest          422   understood, and not allowed
├── DatabaseUnavailable     503   asking again may help
├── SchemaBehind            503   this release needs a migration that has not run
└── LeaseLost               inside only: another worker has taken the run over

What the backup API may do to us is in `backups`, the topic in `alarms`.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar


class SchedulerError(Exception):
    """Something went wrong on our side."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal-error"

    def __init__(self, detail: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})


class NotAuthenticated(SchedulerError):
    """A bearer token is needed."""

    status, type = 401, "not-authenticated"

    def __init__(self, detail: str = "Send `Authorization: Bearer hf_...`.", challenge: str = "Bearer") -> None:
        super().__init__(detail, {"WWW-Authenticate": challenge})


class TokenRefused(NotAuthenticated):
    """The token is unknown or has expired."""

    type = "token-refused"

    def __init__(self) -> None:
        super().__init__("Ask the owner of the service for a new one.", 'Bearer error="invalid_token"')


class ScopeMissing(SchedulerError):
    """The token lacks a scope."""

    status, type = 403, "scope-missing"

    def __init__(self, scopes: Iterable[str]) -> None:
        missing = " ".join(scopes)
        challenge = f'Bearer error="insufficient_scope", scope="{missing}"'
        super().__init__(f"This needs the scope {missing}.", {"WWW-Authenticate": challenge})


class ScheduleNotFound(SchedulerError):
    """There is no such schedule."""

    status, type = 404, "schedule-not-found"


class RunNotFound(SchedulerError):
    """There is no such run."""

    status, type = 404, "run-not-found"


class AlarmNotFound(SchedulerError):
    """There is no such alarm."""

    status, type = 404, "alarm-not-found"


class NameTaken(SchedulerError):
    """Another schedule has this name."""

    status, type = 409, "name-taken"

    def __init__(self) -> None:
        super().__init__("Choose another name, or change the schedule that has it.")


class RunActive(SchedulerError):
    """A run of this schedule is active, and it wants one at a time."""

    status, type = 409, "run-active"

    def __init__(self, run_id: object) -> None:
        super().__init__(f"Wait for run {run_id}, or cancel it: POST /v1/runs/{run_id}/cancel.")


class KeyTaken(SchedulerError):
    """The Idempotency-Key belongs to another request."""

    status, type = 409, "key-taken"

    def __init__(self, run_id: object) -> None:
        super().__init__(f"It made run {run_id}. Send a new key for each run that you want.")


class RunEnded(SchedulerError):
    """The run has ended, or is being cancelled already."""

    status, type = 409, "run-ended"

    def __init__(self) -> None:
        super().__init__("There is nothing left to cancel: see GET /v1/runs/{run_id}.")


class NotPaused(SchedulerError):
    """The schedule is not paused."""

    status, type = 409, "not-paused"

    def __init__(self) -> None:
        super().__init__("There is nothing to resume.")


class NotScheduled(SchedulerError):
    """No schedule made this run."""

    status, type = 409, "not-scheduled"

    def __init__(self) -> None:
        super().__init__("Somebody else asked for this backup, and it was followed only. Trigger a schedule instead.")


class BackfillRefused(SchedulerError):
    """The backfill cannot be made so."""

    status, type = 409, "backfill-refused"


class VersionMismatch(SchedulerError):
    """The schedule has changed since you read it."""

    status, type = 412, "version-mismatch"

    def __init__(self, revision: int | None) -> None:
        super().__init__("Read it again, and change that.", {"ETag": f'"{revision}"'} if revision else {})


class PreconditionMissing(SchedulerError):
    """A change must say which version it changes."""

    status, type = 428, "precondition-missing"

    def __init__(self) -> None:
        super().__init__("Send `If-Match` with the ETag of the schedule as you read it.")


class StillSettling(SchedulerError):
    """The due times of an outage are still being recorded."""

    status, type = 503, "still-settling"

    def __init__(self) -> None:
        super().__init__("Try again in a moment.", {"Retry-After": "5"})


class MalformedRequest(SchedulerError):
    """The request cannot be understood."""

    status, type = 400, "malformed-request"


class BodyTooLarge(SchedulerError):
    """The body is too large."""

    status, type = 413, "body-too-large"


class UnsupportedMediaType(SchedulerError):
    """The body is of another media type than this takes."""

    status, type = 415, "unsupported-media-type"


class InvalidRequest(SchedulerError):
    """The request is understood, and not allowed."""

    status, type = 422, "invalid-request"


class DatabaseUnavailable(SchedulerError):
    """The database cannot be reached, or is too busy."""

    status, type = 503, "database-unavailable"

    def __init__(self) -> None:
        super().__init__("Try again. A change that was under way may or may not have been made.", {"Retry-After": "2"})


class SchemaBehind(SchedulerError):
    """The database's schema is older than this release."""

    status, type = 503, "schema-behind"


class NeverDue(SchedulerError):
    """When the schedule is due cannot be computed."""

    status, type = 409, "never-due"

    def __init__(self, cron: str, timezone: str) -> None:
        super().__init__(f"When the schedule is due cannot be computed: its cron is {cron!r}, its zone {timezone!r}.")


class LeaseLost(SchedulerError):
    """The run's lease ended before its step did, so what the step found may no longer be written."""
