"""Blocks: where they are cut, and that a stored file is exactly what its index says."""

import asyncio
import gzip
import random
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from backup_lambda.blocks import BLOCK_BYTES, Block, BlockWriter, Splitter, check, pack, read
from backup_lambda.errors import AwsRefused, StoredDiffers
from tests.backup_lambda.world import until

MEGABYTE = 1_000_000


def rows_of(*sizes: int) -> bytes:
    return b"".join(b"x" * (size - 1) + b"\n" for size in sizes)


def cut(rows: bytes, piece_bytes: Callable[[], int]) -> list[bytes]:
    splitter, blocks, start = Splitter(), [], 0
    while start < len(rows):
        end = start + piece_bytes()
        blocks += splitter.feed(rows[start:end])
        start = end
    return [*blocks, splitter.rest()]


@pytest.mark.parametrize(
    ("sizes", "blocks"),
    [
        ((), [0]),
        ((1, 1), [2]),
        ((BLOCK_BYTES,), [BLOCK_BYTES, 0]),
        ((BLOCK_BYTES - 1, 1, 1), [BLOCK_BYTES, 1]),
        ((BLOCK_BYTES - 1, 2, 1), [BLOCK_BYTES + 1, 1]),
        ((BLOCK_BYTES + 1, 3 * BLOCK_BYTES, 5), [BLOCK_BYTES + 1, 3 * BLOCK_BYTES, 5]),
    ],
)
def test_a_block_ends_with_the_row_that_fills_it(sizes: tuple[int, ...], blocks: list[int]) -> None:
    assert [len(block) for block in cut(rows_of(*sizes), lambda: 8192)] == blocks


def test_how_rows_arrive_changes_no_block() -> None:
    chance = random.Random(1)
    rows = rows_of(*(chance.choice([1, 2, 900, 5000, 700_000, 2 * MEGABYTE]) for _ in range(60)))
    wanted = cut(rows, lambda: 8192)
    assert b"".join(wanted) == rows
    assert len(wanted) > 10
    for piece_bytes in (lambda: len(rows), lambda: 4093, lambda: BLOCK_BYTES, lambda: chance.choice([1, 50, MEGABYTE])):
        assert cut(rows, piece_bytes) == wanted


def packed() -> tuple[list[Block], list[bytes]]:
    """Three blocks, and their bytes in a file."""
    index, members, offset = [], [], 0
    for number in range(3):
        made = pack(b"".join(b'{"id":%d}\n' % (10 * number + each) for each in range(5)), ["id"])
        index.append(replace(made.block, offset=offset))
        members.append(made.member)
        offset += len(made.member)
    return index, members


def test_the_keys_of_a_block_are_those_of_its_ends() -> None:
    index, _ = packed()
    assert [(block.first, block.last) for block in index] == [(["0"], ["4"]), (["10"], ["14"]), (["20"], ["24"])]
    alone = pack(b'{"body":"a","id":7}\n', ["id"])
    assert (alone.block.first, alone.block.last, alone.block.rows) == (["7"], ["7"], 1)


async def checked(index: list[Block], stored: bytes) -> tuple[int, list[int]]:
    reported: list[int] = []

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(stored), 7):
            yield stored[start : start + 7]

    return await check(index, pieces(), reported.append), reported


async def test_a_file_is_what_its_index_says() -> None:
    index, members = packed()
    assert await checked(index, b"".join(members)) == (15, [5, 5, 5])


Altered = tuple[list[Block], bytes]


def moved(index: list[Block], members: list[bytes]) -> Altered:
    return [index[0], replace(index[1], offset=index[1].offset + 1), index[2]], b"".join(members)


def one_row_more_in_the_index(index: list[Block], members: list[bytes]) -> Altered:
    return [replace(index[0], rows=6), *index[1:]], b"".join(members)


def rows_exchanged_between_counts(index: list[Block], members: list[bytes]) -> Altered:
    """The sum is right."""
    return [replace(index[0], rows=6), replace(index[1], rows=4), index[2]], b"".join(members)


def swapped(index: list[Block], members: list[bytes]) -> Altered:
    return index, members[1] + members[0] + members[2]


def swapped_in_both(index: list[Block], members: list[bytes]) -> Altered:
    return [index[1], index[0], index[2]], members[1] + members[0] + members[2]


def other_rows(index: list[Block], members: list[bytes]) -> Altered:
    other = gzip.decompress(members[1]).replace(b"12", b"13")
    return index, members[0] + pack(other, ["id"]).member + members[2]


def a_bit_flipped(index: list[Block], members: list[bytes]) -> Altered:
    stored = bytearray(b"".join(members))
    stored[len(stored) // 2] ^= 4
    return index, bytes(stored)


def tail_cut(index: list[Block], members: list[bytes]) -> Altered:
    return index, b"".join(members)[:-1]


def last_block_gone(index: list[Block], members: list[bytes]) -> Altered:
    return index, b"".join(members[:-1])


def a_byte_too_many(index: list[Block], members: list[bytes]) -> Altered:
    return index, b"".join(members) + b"\0"


@pytest.mark.parametrize(
    "alter",
    [
        moved,
        one_row_more_in_the_index,
        rows_exchanged_between_counts,
        swapped,
        swapped_in_both,
        other_rows,
        a_bit_flipped,
        tail_cut,
        last_block_gone,
        a_byte_too_many,
    ],
)
async def test_whatever_is_altered_is_found(alter: Callable[[list[Block], list[bytes]], Altered]) -> None:
    with pytest.raises(StoredDiffers):
        await checked(*alter(*packed()))


async def test_the_keys_of_its_index_are_those_of_its_rows() -> None:
    index, members = packed()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"".join(members)

    found = [(block.first, rows) async for block, rows in read(index, pieces(), ["id"])]
    assert [first for first, _ in found] == [["0"], ["10"], ["20"]]
    assert b"".join(rows for _, rows in found) == gzip.decompress(b"".join(members))
    with pytest.raises(StoredDiffers, match="other keys"):
        [each async for each in read([index[0], replace(index[1], last=["13"]), index[2]], pieces(), ["id"])]


async def test_no_thread_outlives_a_copy_that_fails() -> None:
    before = {*threading.enumerate()}

    async def ended() -> bool:
        return not {*threading.enumerate()} - before

    upload: Any = Full()
    writer = BlockWriter(upload, [], lambda rows, size: None)
    with pytest.raises(AwsRefused), writer:
        await writer.feed(rows_of(*[BLOCK_BYTES] * 20))
    await until(ended)


class Full:
    """An upload that fails."""

    def __init__(self) -> None:
        self.bytes = 0

    async def write(self, piece: bytes) -> None:
        raise AwsRefused("the bucket is full")


async def test_the_loop_goes_on_while_blocks_are_checked() -> None:
    """A lease is renewed meanwhile."""
    made = pack(rows_of(*[900] * 1200), [])
    index = [replace(made.block, offset=number * len(made.member)) for number in range(20)]
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in index:
            yield made.member

    turning = asyncio.create_task(turn())
    assert await check(index, pieces(), lambda _: None) == 20 * 1200
    turning.cancel()
    assert turns > 20
