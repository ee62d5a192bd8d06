"""Blocks: about 1 MiB of whole rows, each a gzip member of its own.

A file of them is an ordinary gzip file, and any block can be read alone. Where a block ends depends on the rows only,
never on how they arrived, so that equal rows give equal files.
"""

import asyncio
import hashlib
import json
import re
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from backup_lambda.errors import StoredDiffers
from backup_lambda.multipart import Upload

BLOCK_BYTES = 1024 * 1024
BLOCKS_IN_FLIGHT = 4
GZIP = 31  # zlib's number for the gzip format; it writes no name and the time 0
LEVEL = 6

Key = list[Any] | None
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
_MARK = re.compile(_STRING.pattern + rb"|[{}\[\],]")
_DEEPER = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}


@dataclass(frozen=True)
class Block:
    """A line of a table's index: where a block is in the data file, and what is in it.

    `first` and `last` are the keys of its first and last row, numbers as strings so that no reader rounds them; None
    in a table without a primary key. `sha256` is of the rows, not of their compressed form.
    """

    first: Key
    last: Key
    offset: int
    length: int
    rows: int
    sha256: str

    def line(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True)
class Packed:
    """A block on its way into the store."""

    rows: bytearray
    member: bytes
    block: Block  # its offset is not known yet


class BlockWriter:
    """Takes rows in pieces of any size, packs a few blocks at a time in threads, and uploads them in order."""

    def __init__(self, upload: Upload, key: Sequence[str], report: Callable[[int, int], None]) -> None:
        """`key` names the columns of the primary key; `report` is called with the rows and bytes of each block."""
        self._upload = upload
        self._key = key
        self._report = report
        self._tail = bytearray()
        self._searched = 0
        self._packing: deque[asyncio.Future[Packed]] = deque()
        self._digest = hashlib.sha256()
        self.index: list[Block] = []
        self.rows = 0
        self.bytes = 0

    async def feed(self, piece: bytes) -> None:
        """The sink of COPY. asyncpg waits for it after every few kilobytes: mostly it only appends."""
        self._tail += piece
        while (end := self._tail.find(b"\n", max(self._searched, BLOCK_BYTES - 1)) + 1) > 0:
            rows, self._tail = self._tail[:end], self._tail[end:]
            self._searched = 0
            await self._pack(rows)
        self._searched = len(self._tail)

    async def close(self) -> None:
        """Upload what is left. An empty table is one block without rows, because an empty file is no gzip file."""
        if self._tail or not (self.index or self._packing):
            await self._pack(self._tail)
        while self._packing:
            await self._store(await self._packing.popleft())

    @property
    def sha256(self) -> str:
        """The table's digest."""
        return self._digest.hexdigest()

    async def _pack(self, rows: bytearray) -> None:
        self._packing.append(asyncio.get_running_loop().run_in_executor(None, pack, rows, self._key))
        if len(self._packing) == BLOCKS_IN_FLIGHT:
            await self._store(await self._packing.popleft())

    async def _store(self, packed: Packed) -> None:
        await asyncio.to_thread(self._digest.update, packed.rows)
        block = Block(**asdict(packed.block) | {"offset": self._upload.bytes})
        await self._upload.write(packed.member)
        self.index.append(block)
        self.rows += block.rows
        self.bytes += len(packed.rows)
        self._report(block.rows, len(packed.rows))


def pack(rows: bytearray, key: Sequence[str]) -> Packed:
    member = zlib.compress(rows, LEVEL, wbits=GZIP)
    count, last_start = rows.count(b"\n"), rows.rfind(b"\n", 0, -1) + 1
    # Only two rows per block are parsed: a key copied beside every row would have to be cut off again from each.
    first, last = (_key(rows[: rows.find(b"\n")], key), _key(rows[last_start:], key)) if count and key else (None, None)
    return Packed(rows, member, Block(first, last, 0, len(member), count, hashlib.sha256(rows).hexdigest()))


def _key(row: bytes | bytearray, key: Sequence[str]) -> Key:
    """Nothing else of the row is parsed: PostgreSQL stores documents that are too deep for Python's parser."""
    values = {name: value for member in _members(bytes(row)) for name, value in [_split(member)] if name in key}
    return [json.loads(values[column], parse_int=str, parse_float=str) for column in key]


def _members(row: bytes) -> Iterator[bytes]:
    """The `"name":value` of an object."""
    depth, start = 0, 1
    for mark in _MARK.finditer(row):
        depth += _DEEPER.get(mark[0], 0)
        if depth == 0 or (depth == 1 and mark[0] == b","):
            yield row[start : mark.start()]
            start = mark.end()


def _split(member: bytes) -> tuple[str, bytes]:
    name = _STRING.match(member)
    assert name is not None  # an object's member begins with its name
    return json.loads(name[0]), member[name.end() + 1 :]


def pack_index(index: Sequence[Block]) -> bytes:
    return zlib.compress(b"".join(block.line() for block in index), LEVEL, wbits=GZIP)


def unpack_index(body: bytes) -> list[Block]:
    """Raises StoredDiffers when this is no index."""
    try:
        return [Block(**json.loads(line)) for line in zlib.decompress(body, wbits=GZIP).splitlines()]
    except (zlib.error, ValueError, TypeError) as error:
        raise StoredDiffers(f"the index that was read back cannot be understood: {error}") from error


async def check(index: Sequence[Block], stored: AsyncIterator[bytes], report: Callable[[int], None]) -> int:
    """The rows in a stored file, when it consists of exactly the blocks of its index. Raises StoredDiffers.

    `report` is called with the rows of each block.
    """
    checking: deque[asyncio.Future[int]] = deque()
    rows, offset, tail, wanted = 0, 0, bytearray(), deque(index)

    async def one_is_checked() -> int:
        report(count := await checking.popleft())
        return count

    async for piece in stored:
        tail += piece
        while wanted and len(tail) >= wanted[0].length:
            block = wanted.popleft()
            if block.offset != offset:
                raise StoredDiffers(f"the block at {offset} is at {block.offset} in the index")
            offset += block.length
            member, tail = tail[: block.length], tail[block.length :]
            checking.append(asyncio.get_running_loop().run_in_executor(None, _check, block, member))
            if len(checking) == BLOCKS_IN_FLIGHT:
                rows += await one_is_checked()
    while checking:
        rows += await one_is_checked()
    if wanted or tail:
        raise StoredDiffers(f"{len(wanted)} blocks are missing at the end, {len(tail)} bytes are too many")
    return rows


def _check(block: Block, member: bytearray) -> int:
    try:
        rows = zlib.decompress(member, wbits=GZIP)
    except zlib.error as error:
        raise StoredDiffers(f"the block at {block.offset} cannot be decompressed: {error}") from error
    if hashlib.sha256(rows).hexdigest() != block.sha256:
        raise StoredDiffers(f"the block at {block.offset} has other bytes than were written")
    if (count := rows.count(b"\n")) != block.rows:
        raise StoredDiffers(f"the block at {block.offset} has {count} rows, and {block.rows} in the index")
    return count
