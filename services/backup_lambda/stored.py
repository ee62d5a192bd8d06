"""The rows of a table as the bucket has them now, to be restored: each block that is what was stored, or else a reason.

The object may be another one than was written: what a block must be, its index says, and that is as it was signed.
"""

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from backup_lambda import blocks, restore
from backup_lambda.blocks import Block
from backup_lambda.errors import BlockDamaged, RowTooLarge, StoredDiffers
from backup_lambda.keys import KeyOrder, Position, text_of
from backup_lambda.manifest import Manifest, TableEntry
from backup_lambda.objects import folder
from backup_lambda.store import S3Store
from backup_lambda.tables import Index, StoredTable, rows_of, runs

Given = AsyncGenerator[tuple[Block, bytes]]


@dataclass
class StoredRows:
    """`etags` are those of the backup's objects. What is `damaged` is told in words, with the keys of the rows."""

    store: S3Store
    manifest: Manifest
    entry: TableEntry
    etags: Mapping[str, str]
    skip_damaged: bool = False
    rows: int = 0  # that were given
    damaged: list[str] = field(default_factory=list)
    missing: list[list[str]] = field(default_factory=list)  # keys
    index: list[Block] = field(default_factory=list)

    async def all(self) -> Given:
        """Every block. Raises StoredDiffers unless what is damaged is skipped."""
        try:
            self.index = blocks.unpack_index(await self._index())
            stored = restore.stored_blocks(
                self.store, self._folder, self._as_it_is(), self.index, self._left_out if self.skip_damaged else None
            )
            async with aclosing(stored):
                async for block, rows in stored:
                    self.rows += block.rows
                    yield block, rows
        except StoredDiffers as error:
            self._lost(error)

    async def with_keys(self, keys: Sequence[Sequence[str | int | bool]]) -> Given:
        """The rows that have these keys. Raises StoredDiffers and BlockDamaged unless what is damaged is skipped."""
        wanted, order = self._positions(keys)
        try:
            index = Index(await self._index())
            holding: dict[int, tuple[Block, list[Position]]] = {}
            for position in wanted:
                for block in index.holding(position, order):
                    holding.setdefault(block.offset, (block, []))[1].append(position)
            table = StoredTable(self.store, self.manifest.id, self._as_it_is(), order)
            for run in runs(block for _, (block, _) in sorted(holding.items())):
                for block, rows in await self._read(table, run):
                    there = {order.of_row(row): row for row in rows_of(rows)}
                    found = {at: there[at] for at in holding[block.offset][1] if at in there}
                    if found:
                        self.rows += len(found)
                        yield replace(block, rows=len(found)), b"".join(row + b"\n" for row in found.values())
                    for position in found:
                        wanted.pop(position, None)
        except StoredDiffers as error:
            self._lost(error)
        if self.damaged and wanted:
            self.damaged.append(f"so these keys may be there, or not: {[*wanted.values()]}")
        elif wanted:
            self.missing += wanted.values()

    def _positions(self, keys: Sequence[Sequence[str | int | bool]]) -> tuple[dict[Position, list[str]], KeyOrder]:
        order = KeyOrder.of(self.entry.primary_key, self.entry.catalogue, str(self.manifest.database.get("encoding")))
        found: dict[Position, list[str]] = {}
        for key in keys:
            texts = [text_of(value) for value in key]
            try:
                found.setdefault(order.position(key), texts)
            except ValueError:  # no row can have it
                self.missing.append(texts)
        return found, order

    async def _read(self, table: StoredTable, run: Sequence[Block]) -> list[tuple[Block, bytes]]:
        try:
            return [*zip(run, await table.read(run), strict=True)]
        except (BlockDamaged, RowTooLarge) as error:  # what is damaged may say that it is large
            if not self.skip_damaged:
                raise
            if len(run) == 1:
                self._left_out(run[0], error)
                return []
        return [read for block in run for read in await self._read(table, [block])]

    async def _index(self) -> bytes:
        name = self._folder + self.entry.index
        if name not in self.etags:
            raise StoredDiffers("its index is missing")
        body = (await self.store.get(name)).body
        if hashlib.sha256(body).hexdigest() != self.entry.index_sha256:
            raise StoredDiffers("its index is not the one that was stored")
        return body

    def _as_it_is(self) -> TableEntry:
        etag = self.etags.get(self._folder + self.entry.object)
        if etag is None:
            raise StoredDiffers("the object that held its rows is missing")
        return self.entry.model_copy(update={"etag": etag})

    def _lost(self, error: StoredDiffers) -> None:
        if not self.skip_damaged:
            raise error
        self.damaged.append(str(error))

    def _left_out(self, block: Block, error: Exception) -> None:
        rows = (
            f"{block.rows} rows with keys from {block.first} to {block.last}" if block.first else f"{block.rows} rows"
        )
        why = str(error) if isinstance(error, StoredDiffers) else f"the block at {block.offset} is not what was stored"
        self.damaged.append(f"{rows}: {why}")

    @property
    def _folder(self) -> str:
        return folder(self.manifest.id)
