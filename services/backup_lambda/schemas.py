"""What the API takes and gives."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from backup_lambda.lease import Progress
from backup_lambda.proof import Proof
from backup_lambda.replica import Difference

State = Literal["queued", "running", "stored", "suspect", "proven", "broken", "failed", "cancelled", "expired"]
EventType = Literal[
    "backup.proven",
    "backup.stored",
    "backup.suspect",
    "backup.broken",
    "backup.failed",
    "backup.cancelled",
    "backup.changed",  # much of it is other than in the last proven one
    "restore.completed",
    "restore.failed",
    "backup.overdue",  # these are the scheduler's
    "backup.recovered",
    "run.failed",
]
TRIAL = "test"  # the type of a message that is sent to try whether mails arrive: every filter lets it through
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
    to ask: its notice was refused, or nobody was left to send it. `unheard` says so when it was published, and nobody
    had subscribed.
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
    unheard: str | None = None
    requested_by: str | None

    @property
    def ended(self) -> bool:
        return self.state not in ("queued", "running")


class BackupPage(BaseModel):
    """Backups, newest first. The next page is at `backups/before/{next_cursor}`."""

    items: list[Backup]
    next_cursor: str | None
    has_more: bool


# A number, or any other value, as the text that PostgreSQL's JSON has of it; a number without quotes.
KeyValues = Annotated[list[str | int | bool], Field(min_length=1, max_length=32)]


def _free_to_take(database: str) -> str:
    if database in ("postgres", "template0", "template1") or database.startswith(("holdfast_proof_", "holdfast_new_")):
        raise ValueError("this name is taken by databases that every server has, or that we make and drop")
    return database


DatabaseName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$"), AfterValidator(_free_to_take)]


class TableWanted(_In):
    """A table that is to be restored: all its rows, or those with these keys, each the values of the primary key."""

    table: TableName
    keys: Annotated[list[KeyValues], Field(min_length=1, max_length=1000)] | None = None


class RestoreIn(_In):
    """A wish to have something back.

    With `database`: the whole backup, in a new database of that name, on the server that proofs run on. With `tables`:
    into the live database, in one transaction. `on_conflict` says what becomes of a row whose key is there with other
    values: nothing at all is restored, that row is left, or it is overwritten. A row that is the same is left, always;
    and rows that only the live database has stay. `dry_run` does all of it, takes it back, and says what was changed.
    Only values that triggers take from sequences are not given back.

    `because` is the reason for which a backup is restored that is not proven. `skip_damaged` leaves out blocks of rows
    that are not what was stored, and names them.
    """

    database: DatabaseName | None = None
    tables: Annotated[list[TableWanted], Field(min_length=1, max_length=200)] | None = None
    on_conflict: Literal["fail", "skip", "overwrite"] = "fail"
    dry_run: bool = False
    because: Label | None = None
    skip_damaged: bool = False

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.database is None) == (self.tables is None):
            raise ValueError("name either a `database`, for all of it, or `tables`, for the live one")
        if self.database and (self.dry_run or self.on_conflict != "fail"):
            raise ValueError("`on_conflict` and `dry_run` are for `tables`: a new database has no rows")
        return self


class FieldChange(BaseModel):
    """JSON texts; null where there is no such column."""

    before: str | None
    after: str | None


class Change(BaseModel):
    """A row that a restore touches, or that differs: `fields` only of one that changed.

    `key` are the values of its primary key; each field has the value `before` and the one `after`, as JSON texts of at
    most 200 characters. Before and after are: the live row and the restored one; the first backup and the other.
    """

    action: Literal["added", "removed", "changed"]
    key: list[str]
    fields: dict[str, FieldChange] = {}


class TableRestored(BaseModel):
    """What became of a table's rows; `changes` are the first 100.

    `added` were not there, `changed` were overwritten, `left` had other values and were left, `same` were equal;
    `altered` counts those that were written, and are not as in the backup all the same.
    """

    name: str
    rows: int  # that the backup has, or that were asked for
    added: int = 0
    changed: int = 0
    left: int = 0
    same: int = 0
    altered: int = 0
    changes: list[Change] = []
    drift: list[str] = []  # how the table differs from the backup's, and what was made of it
    damaged: list[str] = []  # blocks that were left out, each in words
    missing: list[list[str]] = []  # keys that were asked for, and that the backup has not


class Restore(BaseModel):
    """A restore. `completed` means: committed, and compared where it is a new database; a dry run took it back.

    `reason` says why it failed, in which case nothing was changed; or what is not in one that left out damaged blocks;
    or, while it is running, what it waits for. `tokens_revoked` counts the access tokens that came
    back with a whole backup, and were made invalid.
    """

    id: str
    backup_id: str
    state: Literal["queued", "running", "completed", "failed"]
    database: str | None
    dry_run: bool
    on_conflict: str
    because: str | None = None
    created_at: datetime
    requested_by: str | None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    progress: ProgressOut | None = None
    tables: list[TableRestored] = []
    rows: int = 0
    tokens_revoked: int = 0
    reason: str | None = None
    announced: bool = False

    @property
    def ended(self) -> bool:
        return self.state in ("completed", "failed")


class TableDiff(BaseModel):
    """How a table differs. Rows and blocks are of the whole table; the other counts are of this page.

    `comparable` says why its rows cannot be told apart, if they cannot: another primary key, or none.
    """

    name: str
    rows_before: int | None  # null where the table is not there, or was too large to be counted
    rows_after: int | None
    blocks_differ: int
    blocks: int
    columns_added: list[str] = []
    columns_removed: list[str] = []
    comparable: str | None = None
    added: int = 0
    removed: int = 0
    changed: int = 0
    changes: list[Change] = []


class Diff(BaseModel):
    """What differs between a backup (`before`) and another one, or the database `now` (`after`).

    It comes in pages, each of at most 1,000 changed rows and so many blocks read; `next` is the rest, a path relative
    to the API, or null. Tables that are equal are not among `tables`. `bytes_read` are those of the bucket.
    """

    before: str
    after: str
    tables: list[TableDiff]
    added: int = 0
    removed: int = 0
    changed: int = 0
    bytes_read: int = 0
    next: str | None = None


class RowState(BaseModel):
    """What a row was, in the backups from `oldest_backup_id` to `backup_id`, which is the newer one.

    `row` is null where they have no such row; `damaged` says why it cannot be told.
    """

    backup_id: str
    oldest_backup_id: str
    row: dict[str, Any] | None
    damaged: str | None = None


class RowHistory(BaseModel):
    """Every distinct state of a row across backups, newest first. `row` is as in the backup, every digit of it."""

    table: str
    key: list[str]
    backups: int
    items: list[RowState]


class Row(BaseModel):
    """A row as a backup has it: `row` is the very text that is stored."""

    backup_id: str
    table: str
    key: list[str]
    row: dict[str, Any]


class RetentionItem(BaseModel):
    """A backup in a retention plan. `clean` removes what one left that failed; its record stays as it is."""

    backup_id: str
    state: State
    label: str | None
    action: Literal["keep", "expire", "clean"]
    reasons: list[str]
    stored_bytes: int = 0


class RetentionPlan(BaseModel):
    """What retention would do now, newest first. `digest` names this plan: POST it to apply it, and no other."""

    digest: str
    policy: str
    made_at: datetime
    keep: int
    expire: int
    clean: int
    stored_bytes_freed: int
    items: list[RetentionItem]


class RetentionIn(_In):
    """The plan that is to be applied."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RetentionResult(BaseModel):
    """What was done of a plan. With `complete` false the time ended first: get the plan again, and apply that.

    `left` are those whose data was not removed, each with the reason: what they are has changed meanwhile. The next
    plan says what becomes of them.
    """

    digest: str
    complete: bool
    expired: list[str]
    cleaned: list[str]
    left: dict[str, str] = {}
    objects_deleted: int


class TrialSent(BaseModel):
    """A test message is on its way to so many confirmed addresses."""

    confirmed: int


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
    """All email subscriptions. `warning` says so when nobody has confirmed one: no mail is heard by anybody."""

    items: list[Subscription]
    warning: str | None = None
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
