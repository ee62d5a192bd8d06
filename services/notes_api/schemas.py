"""What goes over the wire."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from notes_api.models import Note

MAX_CONTENT_BYTES = 1024 * 1024


def _storable(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul_character", "NUL characters cannot be stored")
    return text


def _within_limit(text: str) -> str:
    if len(text.encode()) > MAX_CONTENT_BYTES:
        raise PydanticCustomError("too_many_bytes", "Text should have at most 1 MiB in UTF-8")
    return text


_NO_NUL: JsonDict = {"pattern": r"^[^\u0000]*$"}
Title = Annotated[str, Field(min_length=1, max_length=300, json_schema_extra=_NO_NUL), AfterValidator(_storable)]
Tag = Annotated[str, Field(min_length=1, max_length=100, json_schema_extra=_NO_NUL), AfterValidator(_storable)]
Content = Annotated[
    str,
    Field(max_length=MAX_CONTENT_BYTES, json_schema_extra=_NO_NUL, description="Up to 1 MiB in UTF-8."),
    AfterValidator(_storable),
    AfterValidator(_within_limit),
]


class NoteIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"title": "Shopping", "content": "- bread\n- tea\n", "tags": ["home"]}]},
    )

    title: Title
    content: Content = ""
    tags: Annotated[list[Tag], Field(max_length=50)] = []


class NoteListed(BaseModel):
    """A note in a list: without its content, since a page of whole notes could be 200 MiB."""

    id: UUID
    title: str
    tags: list[str]
    revision: int
    etag: Annotated[str, Field(description="As in the header `ETag`, quotes included.")]
    created_at: datetime
    updated_at: datetime

    model_config = ConfigDict(from_attributes=True)


class NoteOut(NoteListed):
    content: str

    @classmethod
    def of(cls, note: Note) -> Self:
        return cls.model_validate(note)


class NotePage(BaseModel):
    items: list[NoteListed]
    next_cursor: str | None
    has_more: bool


class PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str | None, Field(description="`next_cursor` of the page before.")] = None


class NoQuery(BaseModel):
    """Refuses all query parameters: one that is ignored is a client's bug that nobody sees."""

    model_config = ConfigDict(extra="forbid")


class InvalidPart(BaseModel):
    """Where the request is wrong: in the body at a JSON pointer, or in a parameter or header."""

    pointer: str | None = None
    parameter: str | None = None
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
