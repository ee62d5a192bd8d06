"""What the API takes and gives."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from backup_lambda.lease import Progress
from backup_lambda.proof import Difference, Proof

State = Literal["queued", "running", "stored", "suspect", "proven", "broken", "failed", "cancelled", "expired"]
EventType = Literal[
    "backup.proven", "backup.stored", "backup.suspect", "backup.broken", "backup.failed", "backup.cancelled"
]
# Control characters would let a label forge lines of the mail that it is shown in.
Label = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]
# Two identifiers of PostgreSQL, each of up to 63 bytes and without NUL, and the dot between them.
TableName = Annotated[str, Field(min_length=1, max_length=127, pattern=r"^[^\x00]*$")]
Email = Annotated[str, Field(max_length=254, pattern=r"^[!-?A-~]+@[!-?A-~]+$")]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def qualified(table: str) -> str:
    """A name without a dot is that of a table in schema `notes`. Raises ValueError."""
    name = table if "." in table else f"notes.{table}"
    if name.startswith(".") or name.endswith("."):
        raise ValueError("a table's name is `schema.table`")
    return name


def _selection(tables: list[str]) -> list[str]:
    names = sorted(qualified(each) for each in tables)
    if len(set(names)) < len(names):
        raise ValueError("a table is named twice")
    return names


class BackupIn(_In):
    """A wish for a backup, now: of everything, or of these tables (`schema.table`; `notes` means `notes.notes`)."""

    label: Label | None = None
    tables: Annotated[list[TableName], Field(min_length=1, max_length=200), AfterValidator(_selection)] | None = None


class ProofIn(_In):
    """A wish for another proof; with `accept_suspect`, what made the backup suspect was meant."""

    accept_suspect: bool = False


class ProgressOut(BaseModel):
    """How far a running backup, or a proof of it, is; `percent` stays under 100 until it has ended.

    Rows come by several times: they are copied and read back, restored and compared. `rows` and `bytes` are those of
    the first of these passes, the rates are the present stage's, and all rates are null while there is nothing to tell
    them from.
    """

    stage: str
    rows: int
    bytes: int
    percent: int
    rows_per_second: float | None
    bytes_per_second: float | None
    seconds_left: int | None

    @classmethod
    def of(cls, progress: Progress) -> Self:
        told = cls.model_validate(progress, from_attributes=True)
        return told.model_copy(update={"rows": max(progress.rows, progress.restored_rows)})


class ProofOut(BaseModel):
    """A proof: the backup was restored into PostgreSQL `server`, and compared. `unfinished` says nothing about it.

    Of the `differences_found`, `differences` are the first 20.
    """

    number: int
    verdict: Literal["proven", "broken", "unfinished"]
    reason: str | None
    requested_by: str | None
    started_at: datetime
    ended_at: datetime
    server: str
    rows: int
    differences: list[Difference]
    differences_found: int

    @classmethod
    def of(cls, proof: Proof) -> Self:
        return cls.model_validate(proof, from_attributes=True)


class ProofAsked(BaseModel):
    """A proof that is to be made: it has ended when the backup has a `proof` or `unfinished_proof` of this number.

    With `accept_suspect` it may get a higher one: when another proof took this number meanwhile.
    """

    backup_id: str
    number: int


class NotBackedUp(BaseModel):
    """Something that holds rows and is not in a backup of its schemas."""

    name: str
    reason: str


class TableOut(BaseModel):
    """A table in a backup; `bytes` and `sha256` are of its uncompressed rows."""

    name: str
    rows: int
    bytes: int
    stored_bytes: int
    sha256: str


class TableLink(BaseModel):
    """Where the rows of a table, and the index of their blocks, can be read without credentials until `expires_at`.

    Or until the credentials end that the API signed them with. Both are gzip; `sha256` is of the uncompressed rows. In
    a bucket with versions the links lead to the objects as they are now, whatever is written later; in another, compare
    the digest.
    """

    name: str
    rows: int
    bytes: int
    stored_bytes: int
    sha256: str
    url: str
    index_url: str
    expires_at: datetime


class Backup(BaseModel):
    """A backup. `reason` says why it is in its state, or why another attempt follows.

    `selection` are the tables that were asked for, null for all; `tables` are those that it has, known once it is
    stored. `ended_at` is when the last row was safe, `proof.ended_at` when it was proven. `proof` is the newest one
    whose verdict counts, `unfinished_proof` a newer one that could not be finished. `suspect` says what is strange
    about its rows, also after a proof accepted it. `manifest_sha256` is the head of the chain of manifests.

    `announced` says that its end was published on the topic. Whoever needs to hear of an end that stays unannounced has
    to ask: its notice was refused, or nobody was left to send it.
    """

    id: str
    state: State
    label: str | None
    selection: list[str] | None = None
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    progress: ProgressOut | None = None
    proof: ProofOut | None = None
    unfinished_proof: ProofOut | None = None
    tables: list[TableOut] = []
    not_backed_up: list[NotBackedUp] = []
    rows: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    suspect: str | None = None
    reason: str | None = None
    manifest_sha256: str | None = None
    announced: bool = False
    requested_by: str | None

    @property
    def ended(self) -> bool:
        return self.state not in ("queued", "running")


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
