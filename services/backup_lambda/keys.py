"""Keys of rows: what a person types for one, when two are the same, and in which order PostgreSQL has them.

A key is the list of its values as the index of a table's blocks has them: numbers as strings, of every digit.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Self, TypeAlias
from uuid import UUID

from backup_lambda import blocks
from backup_lambda.errors import RowNotFound

Position: TypeAlias = tuple[Any, ...]
Reading: TypeAlias = Callable[[str], Any]  # raises ValueError for what is no value of the type

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?Infinity|NaN")
_MOMENT = re.compile(r"([0-9]{4,7})-([0-9]{2}-[0-9]{2}(?:T[0-9:.]+(?:\+00:00)?)?)( BC)?")
_TIME = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?")
_BYTES = re.compile(r"\\x([0-9a-f]{2})*")
_MODIFIER = re.compile(r"\([0-9, -]+\)")


def _number(text: str) -> tuple[bool, Decimal]:
    """NaN equals itself, and comes after all others."""
    if not _NUMBER.fullmatch(text):
        raise ValueError
    try:
        return (True, Decimal(0)) if text == "NaN" else (False, Decimal(text))
    except InvalidOperation:  # an exponent of very many digits
        raise ValueError from None


def _text(text: str) -> bytes:
    return text.encode()


def _padded(text: str) -> bytes:
    return text.rstrip(" ").encode()


def _uuid(text: str) -> str:
    return str(UUID(text))


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _moment(text: str) -> tuple[int, int, str]:
    """Of a date, or of a time of a day. Years before Christ count backwards, the days in them do not."""
    if text.endswith("infinity"):
        return (-1 if text.startswith("-") else 1), 0, ""
    text = text.removesuffix("Z") + ("+00:00" if text.endswith("Z") else "")
    found = _MOMENT.fullmatch(text) or _MOMENT.fullmatch(text.replace(" ", "T", 1))
    if not found:
        raise ValueError
    return 0, -int(found[1]) if found[3] else int(found[1]), found[2]


def _time(text: str) -> str:
    return _matched(_TIME, text)


def _bytes(text: str) -> str:
    return _matched(_BYTES, text.lower())


def _matched(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError
    return text


def _as_written(text: str) -> str:
    """Of a type whose order is known to PostgreSQL alone."""
    return text


_NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
_TEXTS = ("text", "character varying", "name")
_READINGS: Mapping[str, Reading] = {
    **dict.fromkeys(_NUMBERS, _number),
    **dict.fromkeys(_TEXTS, _text),
    "character": _padded,
    "uuid": _uuid,
    "boolean": _boolean,
    **dict.fromkeys(("date", "timestamp without time zone", "timestamp with time zone"), _moment),
    "time without time zone": _time,
    "bytea": _bytes,
}


@dataclass(frozen=True)
class KeyOrder:
    """The primary key of a table, as far as it can be understood without PostgreSQL.

    Two keys are the same when their positions are; where the order is `known`, positions compare as keys do.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    readings: tuple[Reading, ...]

    @classmethod
    def of(cls, primary_key: Sequence[str], catalogue: Mapping[str, Any], encoding: str) -> Self:
        """`encoding` is that of the database: COLLATE "C" compares bytes, and ours are UTF-8."""
        columns = {column["name"]: column for column in catalogue.get("columns", ())}
        found = [columns.get(name, {}) for name in primary_key]
        types = tuple(str(column.get("type", "an unknown one")) for column in found)
        return cls(tuple(primary_key), types, tuple(_reading(column, encoding) for column in found))

    @property
    def known(self) -> bool:
        return _as_written not in self.readings

    def position(self, key: Sequence[Any]) -> Position:
        """Raises ValueError when these are no values of a key."""
        return tuple(read(text_of(value)) for read, value in zip(self.readings, key, strict=True))

    def of_row(self, row: bytes) -> Position:
        return self.position(blocks.key_of(row, self.columns) or [])

    def typed(self, text: str) -> Position:
        """Of the key as a path has it: the value of a single column, or base64url of the JSON array of all values.

        Raises RowNotFound when no row can have it.
        """
        if not self.columns:
            raise RowNotFound("The table has no primary key by which a row could be found.")
        values = _decoded(text)
        if values is None or len(values) != len(self.columns):
            values = [text]
        try:
            return self.position(values)
        except ValueError:
            named = ", ".join(f"{name} ({kind})" for name, kind in zip(self.columns, self.types, strict=True))
            raise RowNotFound(
                f"No row can have this key. It consists of: {named}. Give the value of a single column as JSON has it,"
                " times in UTC; or the base64url of the JSON array of all values."
            ) from None


def text_of(value: Any) -> str:
    """A key's value as a text; what is not a single value, as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _reading(column: Mapping[str, Any], encoding: str) -> Reading:
    if column.get("written_as") == "text":
        read: Reading = _text
    else:
        read = _READINGS.get(_MODIFIER.sub("", str(column.get("type"))), _as_written)
    return _as_written if read in (_text, _padded) and encoding != "UTF8" else read


def _decoded(text: str) -> list[Any] | None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        return None
    try:
        values = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, list) else None
