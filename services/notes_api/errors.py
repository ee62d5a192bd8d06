"""What can go wrong, as facts. `problems` renders them, at the edge and once.

NotesError                    500
├── NotAuthenticated          401   no token
│   └── TokenRefused          401   an unknown, expired or revoked token
├── ScopeMissing              403   the token may not do this
├── NotFound                  404
│   ├── NoteNotFound          404   also when it is somebody else's
│   ├── RevisionNotFound      404
│   ├── AttachmentNotFound    404
│   └── TokenNotFound         404
├── MalformedRequest          400   cannot be understood: broken JSON, an unknown query parameter
├── InvalidCursor             400   not one that we gave for this list
├── NoteTrashed               409   what is in the trash has to be restored first
├── NoteNotTrashed            409   only what is in the trash is deleted for good
├── IdTaken                   409   the id of a new note belongs to another one
├── RequestInFlight           409   the first request with this Idempotency-Key has not ended
├── NotUploaded               409   the attachment's bytes are not there, or not those that were announced
├── CursorGone                410   changes cannot be followed from here any more
├── VersionMismatch           412   the note is not as the client read it
├── NoteExists                412   `If-None-Match: *`, and there is a note
├── BodyTooLarge              413   over 2 MiB
├── TargetTooLong             414   path and query over 8 KiB
├── UnsupportedMediaType      415   another type than the route takes
├── InvalidRequest            422   understood, and not allowed
│   ├── TextNotFound          422   what is to be replaced does not stand in the note
│   └── TextFoundOften        422   it stands there more than once
├── KeyReused                 422   the Idempotency-Key belongs to another request
├── PreconditionMissing       428   a change must say which version it changes
├── TooManyRequests           429   over the limit of the token
├── HeadersTooLarge           431   more than 100, or over 32 KiB
├── DatabaseUnavailable       503   asking again may help
├── StorageUnavailable        503   the same of the attachments' bucket; or there is none
├── TooManyStreams            503   as many follow the changes as one process can serve
├── TooManyExports            503   one of the owner runs, or as many as one process can serve
├── TopicUnavailable          503   of the notes topic; no client is told of it
└── SchemaBehind              503   this release needs a migration that has not run
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class NotesError(Exception):
    """Something went wrong on our side."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal-error"

    def __init__(self, detail: str = "", headers: Mapping[str, str] | None = None, **members: Any) -> None:
        """`members` are further ones of the problem: see `schemas.Problem`."""
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members


class NotAuthenticated(NotesError):
    """A bearer token is needed."""

    status, type = 401, "not-authenticated"

    def __init__(self, detail: str = "Send `Authorization: Bearer hf_...`.", challenge: str = "Bearer") -> None:
        super().__init__(detail, {"WWW-Authenticate": challenge})


class TokenRefused(NotAuthenticated):
    """The token is unknown, has expired or was revoked."""

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


class NotFound(NotesError):
    """There is no such thing."""

    status, type = 404, "not-found"


class NoteNotFound(NotFound):
    """There is no such note."""

    type = "note-not-found"


class RevisionNotFound(NotFound):
    """The note has no such revision."""

    type = "revision-not-found"


class AttachmentNotFound(NotFound):
    """The note has no such attachment."""

    type = "attachment-not-found"


class TokenNotFound(NotFound):
    """There is no such token."""

    type = "token-not-found"


class MalformedRequest(NotesError):
    """The request cannot be understood."""

    status, type = 400, "malformed-request"


class InvalidCursor(NotesError):
    """The cursor is not one that this API gave for this list."""

    status, type = 400, "invalid-cursor"


class NoteTrashed(NotesError):
    """The note is in the trash."""

    status, type = 409, "note-trashed"


class NoteNotTrashed(NotesError):
    """The note is not in the trash."""

    status, type = 409, "note-not-trashed"


class IdTaken(NotesError):
    """The id cannot be had."""

    status, type = 409, "id-taken"


class RequestInFlight(NotesError):
    """The first request with this Idempotency-Key has not ended."""

    status, type = 409, "request-in-flight"

    def __init__(self) -> None:
        super().__init__("Ask again in a second for its answer.", {"Retry-After": "1"})


class NotUploaded(NotesError):
    """What was uploaded is not what was announced."""

    status, type = 409, "not-uploaded"


class CursorGone(NotesError):
    """The changes cannot be followed from this cursor any more."""

    status, type = 410, "cursor-gone"


class VersionMismatch(NotesError):
    """The note is not as the client read it."""

    status, type = 412, "version-mismatch"


class NoteExists(NotesError):
    """There is a note with this id."""

    status, type = 412, "note-exists"


class BodyTooLarge(NotesError):
    """The body is too large."""

    status, type = 413, "body-too-large"


class TargetTooLong(NotesError):
    """Path and query are too long."""

    status, type = 414, "uri-too-long"


class UnsupportedMediaType(NotesError):
    """The body has another media type than the one that is taken."""

    status, type = 415, "unsupported-media-type"


class InvalidRequest(NotesError):
    """The request is understood, and not allowed."""

    status, type = 422, "invalid-request"


class TextNotFound(InvalidRequest):
    """The text to be replaced is not in the note."""

    type = "text-not-found"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, errors=[{"pointer": "#/find", "code": "not_found", "detail": detail}])


class TextFoundOften(InvalidRequest):
    """The text to be replaced is in the note more than once."""

    type = "text-found-often"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, errors=[{"pointer": "#/find", "code": "found_often", "detail": detail}])


class KeyReused(NotesError):
    """The Idempotency-Key belongs to another request."""

    status, type = 422, "idempotency-key-reused"


class PreconditionMissing(NotesError):
    """A change must say which version it changes."""

    status, type = 428, "precondition-missing"


class TooManyRequests(NotesError):
    """The token has made too many requests."""

    status, type = 429, "too-many-requests"


class HeadersTooLarge(NotesError):
    """The headers are too many or too large."""

    status, type = 431, "header-fields-too-large"


class DatabaseUnavailable(NotesError):
    """The database cannot be reached, or is too busy."""

    status, type = 503, "database-unavailable"

    def __init__(self) -> None:
        super().__init__("Try again. A change that was under way may or may not have been made.", {"Retry-After": "2"})


class StorageUnavailable(NotesError):
    """The attachments' storage cannot be reached, or there is none."""

    status, type = 503, "storage-unavailable"


class TooManyStreams(NotesError):
    """Too many follow the changes by streams."""

    status, type = 503, "too-many-streams"

    def __init__(self) -> None:
        super().__init__("Ask again, or ask for pages: GET /v1/changes?wait=25.", {"Retry-After": "5"})


class TooManyExports(NotesError):
    """Too many exports run."""

    status, type = 503, "too-many-exports"

    def __init__(self) -> None:
        super().__init__("Ask again when another one has ended.", {"Retry-After": "10"})


class TopicUnavailable(NotesError):
    """The notes topic cannot be reached, or refuses."""

    status, type = 503, "topic-unavailable"


class SchemaBehind(NotesError):
    """The database's schema is older than this release."""

    status, type = 503, "schema-behind"
