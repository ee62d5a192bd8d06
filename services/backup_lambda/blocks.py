"""Blocks: about 1 MiB of whole rows, each a gzip member of its own.

A file of them is an ordinary gzip file, and any block can be read alone. Where a block ends depends on the rows only,
never on how they arrived, so that equal rows give equal blocks. Compressed, these may differ: isal promises only that
they can be decompressed.
"""

import asyncio
import hashlib
import json
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from isal import isal_zlib

from backup_lambda.errors import StoredDiffers
from backup_lambda.multipart import Upload

BLOCK_BYTES = 1024 * 1024
BLOCKS_IN_FLIGHT = 4
THREADS = 2  # each keeps memory of its own, and two are faster than one connection of PostgreSQL's
GZIP = 31  # zlib's number for the gzip format; it writes no name and the time 0
LEVEL = 2  # of isal's 0 to 3: ten times as fast as zlib's 6, for a tenth more bytes
UNPACKED_BYTES = 2 * BLOCK_BYTES  # room for any block of ordinary rows, so that it is not copied while it grows

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

    rows: bytes
    member: bytes
    block: Block  # its offset is not known yet


class Splitter:
    """Cuts rows, each with the newline that ends it, into blocks of whole rows."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._bytes = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The blocks that are whole with this piece, which may begin and end anywhere, also within a row."""
        blocks, start = [], 0
        # The first row that ends at or after a block's last byte ends the block. Nothing is searched or copied twice,
        # however long a row is.
        while (end := piece.find(b"\n", start + max(0, BLOCK_BYTES - 1 - self._bytes)) + 1) > 0:
            blocks.append(b"".join([*self._pieces, piece[start:end]]))
            self._pieces, self._bytes, start = [], 0, end
        if start < len(piece):
            self._pieces.append(piece[start:])
            self._bytes += len(piece) - start
        return blocks

    def rest(self) -> bytes:
        """What is left when all pieces were fed: the last block, or nothing."""
        return b"".join(self._pieces)


class BlockWriter:
    """Takes rows in pieces of any size, packs a few blocks at a time in threads, and uploads them in order.

    The threads end with the `with` that it is used in.
    """

    def __init__(self, upload: Upload, key: Sequence[str], report: Callable[[int, int], None]) -> None:
        """`key` names the columns of the primary key; `report` is called with the rows and bytes of each block."""
        self._upload = upload
        self._key = key
        self._report = report
        self._splitter = Splitter()
        self._threads = ThreadPoolExecutor(THREADS)
        self._packing: deque[asyncio.Future[Packed]] = deque()
        self._digest = hashlib.sha256()
        self._digesting: asyncio.Future[None] | None = None
        self.index: list[Block] = []
        self.rows = 0
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def feed(self, piece: bytes) -> None:
        """The sink of COPY. asyncpg waits for it after every few kilobytes: mostly it only appends."""
        for rows in self._splitter.feed(piece):
            await self._pack(rows)

    async def close(self) -> None:
        """Upload what is left. An empty table is one block without rows, because an empty file is no gzip file."""
        if (rest := self._splitter.rest()) or not (self.index or self._packing):
            await self._pack(rest)
        while self._packing:
            await self._store(await self._packing.popleft())
        if self._digesting:
            await self._digesting

    @property
    def sha256(self) -> str:
        """The table's digest."""
        return self._digest.hexdigest()

    async def _pack(self, rows: bytes) -> None:
        self._packing.append(asyncio.get_running_loop().run_in_executor(self._threads, pack, rows, self._key))
        while self._packing and (self._packing[0].done() or len(self._packing) == BLOCKS_IN_FLIGHT):
            await self._store(await self._packing.popleft())

    async def _store(self, packed: Packed) -> None:
        if self._digesting:  # one after the other: the table's digest depends on the order
            await self._digesting
        self._digesting = asyncio.get_running_loop().run_in_executor(self._threads, self._digest.update, packed.rows)
        block = replace(packed.block, offset=self._upload.bytes)
        await self._upload.write(packed.member)
        self.index.append(block)
        self.rows += block.rows
        self.bytes += len(packed.rows)
        self._report(block.rows, len(packed.rows))


def pack(rows: bytes, key: Sequence[str]) -> Packed:
    member = isal_zlib.compress(rows, LEVEL, wbits=GZIP)
    count = rows.count(b"\n")
    first, last = ends(rows, key)
    return Packed(rows, member, Block(first, last, 0, len(member), count, hashlib.sha256(rows).hexdigest()))


def ends(rows: bytes, key: Sequence[str]) -> tuple[Key, Key]:
    """The keys of the first and the last of a block's rows.

    Only two rows are parsed: a key copied beside every row would have to be cut off again from each.
    """
    if not (rows and key):
        return None, None
    last = rows.rfind(b"\n", 0, -1) + 1
    first_key = _key(rows[: rows.find(b"\n")], key)
    return first_key, _key(rows[last:], key) if last else first_key


def _key(row: bytes, key: Sequence[str]) -> Key:
    """Nothing else of the row is parsed: PostgreSQL stores documents that are too deep for Python's parser.

    Nor is what comes after the key even looked at: it may be large.
    """
    values: dict[str, bytes] = {}
    for member in _members(row):
        name, value = _split(member)
        if name in key:
            values[name] = value
        if len(values) == len(key):
            break
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
    return isal_zlib.compress(b"".join(block.line() for block in index), LEVEL, wbits=GZIP)


def unpack_index(body: bytes) -> list[Block]:
    """Raises StoredDiffers when this is no index."""
    try:
        return [Block(**json.loads(line)) for line in isal_zlib.decompress(body, wbits=GZIP).splitlines()]
    except (isal_zlib.error, ValueError, TypeError) as error:  # type: ignore[misc]  # its stub declares a variable
        raise StoredDiffers(f"the index that was read back cannot be understood: {error}") from error


async def check(index: Sequence[Block], stored: AsyncIterator[bytes], report: Callable[[int], None]) -> int:
    """The rows in a stored file, when it consists of exactly the blocks of its index. Raises StoredDiffers.

    `report` is called with the rows of each block.
    """
    rows = 0
    async for block, _ in read(index, stored):
        report(block.rows)
        rows += block.rows
    return rows


async def read(
    index: Sequence[Block], stored: AsyncIterator[bytes], key: Sequence[str] | None = None
) -> AsyncGenerator[tuple[Block, bytes], None]:
    """Each block of a stored file with its rows, when it consists of exactly the blocks of its index.

    With the columns of the table's primary key, the keys in the index are compared with those in the rows, too.
    Raises StoredDiffers.
    """
    unpacking: deque[tuple[Block, asyncio.Future[bytes]]] = deque()
    threads = ThreadPoolExecutor(THREADS)
    try:
        async for block, member in _cut(index, stored):
            unpacking.append((block, asyncio.get_running_loop().run_in_executor(threads, _unpack, block, member, key)))
            if len(unpacking) == BLOCKS_IN_FLIGHT:
                ready, rows = unpacking.popleft()
                yield ready, await rows
        while unpacking:
            ready, rows = unpacking.popleft()
            yield ready, await rows
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


async def _cut(index: Sequence[Block], stored: AsyncIterator[bytes]) -> AsyncIterator[tuple[Block, bytes]]:
    offset, tail, wanted = 0, bytearray(), deque(index)
    async for piece in stored:
        tail += piece
        while wanted and len(tail) >= wanted[0].length:
            block = wanted.popleft()
            if block.offset != offset:
                raise StoredDiffers(f"the block at {offset} is at {block.offset} in the index")
            offset += block.length
            yield block, bytes(memoryview(tail)[: block.length])
            del tail[: block.length]
    if wanted or tail:
        raise StoredDiffers(f"{len(wanted)} blocks are missing at the end, {len(tail)} bytes are too many")


def _unpack(block: Block, member: bytes, key: Sequence[str] | None) -> bytes:
    try:
        rows: bytes = isal_zlib.decompress(member, wbits=GZIP, bufsize=UNPACKED_BYTES)
    except isal_zlib.error as error:  # type: ignore[misc]  # its stub declares a variable
        raise StoredDiffers(f"the block at {block.offset} cannot be decompressed: {error}") from error
    if hashlib.sha256(rows).hexdigest() != block.sha256:
        raise StoredDiffers(f"the block at {block.offset} has other bytes than were written")
    if (count := rows.count(b"\n")) != block.rows:
        raise StoredDiffers(f"the block at {block.offset} has {count} rows, and {block.rows} in the index")
    if key is not None and ends(rows, key) != (block.first, block.last):
        raise StoredDiffers(f"the block at {block.offset} has other keys than the index says")
    return rows
