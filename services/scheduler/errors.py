"""What can go wrong, as facts. `problems` renders them, at the edge and once.

SchedulerError              500
├── NotAuthenticated        401   no token
│   └── TokenRefused        401   an unknown or expired token
├── ScopeMissing            403   the token may not do this
├── ScheduleNotFound        404
├── RunNotFound             404
├── MalformedRequest        400   cannot be understood: an unknown query parameter
├── InvalidRequest          422   understood, and not allowed
├── DatabaseUnavailable     503   asking again may help
├── SchemaBehind            503   this release needs a migration that has not run
├── NeverDue                inside only: a schedule's next due time cannot be computed
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


class MalformedRequest(SchedulerError):
    """The request cannot be understood."""

    status, type = 400, "malformed-request"


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
    """The schedule has no next due time."""

    def __init__(self, cron: str, timezone: str) -> None:
        super().__init__(f"When the schedule is due next cannot be computed from cron {cron!r} in zone {timezone!r}.")


class LeaseLost(SchedulerError):
    """The run's lease ended before its step did, so what the step found may no longer be written."""
