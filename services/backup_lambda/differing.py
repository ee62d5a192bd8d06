"""How a table differs between two backups, or a backup and the database now.

A block whose digest both sides have holds rows that are the same on both, wherever it lies; and as no key is there
twice, no other block has a row with one of its keys. So the other blocks are all that must be read. In the order of the
key they are walked through side by side, a page at a time; where that order is not known, they are compared at once,
if they are few.
"""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple

from backup_lambda import merge, tables
from backup_lambda.blocks import Block, Key
from backup_lambda.catalogue import Table
from backup_lambda.errors import BlockDamaged, RowTooLarge
from backup_lambda.keys import KeyOrder, Position
from backup_lambda.manifest import TableEntry
from backup_lambda.merge import Told, Walk
from backup_lambda.pages import Cursor, Page, bad_cursor
from backup_lambda.present import Present, Rest
from backup_lambda.schemas import TableDiff
from backup_lambda.snapshot import Snapshot
from backup_lambda.tables import StoredTable, rows_of

MOST_KEPT_BYTES = 32 * 1024 * 1024  # of rows, for what is compared in memory


class Now(NamedTuple):
    """A table of the database."""

    source: Snapshot
    table: Table
    rows: int


async def two_stored(page: Page, old: StoredTable, new: StoredTable, start: Cursor) -> None:
    if old.entry.sha256 == new.entry.sha256 and _columns(old.entry.catalogue) == _columns(new.entry.catalogue):
        return
    table = _table(old.entry, new.entry.rows, new.entry.catalogue)
    page.diff.tables.append(table)
    told = Told(table, page.room, old.order, _common(old.entry.catalogue, new.entry.catalogue))
    try:
        indexes = await asyncio.gather(old.index(), new.index())
        page.diff.bytes_read += sum(index.stored_bytes for index in indexes)
        olds, news = (index.blocks() for index in indexes)
        old_left, new_left = _without(olds, news), _without(news, olds)
        table.blocks, table.blocks_differ = max(len(olds), len(news)), max(len(old_left), len(new_left))
        if reason := _no_key(old.order, new.order):
            table.comparable = reason
        elif _in_order(old.order, olds) and _in_order(new.order, news):
            await _walk(page, told, start, [(old, old_left), (new, new_left)])
        elif _unpacked_bytes(old, old_left) + _unpacked_bytes(new, new_left) > MOST_KEPT_BYTES:
            table.comparable = _too_many(old.order)
        else:
            sides = [await _all(page, side, left) for side, left in ((old, old_left), (new, new_left))]
            _compare_at_once(page, told, start, *sides)
    except (BlockDamaged, RowTooLarge) as error:
        table.comparable = error.detail


async def stored_and_present(page: Page, old: StoredTable, now: Now, start: Cursor) -> None:
    """Raises Enough when not even two blocks could be read."""
    table = _table(old.entry, now.rows, now.table.catalogue)
    told = Told(table, page.room, old.order, _common(old.entry.catalogue, now.table.catalogue))
    order = KeyOrder.of(now.table.primary_key, now.table.catalogue, str(now.source.database["encoding"]))
    try:
        index = await old.index()
        page.diff.bytes_read += index.stored_bytes
        olds = index.blocks()
        reason, ordered = _no_key(old.order, order), _in_order(old.order, olds)
        rest = now.table
        if start.key is not None and ordered and not reason:
            _position(old.order, start.key)
            rest = Rest.of(now.table, start.key)
        found = Present(rest, {block.sha256: block for block in olds}, MOST_KEPT_BYTES)
        await found.read(now.source, page.copies_until)
        if found.limit is not None:
            page.copies_until = -math.inf  # the connection was left in the middle
        old_left = [block for block in olds if block.sha256 not in found.same]
        table.blocks, table.blocks_differ = len(olds), max(len(old_left), len(found.kept))
        if reason:
            table.comparable = reason
        elif ordered:
            await _walk(page, told, start, [(old, old_left)], kept=found.kept, limit=found.limit)
        elif found.limit is not None or _unpacked_bytes(old, old_left) > MOST_KEPT_BYTES:
            table.comparable = _too_many(order)
        else:
            _compare_at_once(page, told, start, await _all(page, old, old_left), _rows(found.kept))
    except (BlockDamaged, RowTooLarge) as error:
        table.comparable = error.detail
    if table.blocks_differ or table.columns_added or table.columns_removed or table.comparable:
        page.diff.tables.append(table)


async def _walk(
    page: Page,
    told: Told,
    start: Cursor,
    sides: Sequence[tuple[StoredTable, Sequence[Block]]],
    *,
    kept: Sequence[bytes] | None = None,
    limit: Key = None,
) -> None:
    """Through one stored side and what was `kept` of the database up to the key `limit`; or through two stored ones."""
    order = told.order
    at = None if start.key is None else _position(order, start.key)
    left = [[block for block in side if at is None or _last(order, block) >= at] for _, side in sides]
    if limit is not None:
        left = [[block for block in side if _first(order, block) < order.position(limit)] for side in left]
    taken, end = _taken(page, order, at, left)
    end = limit if end is None else end
    async with AsyncExitStack() as leaving:
        streams: list[AsyncIterator[bytes]] = [
            await leaving.enter_async_context(aclosing(side.stream(runs)))
            for (side, _), runs in zip(sides, taken, strict=True)
        ]
        if kept is not None:
            streams.append(_stream(kept))
        before, after = (Walk(stream, order, at) for stream in streams)
        goes_on = await merge.ordered(before, after, told, None if end is None else order.position(end))
    key = end if goes_on is None else goes_on
    if key is not None:
        page.go_on(start.model_copy(update={"key": key}))


def _taken(
    page: Page, order: KeyOrder, at: Position | None, sides: Sequence[Sequence[Block]]
) -> tuple[list[list[list[Block]]], Key]:
    """What this page reads of each side, and the first key of what it leaves to the next one, if it leaves anything.

    In the order of their first keys, so that all rows before that key are read on both sides; and always so much that
    this key comes after the one where the page begins.
    """
    waiting = sorted(
        ((_first(order, run[0]), number, run) for number, side in enumerate(sides) for run in tables.runs(side)),
        key=itemgetter(0, 1),
    )
    taken = [list[list[Block]]() for _ in sides]
    for first, number, run in waiting:
        if page.bytes_left <= 0 and first > waiting[0][0] and (at is None or first > at):
            return taken, run[0].first
        taken[number].append(run)
        page.diff.bytes_read += sum(block.length for block in run)
    return taken, None


async def _all(page: Page, side: StoredTable, left: Sequence[Block]) -> list[bytes]:
    runs = [*tables.runs(left)]
    page.diff.bytes_read += sum(block.length for block in left)
    async with aclosing(side.stream(runs)) as stream:
        return _rows([rows async for rows in stream])


def _compare_at_once(page: Page, told: Told, start: Cursor, before: list[bytes], after: list[bytes]) -> None:
    skip = merge.unordered(before, after, told, start.skip)
    if skip is not None:
        page.go_on(start.model_copy(update={"skip": skip}))


def _rows(those: Sequence[bytes]) -> list[bytes]:
    return [row for rows in those for row in rows_of(rows)]


async def _stream(those: Sequence[bytes]) -> AsyncIterator[bytes]:
    for rows in those:
        yield rows


def _table(old: TableEntry, rows: int, catalogue: Mapping[str, Any]) -> TableDiff:
    before, after = _columns(old.catalogue), _columns(catalogue)
    return TableDiff(
        name=old.name,
        rows_before=old.rows,
        rows_after=rows,
        blocks_differ=0,
        blocks=0,
        columns_added=[_named(each, before) for each in after if each not in before],
        columns_removed=[_named(each, after) for each in before if each not in after],
    )


def _columns(catalogue: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each with the way that its values are written in: in another way, equal values have other texts."""
    return [(column["name"], column["written_as"]) for column in catalogue.get("columns", ())]


def _named(column: tuple[str, str], others: Sequence[tuple[str, str]]) -> str:
    name, way = column
    return f"{name} (written as {way})" if name in dict(others) else name


def _common(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str] | None:
    one, other = _columns(before), _columns(after)
    return None if one == other else {name for name, _ in {*one} & {*other}}


def written_as(table: Table, was: TableEntry | None) -> Table:
    """With the columns as text that the backup has as text, though none of their values needs it now."""
    ways = dict(_columns(was.catalogue)) if was else {}
    return table.with_text({name: ways.get(name) == "text" for name in table.lossy})


def _without(those: Sequence[Block], others: Sequence[Block]) -> list[Block]:
    """In a table without a key a block may be there more than once."""
    same, left = Counter(block.sha256 for block in others), list[Block]()
    for block in those:
        if same[block.sha256]:
            same[block.sha256] -= 1
        else:
            left.append(block)
    return left


def _no_key(old: KeyOrder, new: KeyOrder) -> str | None:
    """Why rows of one side cannot be found on the other."""
    if old.columns != new.columns:
        one, other = (f"({', '.join(key.columns)})" if key.columns else "none" for key in (old, new))
        return f"it has another primary key: {one} before, {other} after"
    if not old.columns:
        return "it has no primary key"
    if old.readings != new.readings or (old.types != new.types and not old.known):
        return f"its primary key has other types: {', '.join(old.types)} before, {', '.join(new.types)} after"
    return None


def _too_many(order: KeyOrder) -> str:
    return f"too much differs for a table whose order only PostgreSQL knows, that of its key ({', '.join(order.types)})"


def _in_order(order: KeyOrder, those: Sequence[Block]) -> bool:
    """Whether the order is known, and the blocks are in it."""
    if not order.known:
        return False
    try:
        ends = [end for block in those for end in (_first(order, block), _last(order, block))]
    except ValueError:
        return False
    return all(one <= other for one, other in pairwise(ends))


def _first(order: KeyOrder, block: Block) -> Position:
    return order.position(block.first or [])


def _last(order: KeyOrder, block: Block) -> Position:
    return order.position(block.last or [])


def _position(order: KeyOrder, key: Sequence[Any]) -> Position:
    try:
        return order.position(key)
    except ValueError:
        raise bad_cursor() from None


def _unpacked_bytes(side: StoredTable, left: Sequence[Block]) -> float:
    return sum(block.rows for block in left) * side.entry.bytes / max(side.entry.rows, 1)
