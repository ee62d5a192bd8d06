"""Two tables in the order of one key, walked through side by side: which rows are added, removed and changed."""

import asyncio
import json
from bisect import bisect_left
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from backup_lambda import blocks
from backup_lambda.blocks import Key
from backup_lambda.keys import KeyOrder, Position, text_of
from backup_lambda.schemas import Change, FieldChange, TableDiff
from backup_lambda.tables import rows_of

# A function's answer has 6 MB at most, and holds ours as a text: with escapes, and as ASCII.
MOST_ANSWER_BYTES = 4_000_000
VALUE_CHARACTERS = 200


class Walk:
    """The rows of one side, from a key on; they come as blocks of whole rows."""

    def __init__(self, stream: AsyncIterator[bytes], order: KeyOrder, start: Position | None) -> None:
        self._stream, self._order, self._start = stream, order, start
        self._rows: list[bytes] = []
        self._next = 0

    async def head(self) -> bytes | None:
        """The row that comes next, or None behind the last one."""
        while self._next >= len(self._rows):
            try:
                self._rows, self._next = rows_of(await anext(self._stream)), 0
            except StopAsyncIteration:
                return None
            if self._start is not None:
                self._next = bisect_left(self._rows, self._start, key=self._order.of_row)
        return self._rows[self._next]

    def step(self) -> None:
        self._next += 1


@dataclass
class Room:
    """What is left of a page: how long, how many changes, and how large the answer may be."""

    ends_at: float  # by the loop's clock
    changes: int
    answer_bytes: int = MOST_ANSWER_BYTES

    @property
    def over(self) -> bool:
        late = asyncio.get_running_loop().time() > self.ends_at
        return late or self.changes <= 0 or self.answer_bytes <= 0


@dataclass
class Told:
    """Tells the changes of a table. Rows are compared by their text.

    Where the columns are others on the two sides, `common` are those that both have, and a row is the same when its
    values of these are: a migration did not touch every single row.
    """

    table: TableDiff
    room: Room
    order: KeyOrder
    common: Collection[str] | None = None

    def tell(self, old: bytes | None, new: bytes | None) -> None:
        """Of a row that differs."""
        fields = {}
        if old is None or new is None:
            action: Literal["added", "removed", "changed"] = "removed" if new is None else "added"
        else:
            action, fields = "changed", _fields(old, new)
        key = [text_of(value) for value in self.key_of(new or old or b"") or []]
        change = Change(action=action, key=key, fields=fields)
        self.table.changes.append(change)
        setattr(self.table, action, getattr(self.table, action) + 1)
        self.room.changes -= 1
        self.room.answer_bytes -= len(json.dumps(change.model_dump_json()))

    def differ(self, old: bytes | None, new: bytes | None) -> bool:
        if self.common is None or old is None or new is None:
            return old != new
        before, after = blocks.values_of(old), blocks.values_of(new)
        return any(before.get(name) != after.get(name) for name in self.common)

    def key_of(self, row: bytes) -> Key:
        return blocks.key_of(row, self.order.columns)


def _fields(old: bytes, new: bytes) -> dict[str, FieldChange]:
    before, after = blocks.values_of(old), blocks.values_of(new)
    return {
        name: FieldChange(before=_shown(before.get(name)), after=_shown(after.get(name)))
        for name in (before | after)
        if before.get(name) != after.get(name)
    }


def _shown(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = value.decode()
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"


async def ordered(before: Walk, after: Walk, told: Told, limit: Position | None) -> Key:
    """Tell what differs of the rows that come before `limit`; the key to go on with, if there was no room for all.

    Rows whose text is the same are passed without a look at their keys: mostly they are.
    """
    while True:
        old, new = await before.head(), await after.head()
        if old is None and new is None:
            return None
        if old != new:
            old_at = None if old is None else told.order.of_row(old)
            new_at = None if new is None else told.order.of_row(new)
            if new_at is None or (old_at is not None and old_at < new_at):
                new = None
            elif old_at is None or new_at < old_at:
                old = None
            at = new_at if old is None else old_at
            if limit is not None and at is not None and at >= limit:
                return None
            if told.room.over:
                return told.key_of(new or old or b"")
            if told.differ(old, new):
                told.tell(old, new)
        if old is not None:
            before.step()
        if new is not None:
            after.step()


def unordered(before: Iterable[bytes], after: Iterable[bytes], told: Told, skip: int) -> int | None:
    """Where the order of the keys is not known: tell what differs but for the first `skip`; how many to skip next."""
    old_rows = {told.order.of_row(row): row for row in before}
    new_rows = {told.order.of_row(row): row for row in after}
    passed = 0
    for at in old_rows | new_rows:
        old, new = old_rows.get(at), new_rows.get(at)
        if not told.differ(old, new):
            continue
        passed += 1
        if passed > skip:
            told.tell(old, new)
            if told.room.over:
                return passed
    return None
