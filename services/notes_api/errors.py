"""What can go wrong, as facts. `problems` renders them, at the edge and once.

NotesError                    500
├── NotAuthenticated          401   no token
│   └── TokenRefused          401   an unknown or expired token
├── ScopeMissing              403   the token may not do this
├── NoteNotFound              404   also when it is somebody else's
├── MalformedRequest          400   cannot be understood: broken JSON, an unknown query parameter
├── InvalidCursor             400   not one that we gave
├── BodyTooLarge              413   over 2 MiB
├── UnsupportedMediaType      415   the body is not JSON
├── InvalidRequest            422   understood, and not allowed
├── DatabaseUnavailable       503   asking again may help
└── SchemaBehind              503   this release needs a migration that has not run
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar


class NotesError(Exception):
    """Something went wrong on our side."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal-error"

    def __init__(self, detail: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})


class NotAuthenticated(NotesError):
    """A bearer token is needed."""

    status, type = 401, "not-authenticated"

    def __init__(self, detail: str = "Send `Authorization: Bearer hf_...`.", challenge: str = "Bearer") -> None:
        super().__init__(detail, {"WWW-Authenticate": challenge})


class TokenRefused(NotAuthenticated):
    """The token is unknown or has expired."""

    type = "token-refused"

    def __init__(self) -> None:
        super().__init__("Ask the owner of the service for a new one.", 'Bearer error="invalid_token"')


class ScopeMissing(NotesError):
    """The token lacks a scope."""

    status, type = 403, "scope-missing"

    def __init__(self, scopes: Iterable[str]) -> None:
        missing = " ".join(scopes)
        challenge = f'Bearer error="insufficient_scope", scope="{missing}"'
        super().__init__(f"This needs the scope {missing}.", {"WWW-Authenticate": challenge})


class NoteNotFound(NotesError):
    """There is no such note."""

    status, type = 404, "note-not-found"


class MalformedRequest(NotesError):
    """The request cannot be understood."""

    status, type = 400, "malformed-request"


class InvalidCursor(NotesError):
    """The cursor is not one that this API gave."""

    status, type = 400, "invalid-cursor"


class BodyTooLarge(NotesError):
    """The body is too large."""

    status, type = 413, "body-too-large"


class UnsupportedMediaType(NotesError):
    """The body must be JSON."""

    status, type = 415, "unsupported-media-type"


class InvalidRequest(NotesError):
    """The request is understood, and not allowed."""

    status, type = 422, "invalid-request"


class DatabaseUnavailable(NotesError):
    """The database cannot be reached, or is too busy."""

    status, type = 503, "database-unavailable"

    def __init__(self) -> None:
        super().__init__("Try again. A change that was under way may or may not have been made.", {"Retry-After": "2"})


class SchemaBehind(NotesError):
    """The database's schema is older than this release."""

    status, type = 503, "schema-behind"
