"""Whether much of a table was changed or removed since the last proven backup: an accident, or an attack.

New rows are how a table lives, and are never told.
"""

import hashlib
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from backup_lambda import blocks
from backup_lambda.blocks import Block
from backup_lambda.errors import BackupsError, NotComparable, StoredDiffers
from backup_lambda.keys import KeyOrder
from backup_lambda.manifest import Manifest, TableEntry
from backup_lambda.objects import folder
from backup_lambda.store import S3Store
from backup_lambda.suspect import FEW_ROWS, NAMED

MOST_READ = 100  # blocks in which the rows of a sampled one may be
SAMPLED = 16  # blocks of a table that are read, some 2 MB of rows, and those that took their place
log = logging.getLogger(__name__)
_Row: TypeAlias = bytes | tuple[bytes | None, ...]


class _Side(NamedTuple):
    """A table in one of the backups."""

    folder: str
    entry: TableEntry
    blocks: Sequence[Block]


async def why(
    store: S3Store, tables: Sequence[TableEntry], backup_id: str, *, proven: Manifest | None, percent: int
) -> str | None:
    """What is to be told of `tables`, those of a new backup, in words: more than `percent` of one is not as it was.

    What cannot be compared is told in the log: it is no reason to have no backup.
    """
    if proven is None:
        return None
    before = {table.name: table for table in proven.tables}
    told = []
    for table in tables:
        was = before.get(table.name)
        if was is None or was.rows < FEW_ROWS or was.sha256 == table.sha256:
            continue
        try:
            share = await _share(store, (proven, was), (backup_id, table), percent)
        except (BackupsError, ValueError) as error:
            log.warning("%s: how much of %s changed could not be told: %s", backup_id, table.name, error)
            continue
        if share * 100 > percent:
            told.append(f"about {share:.0%} of the {was.rows:,} rows of {table.name} were changed or removed")
    if not told:
        return None
    more = f" (and {len(told) - NAMED} more tables)" if len(told) > NAMED else ""
    return f"since {proven.id}, the last proven backup: {'; '.join(told[:NAMED])}{more}"


async def _share(
    store: S3Store, before: tuple[Manifest, TableEntry], after: tuple[str, TableEntry], percent: int
) -> float:
    """Of the rows that were, how many are not as they were: at most so many, or about.

    Rows in blocks that are there no longer are the most that it can be. Only when that is too much, some of these
    blocks are read, evenly spread, with those that have their keys now.
    """
    manifest, was = before
    old = _Side(folder(manifest.id), was, await _index(store, folder(manifest.id), was))
    new = _Side(folder(after[0]), after[1], await _index(store, folder(after[0]), after[1]))
    kept, known = {block.sha256 for block in new.blocks}, {block.sha256 for block in old.blocks}
    gone = [block for block in old.blocks if block.sha256 not in kept]
    most = sum(block.rows for block in gone) / was.rows
    if most * 100 <= percent:
        return most
    those = [block for block in new.blocks if block.sha256 not in known and block.rows]
    beside = _beside(manifest, old, new, those)
    common = sorted(name for name, _ in _columns(was) & _columns(new.entry))
    columns = None if _columns(was) == _columns(new.entry) else common
    rows = lost = 0
    for block in gone[:: -(-len(gone) // SAMPLED)]:
        now = set[_Row]()
        for other in beside(block):
            now |= await _rows(store, new, other, columns)
        then = await _rows(store, old, block, columns)
        rows, lost = rows + len(then), lost + len(then - now)
    return most * lost / rows if rows else 0.0


def _beside(manifest: Manifest, old: _Side, new: _Side, those: Sequence[Block]) -> Callable[[Block], Sequence[Block]]:
    """Where the rows of an old block are, if they are still there: in the order of the key, or in any of `those`.

    What it gives raises NotComparable when that is too much to read.
    """
    key = old.entry.primary_key
    order = KeyOrder.of(key, old.entry.catalogue, str(manifest.database["encoding"]))
    if not (key and order.known and key == new.entry.primary_key):
        return lambda _: _few(those)
    firsts = [order.position(block.first or []) for block in those]
    lasts = [order.position(block.last or []) for block in those]

    def beside(block: Block) -> Sequence[Block]:
        first, last = order.position(block.first or []), order.position(block.last or [])
        return _few(those[bisect_left(lasts, first) : bisect_right(firsts, last)])

    return beside


def _few(those: Sequence[Block]) -> Sequence[Block]:
    if len(those) > MOST_READ:
        raise NotComparable(f"{len(those):,} blocks would have to be read")
    return those


async def _index(store: S3Store, where: str, entry: TableEntry) -> Sequence[Block]:
    body = (await store.get(where + entry.index)).body
    if hashlib.sha256(body).hexdigest() != entry.index_sha256:
        raise StoredDiffers(f"{entry.index} is not the one that was written")
    return blocks.unpack_index(body)


async def _rows(store: S3Store, side: _Side, block: Block, columns: Sequence[str] | None) -> set[_Row]:
    """The texts of its rows, or, where a migration changed the columns, those of the `columns` on both sides."""
    member = await store.read_range(side.folder + side.entry.object, side.entry.etag, block.offset, block.length)
    lines = blocks.unpack(block, member, None).splitlines()
    if columns is None:
        return set(lines)
    values = (blocks.values_of(line) for line in lines)
    return {tuple(each.get(column) for column in columns) for each in values}


def _columns(entry: TableEntry) -> set[tuple[str, str]]:
    """With the way in which they are written: the text of another one says nothing."""
    return {(column["name"], column["written_as"]) for column in entry.catalogue["columns"]}
