"""What goes over the wire."""

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from notes_api.db import Row
from notes_api.errors import InvalidRequest

MAX_CONTENT_BYTES = 1024 * 1024
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 16


def _storable(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul_character", "NUL characters cannot be stored")
    return text


def _within_limit(text: str) -> str:
    if len(text.encode()) > MAX_CONTENT_BYTES:
        raise PydanticCustomError("too_many_bytes", "Text should have at most 1 MiB in UTF-8")
    return text


def _without_repeats(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(tags))


def _small_object(metadata: dict[str, Any]) -> dict[str, Any]:
    """What jsonb takes, and gives back as it was."""
    _not_deep(metadata)
    try:
        written = json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # infinity; half of a surrogate pair
        raise PydanticCustomError("not_json", "Numbers and texts should be such that JSON has") from None
    if len(written) > MAX_METADATA_BYTES:
        raise PydanticCustomError("too_many_bytes", "An object should have at most 16 KiB as JSON in UTF-8")
    if b"\\u0000" in written:
        raise PydanticCustomError("nul_character", "NUL characters cannot be stored")
    return metadata


def _not_deep(metadata: dict[str, Any]) -> dict[str, Any]:
    if _depth(metadata) > MAX_METADATA_DEPTH:
        raise PydanticCustomError("too_deep", "An object should have at most 16 levels")
    return metadata


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        deepest += 1
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return deepest


_NO_NUL: JsonDict = {"pattern": r"^[^\u0000]*$"}
Title = Annotated[str, Field(min_length=1, max_length=300, json_schema_extra=_NO_NUL), AfterValidator(_storable)]
Tag = Annotated[str, Field(min_length=1, max_length=100, json_schema_extra=_NO_NUL), AfterValidator(_storable)]
Tags = Annotated[
    list[Tag],
    Field(max_length=50, description="In the order given; one that is repeated is kept once."),
    AfterValidator(_without_repeats),
]
Content = Annotated[
    str,
    Field(max_length=MAX_CONTENT_BYTES, json_schema_extra=_NO_NUL, description="Markdown, up to 1 MiB in UTF-8."),
    AfterValidator(_storable),
    AfterValidator(_within_limit),
]
Metadata = Annotated[
    dict[str, JsonValue],
    Field(description="The client's own: an object of up to 16 KiB, which nobody else reads."),
    AfterValidator(_small_object),
]
Patch = Annotated[
    dict[str, JsonValue],
    Field(description="Merged into what is there; null removes a member."),
    AfterValidator(_not_deep),
]


_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _rfc_3339(given: object) -> object:
    if not isinstance(given, str):
        return given
    if not _RFC_3339.fullmatch(given):
        raise PydanticCustomError(
            "rfc_3339",
            "A time should have a date, a time of day and an offset, as in 2026-11-22T09:30:00Z or, with + written as"
            " %2B in a query, 2026-11-22T10:30:00%2B01:00",
        )
    try:
        return datetime.fromisoformat(given.upper())
    except ValueError:
        raise PydanticCustomError("rfc_3339", "There should be such a date and such a time of day") from None


def _utc(given: datetime) -> datetime:
    try:
        return given.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("rfc_3339", "In UTC a time should be in the years 1 to 9999") from None


Time = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_utc)]


def metadata_within_limits(metadata: dict[str, Any]) -> dict[str, Any]:
    """What a patch has made of it. Raises InvalidRequest."""
    try:
        return _small_object(metadata)
    except PydanticCustomError as error:
        raise InvalidRequest(f"The metadata would be wrong: {error.message()}.") from None


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
