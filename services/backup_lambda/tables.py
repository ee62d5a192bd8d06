"""A table of a backup, read in parts: its index, some of its blocks, one of its rows. Each is checked."""

import asyncio
import hashlib
import json
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from isal import isal_zlib
from pydantic import ValidationError

from backup_lambda import backups, blocks, objects
from backup_lambda.blocks import Block
from backup_lambda.errors import (
    BackupExpired,
    BackupNotFound,
    BlockDamaged,
    NotYet,
    ObjectChanged,
    RowTooLarge,
    StoredDiffers,
)
from backup_lambda.keys import KeyOrder, Position
from backup_lambda.manifest import Manifest, TableEntry
from backup_lambda.objects import ID, folder
from backup_lambda.store import S3Store

LARGEST_BLOCK_BYTES = 64 * 1024 * 1024  # of rows; a reader has it in memory several times
RUN_BYTES = 1024 * 1024  # stored, of blocks that are read at once because they lie beside each other
SEARCHED_BYTES = 8 * 1024 * 1024  # stored, of blocks of which any may hold the row
RUNS_AHEAD = 4


async def manifest_of(store: S3Store, backup_id: str) -> Manifest:
    """That of a backup with its data. Raises BackupNotFound, BackupExpired, NotYet, BackupUnreadable and AwsError."""
    names = await objects.names_of(store, backup_id) if ID.fullmatch(backup_id) else frozenset[str]()
    if not names:
        raise BackupNotFound("No backup has this id.")
    if "expired.json" in names:
        raise BackupExpired(backups.EXPIRED)
    if "manifest.json" not in names:
        raise NotYet(f"It is not stored: GET /backups/{backup_id} says how far it is, or why it failed.")
    return await stored_manifest(store, backup_id)


async def stored_manifest(store: S3Store, backup_id: str) -> Manifest:
    """One that is known to exist. Raises BackupUnreadable and AwsError."""
    try:
        return Manifest.model_validate_json((await store.get(f"{folder(backup_id)}manifest.json")).body)
    except ValidationError as error:
        raise objects.unreadable(f"the manifest of {backup_id}", error) from error


class Index:
    """Of the blocks of a table. A line is parsed when it is asked for: whoever wants one row needs few of them."""

    def __init__(self, body: bytes) -> None:
        """Raises StoredDiffers when this is no index."""
        self.stored_bytes = len(body)
        try:
            self._lines = isal_zlib.decompress(body, wbits=blocks.GZIP).splitlines()
        except isal_zlib.error as error:  # type: ignore[misc]  # its stub declares a variable
            raise StoredDiffers(f"its index cannot be decompressed: {error}") from error

    def blocks(self) -> list[Block]:
        """Those that have rows. Raises StoredDiffers."""
        return [block for block in map(_block, self._lines) if block.rows]

    def holding(self, position: Position, order: KeyOrder) -> list[Block]:
        """The blocks of which one has the row with this key, if any has: one at most, where the order is known.

        Raises StoredDiffers.
        """
        if not order.known or len(self._lines) == 1:
            return self.blocks()
        try:
            number = bisect_left(self._lines, position, key=lambda line: order.position(_block(line).last or []))
            found = [_block(line) for line in self._lines[number : number + 1]]
            return [block for block in found if order.position(block.first or []) <= position]
        except ValueError as error:
            raise StoredDiffers("its index has keys of another form than its key") from error


def _block(line: bytes) -> Block:
    try:
        return Block(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise StoredDiffers(f"its index cannot be understood: {error}") from error


@dataclass(frozen=True)
class StoredTable:
    """A table of a backup that has its data. Its methods raise BlockDamaged, BackupExpired and AwsError."""

    store: S3Store
    backup_id: str
    entry: TableEntry
    order: KeyOrder

    @classmethod
    def of(cls, store: S3Store, manifest: Manifest, entry: TableEntry) -> Self:
        order = KeyOrder.of(entry.primary_key, entry.catalogue, str(manifest.database.get("encoding")))
        return cls(store, manifest.id, entry, order)

    async def index(self) -> Index:
        try:
            body = (await self.store.get(folder(self.backup_id) + self.entry.index)).body
        except ObjectChanged as error:
            raise await self._missing("its index is missing") from error
        return self.index_of(body)

    def index_of(self, body: bytes) -> Index:
        """Out of the object, when it is the one that was stored."""
        if hashlib.sha256(body).hexdigest() != self.entry.index_sha256:
            raise self._damaged("its index is not the one that was stored")
        try:
            return Index(body)
        except StoredDiffers as error:
            raise self._damaged(error.detail) from error

    async def find(self, position: Position) -> bytes | None:
        """The row with this key, as it is stored. Raises RowTooLarge besides."""
        found = await self.find_in(self.holding(await self.index(), position), position)
        return found[1] if found else None

    def holding(self, index: Index, position: Position) -> list[Block]:
        """As Index says."""
        try:
            return index.holding(position, self.order)
        except StoredDiffers as error:
            raise self._damaged(error.detail) from error

    async def find_in(self, those: Sequence[Block], position: Position) -> tuple[Block, bytes] | None:
        """The row, and which of these blocks has it, if one has. Raises RowTooLarge besides."""
        searched = 0
        for run in runs(those):
            searched += sum(block.length for block in run)
            if searched > SEARCHED_BYTES and len(those) > 1:
                raise self.too_many()
            for block, rows in zip(run, await self.read(run), strict=True):
                if row := self._row_in(rows, position):
                    return block, row
        return None

    def _row_in(self, rows: bytes, position: Position) -> bytes | None:
        lines = rows_of(rows)
        if not self.order.known:
            return next((line for line in lines if self.order.of_row(line) == position), None)
        number = bisect_left(lines, position, key=self.order.of_row)
        return next((line for line in lines[number : number + 1] if self.order.of_row(line) == position), None)

    async def read(self, run: Sequence[Block]) -> list[bytes]:
        """The rows of blocks that lie beside each other, by one ranged GET. Raises RowTooLarge besides."""
        offset, length = run[0].offset, sum(block.length for block in run)
        if length > LARGEST_BLOCK_BYTES:
            raise self._too_large()
        try:
            found = await self.store.read_range(
                folder(self.backup_id) + self.entry.object, self.entry.etag, offset, length
            )
        except ObjectChanged as error:
            raise await self._missing("its rows are missing, or others than its manifest says") from error
        return await asyncio.to_thread(self._unpacked, run, found)

    async def stream(self, those: Sequence[Sequence[Block]]) -> AsyncGenerator[bytes, None]:
        """The rows of each block of these runs, some of which are read ahead. Raises RowTooLarge besides."""
        wanted, reading = deque(those), deque[asyncio.Task[list[bytes]]]()
        try:
            while wanted or reading:
                while wanted and len(reading) < RUNS_AHEAD:
                    reading.append(asyncio.create_task(self.read(wanted.popleft())))
                for rows in await reading[0]:
                    yield rows
                reading.popleft()
        finally:
            for each in reading:
                each.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    def _unpacked(self, run: Sequence[Block], found: bytes) -> list[bytes]:
        unpacked, start = [], 0
        for block in run:
            member = found[start : start + block.length]
            start += block.length
            if int.from_bytes(member[-4:], "little") > LARGEST_BLOCK_BYTES:  # where gzip has the length of its content
                raise self._too_large()
            try:
                unpacked.append(blocks.unpack(block, member, self.order.columns))
            except StoredDiffers as error:
                raise self._damaged(error.detail) from error
        return unpacked

    def too_many(self) -> RowTooLarge:
        return RowTooLarge(
            f"The rows of {self.entry.name} are in an order that only PostgreSQL knows, that of its key"
            f" ({', '.join(self.order.types)}), and they are too many to be searched: {self._download}"
        )

    async def _missing(self, what: str) -> BlockDamaged | BackupExpired:
        if "expired.json" in await objects.names_of(self.store, self.backup_id):
            return BackupExpired(backups.EXPIRED)  # while we looked
        return self._damaged(what)

    def _damaged(self, what: str) -> BlockDamaged:
        return BlockDamaged(
            f"{self.entry.name} in the backup {self.backup_id} is not what was stored: {what}. Have the backup proven,"
            f" POST /backups/{self.backup_id}/proofs with {{}}, and take these rows from an older"
            f" one: GET /rows/{self._in_path}/{{key}}/history"
        )

    def _too_large(self) -> RowTooLarge:
        return RowTooLarge(f"A row beside it, or it, is too large to be cut out: {self._download}")

    @property
    def _download(self) -> str:
        return f"download the table, GET /backups/{self.backup_id}/tables/{self._in_path}"

    @property
    def _in_path(self) -> str:
        return quote(backups.stem_of(self.entry), safe="")


def runs(those: Iterable[Block]) -> Iterator[list[Block]]:
    """Blocks that lie beside each other, of RUN_BYTES at most, or of one block."""
    run, length = list[Block](), 0
    for block in those:
        if run and (block.offset != run[-1].offset + run[-1].length or length + block.length > RUN_BYTES):
            yield run
            run, length = [], 0
        run.append(block)
        length += block.length
    if run:
        yield run


def rows_of(block: bytes) -> list[bytes]:
    return block[:-1].split(b"\n") if block else []
