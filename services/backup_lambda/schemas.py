"""What the API takes and gives."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["queued", "running", "stored", "failed"]
EventType = Literal["backup.stored", "backup.failed"]
# Control characters would let a label forge lines of the mail that it is shown in.
Label = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]
Email = Annotated[str, Field(max_length=254, pattern=r"^[!-?A-~]+@[!-?A-~]+$")]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class BackupIn(_In):
    """A wish for a backup of everything, now."""

    label: Label | None = None


class ProgressOut(BaseModel):
    """How far a running backup is; `percent` stays under 100 until it has ended."""

    stage: str
    rows: int
    bytes: int
    percent: int


class TableOut(BaseModel):
    """A table in a backup; `bytes` and `sha256` are of its uncompressed rows."""

    name: str
    rows: int
    bytes: int
    stored_bytes: int
    sha256: str


class Backup(BaseModel):
    """A backup. `reason` says why it failed, or why another attempt follows; `tables` are known once it is stored.

    `announced` says that its end was published on the topic. Whoever needs to hear of an end that stays unannounced has
    to ask: its notice was refused, or nobody was left to send it.
    """

    id: str
    state: State
    label: str | None
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    progress: ProgressOut | None = None
    tables: list[TableOut] = []
    rows: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    reason: str | None = None
    announced: bool = False
    requested_by: str | None


class BackupPage(BaseModel):
    """Backups, newest first. The next page is at `backups/before/{next_cursor}`."""

    items: list[Backup]
    next_cursor: str | None
    has_more: bool


class SubscriptionIn(_In):
    """An address that shall get mail; about everything when `events` is null."""

    email: Email
    events: Annotated[list[EventType], Field(min_length=1)] | None = None


class Subscription(BaseModel):
    """`id` and `events` are null until the address has confirmed: AWS does not tell them before."""

    id: str | None
    email: str
    events: list[str] | None
    confirmed: bool


class SubscriptionPage(BaseModel):
    """All email subscriptions."""

    items: list[Subscription]
    next_cursor: None = None
    has_more: bool = False


class ProblemError(BaseModel):
    """One thing that is wrong with the request."""

    pointer: str | None = None  # into the body: RFC 6901, as the fragment of an URI
    parameter: str | None = None  # in the path, the query or the headers
    code: str
    detail: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[ProblemError] | None = None
