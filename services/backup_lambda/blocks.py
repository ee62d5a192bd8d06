"""Blocks: about 128 KiB of whole rows, each a gzip member of its own.

A file of them is an ordinary gzip file, and any block can be read alone. Where a block ends depends on the rows only,
never on how they arrived, so that equal rows give equal blocks; and mostly on the rows around that place, so that a row
more or less leaves nearly all blocks as they were. Compressed, equal blocks may differ: isal promises only that they
can be decompressed.
"""

import asyncio
import hashlib
import json
import re
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, Self

from isal import isal_zlib

from backup_lambda.errors import BackupFailed, StoredDiffers
from backup_lambda.multipart import Upload

MIN_BYTES, MAX_BYTES = 96 * 1024, 160 * 1024  # of a block, where rows are not longer than what lies between
HEAD_BYTES = 64  # of a row: mostly its key
MIXER = 0x9E3779B1  # Knuth's multiplier: 2^32 by the golden ratio, odd
RUN_BYTES = 1024 * 1024  # of blocks that one call of a thread takes: a call for each would cost as much as its work
RUNS_IN_FLIGHT = 4
THREADS = 2  # each keeps memory of its own, and two are faster than one connection of PostgreSQL's
GZIP = 31  # zlib's number for the gzip format; it writes no name and the time 0
LEVEL = 2  # of isal's 0 to 3: ten times as fast as zlib's 6, for a tenth more bytes
UNPACKED_BYTES = 2 * MAX_BYTES  # room for any block of ordinary rows, so that it is not copied while it grows

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
        return json.dumps(vars(self), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


class Packed(NamedTuple):
    """A block on its way into the store."""

    member: bytes
    block: Block  # its offset is not known yet


@dataclass(frozen=True)
class Run:
    """Blocks that follow each other: the first begins where `rows` do, and each other one where that before it ends.

    What is behind the last one is of the next run.
    """

    rows: bytes
    ends: list[int]

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Where each begins and ends."""
        return pairwise([0, *self.ends])

    @property
    def bytes(self) -> int:
        """Of all its blocks."""
        return self.ends[-1]


class Splitter:
    """Cuts rows, each with the newline that ends it, into blocks of whole rows.

    A block is decided when MAX_BYTES of rows are there since its beginning. Of the rows that end between MIN_BYTES and
    MAX_BYTES it ends with the one that weighs least, by its own bytes; where none does, as within a long row, with the
    first that ends after that. So two tables that differ in a row mostly find the same end behind it, or do so within
    a few blocks, and all that follows is the same.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._bytes = 0

    def feed(self, piece: bytes) -> Run | None:
        """The blocks that are whole with this piece, which may begin and end anywhere, also within a row.

        Pieces are put together when there is enough for a run and a row ends: a long row is copied once, not with
        every piece of it.
        """
        self._pieces.append(piece)
        self._bytes += len(piece)
        if self._bytes < RUN_BYTES or b"\n" not in piece:
            return None
        rows = b"".join(self._pieces)
        ends = [*_ends(rows)]
        self._pieces = [rows[ends[-1] :] if ends else rows]
        self._bytes = len(self._pieces[0])
        return Run(rows, ends) if ends else None

    def rest(self) -> Run:
        """What is left when all pieces were fed: the last blocks. Only that of no rows at all is empty."""
        rows = b"".join(self._pieces)
        ends = [*_ends(rows)]
        if not ends or ends[-1] < len(rows):
            ends.append(len(rows))
        return Run(rows, ends)


def _ends(rows: bytes) -> Iterator[int]:
    """Where blocks end, as far as these rows decide it."""
    start = 0
    while len(rows) - start >= MAX_BYTES:
        end = _lightest(rows, start) or rows.find(b"\n", start + MAX_BYTES) + 1
        if not end:
            return
        yield end
        start = end


def _lightest(rows: bytes, start: int) -> int:
    """Where the row ends that weighs least, the first such; 0 when no row ends in the window."""
    least, most = start + MIN_BYTES, start + MAX_BYTES
    found, smallest = 0, 1 << 32
    begin, end = rows.rfind(b"\n", start, least - 1) + 1 or start, rows.find(b"\n", least - 1, most) + 1
    while end:
        # The head may be the same in all rows, and the length as well, but rarely both. Unmixed, the checksums of
        # numbers that follow each other repeat their order, and two that look for a common end may miss each other.
        weight = (zlib.crc32(rows[begin : min(begin + HEAD_BYTES, end)]) + end - begin) * MIXER & 0xFFFFFFFF
        if weight < smallest:
            found, smallest = end, weight
        begin, end = end, rows.find(b"\n", end, most) + 1
    return found


class BlockWriter:
    """Takes rows in pieces of any size, packs a few runs of blocks at a time in threads, and uploads them in order.

    The threads end with the `with` that it is used in.
    """

    def __init__(self, upload: Upload, key: Sequence[str], report: Callable[[int, int], None]) -> None:
        """`key` names the columns of the primary key; `report` is called with the rows and bytes of each run."""
        self._upload = upload
        self._key = key
        self._report = report
        self._splitter = Splitter()
        self._threads = ThreadPoolExecutor(THREADS)
        self._packing: deque[tuple[Run, asyncio.Future[list[Packed]]]] = deque()
        self._digest = hashlib.sha256()
        self._digesting: asyncio.Future[None] | None = None
        self.index = IndexWriter()
        self.rows = 0
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def feed(self, piece: bytes) -> None:
        """The sink of COPY. asyncpg waits for it after every few kilobytes: mostly it only appends."""
        if run := self._splitter.feed(piece):
            await self._pack(run)

    async def close(self) -> None:
        """Upload what is left. An empty table is one block without rows, because an empty file is no gzip file."""
        if (run := self._splitter.rest()).bytes or not (self.index.blocks or self._packing):
            await self._pack(run)
        while self._packing:
            await self._store(*self._packing.popleft())
        if self._digesting:
            await self._digesting

    @property
    def sha256(self) -> str:
        """The table's digest."""
        return self._digest.hexdigest()

    async def _pack(self, run: Run) -> None:
        packing = asyncio.get_running_loop().run_in_executor(self._threads, _pack_run, run, self._key)
        self._packing.append((run, packing))
        while self._packing and (self._packing[0][1].done() or len(self._packing) == RUNS_IN_FLIGHT):
            await self._store(*self._packing.popleft())

    async def _store(self, run: Run, packing: asyncio.Future[list[Packed]]) -> None:
        packed = await packing
        if self._digesting:  # one after the other: the table's digest depends on the order
            await self._digesting
        rows = memoryview(run.rows)[: run.bytes]
        self._digesting = asyncio.get_running_loop().run_in_executor(self._threads, self._digest.update, rows)
        for member, block in packed:
            self.index.add(replace(block, offset=self._upload.bytes))
            await self._upload.write(member)
        count = sum(block.rows for _, block in packed)
        self.rows += count
        self.bytes += run.bytes
        self._report(count, run.bytes)


def _pack_run(run: Run, key: Sequence[str]) -> list[Packed]:
    return [pack(run.rows, key, start, end) for start, end in run.blocks()]


def pack(rows: bytes, key: Sequence[str], start: int = 0, end: int | None = None) -> Packed:
    """A block of these rows, or of those from `start` to `end`."""
    end = len(rows) if end is None else end
    block = memoryview(rows)[start:end]
    member = isal_zlib.compress(block, LEVEL, wbits=GZIP)
    first, last = _ends_keys(rows, key, start, end)
    sha256 = hashlib.sha256(block).hexdigest()
    return Packed(member, Block(first, last, 0, len(member), rows.count(b"\n", start, end), sha256))


def _ends_keys(rows: bytes, key: Sequence[str], start: int, end: int) -> tuple[Key, Key]:
    """The keys of the first and the last row of a block. Raises BackupFailed when one of these is no row.

    Only two rows are parsed: a key copied beside every row would have to be cut off again from each.
    """
    if not (key and start < end):
        return None, None
    last = rows.rfind(b"\n", start, end - 1) + 1 or start
    try:
        first_key = key_of(rows[start : rows.find(b"\n", start, end)], key)
        return first_key, key_of(rows[last:end], key) if last > start else first_key
    except (ValueError, KeyError) as error:
        raise BackupFailed("a row is not the JSON of a row, or has no key: it was altered on its way") from error


def key_of(row: bytes, key: Sequence[str]) -> Key:
    """Nothing else of the row is parsed: PostgreSQL stores documents that are too deep for Python's parser.

    Nor is what comes after the key even looked at: it may be large. Raises ValueError and KeyError.
    """
    values: dict[str, bytes] = {}
    for member in _members(row):
        name, value = _split(member)
        if name in key:
            values[name] = value
        if len(values) == len(key):
            break
    return [json.loads(values[column], parse_int=str, parse_float=str) for column in key]


def values_of(row: bytes) -> dict[str, bytes]:
    """The values of a row's columns, each as its JSON text."""
    return dict(map(_split, _members(row)))


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
    if name is None:
        raise ValueError("an object's member begins with its name")
    return json.loads(name[0]), member[name.end() + 1 :]


class IndexWriter:
    """The index of a table in the making. It is packed as it grows, to a seventh of what the blocks' own memory is."""

    def __init__(self) -> None:
        self._gzip = isal_zlib.compressobj(LEVEL, wbits=GZIP)
        self._packed: list[bytes] = []
        self.blocks = 0

    def add(self, block: Block) -> None:
        self._packed.append(self._gzip.compress(block.line()))
        self.blocks += 1

    def close(self) -> bytes:
        """The index as it is stored."""
        return b"".join([*self._packed, self._gzip.flush()])


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
    async with aclosing(read_runs(index, stored, key)) as runs:
        async for run in runs:
            for block, rows in run:
                if isinstance(rows, StoredDiffers):
                    raise rows
                yield block, rows


async def read_runs(
    index: Sequence[Block], stored: AsyncIterator[bytes], key: Sequence[str] | None = None
) -> AsyncGenerator[list[tuple[Block, bytes | StoredDiffers]], None]:
    """The same, about RUN_BYTES of rows at a time, and what is wrong in the place of a block that is damaged.

    Raises StoredDiffers when the file is shorter or longer than its index says.
    """
    unpacking: deque[asyncio.Future[list[tuple[Block, bytes | StoredDiffers]]]] = deque()
    threads = ThreadPoolExecutor(THREADS)
    try:
        async for run in _runs(_cut(index, stored)):
            unpacking.append(asyncio.get_running_loop().run_in_executor(threads, _unpack_run, run, key))
            if len(unpacking) == RUNS_IN_FLIGHT:
                yield await unpacking.popleft()
        while unpacking:
            yield await unpacking.popleft()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


async def _runs(members: AsyncIterator[tuple[Block, bytes]]) -> AsyncIterator[list[tuple[Block, bytes]]]:
    run, size = list[tuple[Block, bytes]](), 0
    async for block, member in members:
        run.append((block, member))
        size += int.from_bytes(member[-4:], "little")  # where gzip has the length of what it holds
        if size >= RUN_BYTES:
            yield run
            run, size = [], 0
    if run:
        yield run


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


def _unpack_run(
    run: Sequence[tuple[Block, bytes]], key: Sequence[str] | None
) -> list[tuple[Block, bytes | StoredDiffers]]:
    unpacked: list[tuple[Block, bytes | StoredDiffers]] = []
    for block, member in run:
        try:
            unpacked.append((block, unpack(block, member, key)))
        except StoredDiffers as error:
            unpacked.append((block, error))
    return unpacked


def unpack(block: Block, member: bytes, key: Sequence[str] | None) -> bytes:
    """Its rows. Raises StoredDiffers, also when, with the columns of the key, their keys are not those of the index."""
    try:
        rows: bytes = isal_zlib.decompress(member, wbits=GZIP, bufsize=UNPACKED_BYTES)
    except isal_zlib.error as error:  # type: ignore[misc]  # its stub declares a variable
        raise StoredDiffers(f"the block at {block.offset} cannot be decompressed: {error}") from error
    if hashlib.sha256(rows).hexdigest() != block.sha256:
        raise StoredDiffers(f"the block at {block.offset} has other bytes than were written")
    if (count := rows.count(b"\n")) != block.rows:
        raise StoredDiffers(f"the block at {block.offset} has {count} rows, and {block.rows} in the index")
    if key is not None and not _has_keys(block, rows, key):
        raise StoredDiffers(f"the block at {block.offset} has other keys than the index says")
    return rows


def _has_keys(block: Block, rows: bytes, key: Sequence[str]) -> bool:
    try:
        return _ends_keys(rows, key, 0, len(rows)) == (block.first, block.last)
    except BackupFailed:
        return False
