"""What goes over the wire."""

from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from notes_api.db import Row
from notes_api.fields import Content, Metadata, Patch, Tags, Title


class NoteIn(BaseModel):
    """A whole note."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"title": "Shopping", "content": "- bread\n- tea\n", "tags": ["home"]}]},
    )

    title: Title
    content: Content = ""
    tags: Tags = []
    pinned: bool = False
    archived: bool = False
    metadata: Metadata = {}


class NoteEdit(BaseModel):
    """A merge patch, RFC 7396: what is absent stays; null sets back to what a new note has."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"title": "Shopping on Friday", "metadata": {"color": "green"}}]},
    )

    title: Title = ""
    content: Annotated[Content | None, AfterValidator(lambda given: "" if given is None else given)] = ""
    tags: Annotated[Tags | None, AfterValidator(lambda given: [] if given is None else given)] = []
    pinned: Annotated[bool | None, AfterValidator(bool)] = False
    archived: Annotated[bool | None, AfterValidator(bool)] = False
    metadata: Patch | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """What the client wrote, and nothing else."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class NoteListed(BaseModel):
    """A note in a list: without its content, since a page of whole notes could be 200 MiB."""

    id: UUID
    title: str
    tags: list[str]
    pinned: bool
    archived: bool
    metadata: dict[str, JsonValue]
    attachment_count: int
    revision: int
    etag: Annotated[str, Field(description="As in the header `ETag`, quotes included.")]
    created_at: datetime
    updated_at: datetime
    deleted_at: Annotated[datetime | None, Field(description="When it went to the trash, if it is there.")]
    purge_at: Annotated[datetime | None, Field(description="When it leaves the trash for good.")]

    @classmethod
    def of(cls, row: Row) -> "NoteListed":
        """Of a row of notes.notes, which needs no validation."""
        return _made(cls, {**row, "etag": etag(row)})


class AttachmentOut(BaseModel):
    """A file that belongs to a note. Its bytes are in a bucket."""

    id: UUID
    note_id: UUID
    name: str
    content_type: str
    size_bytes: int
    sha256: Annotated[str, Field(description="Of the bytes, in base64.")]
    created_at: datetime
    confirmed_at: datetime | None


class NoteOut(NoteListed):
    content: str
    attachments: list[AttachmentOut]

    @classmethod
    def of(cls, row: Row) -> "NoteOut":
        """`row` may have `attachments`."""
        attachments = [AttachmentOut.model_construct(None, **each) for each in row.get("attachments", ())]
        return _made(cls, {**row, "attachments": attachments, "etag": etag(row)})


Made = TypeVar("Made", bound=BaseModel)


def _made(model: type[Made], values: dict[str, Any]) -> Made:
    """`model_construct` for all of the fields, which takes five times as long: a page has 50 notes."""
    made = model.__new__(model)
    object.__setattr__(made, "__dict__", values)
    object.__setattr__(made, "__pydantic_fields_set__", set(values))
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made


ETAG_PATTERN = r'^"[1-9][0-9]{0,8}-[0-9a-f]{1,14}"$'


def etag(row: Row) -> str:
    """Strong: no two states of a note have the same, and it depends on no token and no encoding.

    Time is a part of it since a restore brings back former revisions, after which others than the former follow.
    """
    microseconds = int(row["updated_at"].timestamp()) * 1_000_000 + row["updated_at"].microsecond
    return f'"{row["revision"]}-{microseconds:x}"'


class NotePage(BaseModel):
    items: list[NoteListed]
    next_cursor: str | None
    has_more: bool


class PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str | None, Field(max_length=4000, description="`next_cursor` of the page before.")] = None


class InvalidPart(BaseModel):
    """Where the request is wrong: in the body at a JSON pointer, or in a parameter or header."""

    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None
    code: str
    detail: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it. Switch on `type`: its meaning never changes."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[InvalidPart] | None = None
    current_etag: Annotated[str | None, Field(description="With 412: what to read and then change.")] = None
    changed_fields: Annotated[
        list[str] | None,
        Field(description="With 412: what differs now from the version that the client names; null if not known."),
    ] = None
    begin_again: Annotated[str | None, Field(description="With 410: where to read everything, and go on from.")] = None
