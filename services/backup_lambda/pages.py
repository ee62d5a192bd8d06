"""The pages of a diff: where each begins, what it tells, and how far it goes."""

import asyncio
import base64
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from backup_lambda.errors import InvalidRequest
from backup_lambda.manifest import TableEntry
from backup_lambda.merge import Room
from backup_lambda.schemas import Diff, TableDiff

MOST_CHANGES = 1000
MOST_READ_BYTES = 16 * 1024 * 1024  # of the bucket: compressed, some 50 MiB of rows
PAGE_SECONDS = 12  # to find what differs; the gateway waits for 29

TOO_LARGE = "too large to be read while you wait: make a backup, and compare with that one"


class Cursor(BaseModel):
    """Where a page begins: at a table, by the name of its objects, and there at a key, or behind so many changes.

    What a page counted of a table that is still there, the pages behind it need not count.
    """

    model_config = ConfigDict(extra="forbid")

    table: str
    key: list[Any] | None = None
    skip: int = Field(default=0, ge=0)
    rows: int | None = Field(default=None, ge=0)
    as_text: list[str] = []  # the columns that are written so

    def text(self) -> str:
        return base64.urlsafe_b64encode(self.model_dump_json(exclude_defaults=True).encode()).decode().rstrip("=")

    @classmethod
    def of(cls, text: str) -> Self:
        """Raises InvalidRequest."""
        with suppress(ValueError, RecursionError):  # as a ValidationError is
            return cls.model_validate_json(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        raise bad_cursor()


@dataclass
class Page:
    """What a page tells by now, and how far it may still go."""

    diff: Diff
    copies_until: float = math.inf  # seconds that the database may be read for, at first; then by the loop's clock
    begun: bool = False  # a table is told, so that the next page begins elsewhere

    def __post_init__(self) -> None:
        at = asyncio.get_running_loop().time()
        self.room = Room(at + PAGE_SECONDS, MOST_CHANGES)
        self.copies_until += at

    @property
    def bytes_left(self) -> int:
        return MOST_READ_BYTES - self.diff.bytes_read

    @property
    def full(self) -> bool:
        late = asyncio.get_running_loop().time() > self.copies_until
        return late or self.room.over or self.bytes_left <= 0

    def walk(self, stems: Sequence[str], cursor: str | None) -> Iterator[tuple[str, Cursor]]:
        """The tables, by the names of their objects, and where each begins; until the page is full or goes on."""
        first = Cursor.of(cursor) if cursor is not None else Cursor(table=stems[0] if stems else "")
        if cursor is not None and first.table not in stems:
            raise bad_cursor()
        for stem in stems[bisect_left(stems, first.table) :]:
            start = first if stem == first.table else Cursor(table=stem)
            if self.begun and self.full:
                self.go_on(start)
                return
            yield stem, start
            self.begun = True
            if self.diff.next:
                return

    def go_on(self, start: Cursor) -> None:
        self.diff.next = f"backups/{self.diff.before}/diff/{self.diff.after}/after/{start.text()}"

    def alone(self, table: "TableEntry | Alone", reason: str | None, *, removed: bool) -> None:
        """A table that only one side has: all its rows are removed, or added, unless the other one left it out."""
        here = self.diff.before if removed else self.diff.after
        rows = 0 if reason else table.rows
        told = TableDiff(
            name=table.name,
            rows_before=table.rows if removed else None,
            rows_after=None if removed else table.rows,
            blocks_differ=0,
            blocks=0,
            comparable=reason or f"only {here} has it",
            removed=rows if removed else 0,
            added=0 if removed else rows,
        )
        self.diff.tables.append(told)

    def too_large(self, name: str, before: int | None, after: int | None) -> None:
        """Of a table that could not be read; `after` is None, too, where it could not be counted."""
        self.diff.tables.append(
            TableDiff(name=name, rows_before=before, rows_after=after, blocks_differ=0, blocks=0, comparable=TOO_LARGE)
        )

    def summed(self) -> Diff:
        for name in ("added", "removed", "changed"):
            setattr(self.diff, name, sum(getattr(table, name) for table in self.diff.tables))
        return self.diff


class Alone(NamedTuple):
    """A table that no backup has."""

    name: str
    rows: int


def bad_cursor() -> InvalidRequest:
    return InvalidRequest("This is no cursor of such a diff: follow `next` of the page before.")
