"""What a field of a note may be: text, tags, metadata and times."""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, JsonValue
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

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
    """As jsonb gives it back, with numbers at their full length: a short 1e308 would make answers of megabytes."""
    _not_deep(metadata)
    try:
        written = json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # infinity; half of a surrogate pair
        raise PydanticCustomError("not_json", "Numbers and texts should be such that JSON has") from None
    if b"\\u0000" in written:
        raise PydanticCustomError("nul_character", "NUL characters cannot be stored")
    _not_large(len(written))
    longer = 0

    def number(text: str) -> float | int:
        nonlocal longer
        plain = format(Decimal(text), "f")
        longer += len(plain) - len(text)
        return float(plain) + 0.0 if "." in plain else int(plain)  # jsonb has no -0.0, and that plus 0.0 is 0.0

    stored: dict[str, Any] = json.loads(written, parse_float=number)
    _not_large(len(written) + longer)
    return stored


def _not_large(size_bytes: int) -> None:
    if size_bytes > MAX_METADATA_BYTES:
        raise PydanticCustomError(
            "too_many_bytes", "An object should have at most 16 KiB as JSON in UTF-8, with its numbers written out"
        )


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
    Field(description="The client's own: an object of up to 16 KiB, its numbers written out, which nobody else reads."),
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
