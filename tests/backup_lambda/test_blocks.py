"""Blocks: where they are cut, and that a stored file is exactly what its index says."""

import asyncio
import gzip
import random
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from backup_lambda.blocks import (
    MAX_BYTES,
    MIN_BYTES,
    RUN_BYTES,
    Block,
    BlockWriter,
    Run,
    Splitter,
    check,
    pack,
    read,
)
from backup_lambda.comparison import BlockComparison
from backup_lambda.errors import AwsRefused, StoredDiffers
from tests.backup_lambda.world import until

MEGABYTE = 1_000_000
EDITS = 25


def rows_of(*sizes: int) -> bytes:
    return b"".join(b"x" * (size - 1) + b"\n" for size in sizes)


def cut(rows: bytes, piece_bytes: Callable[[], int]) -> list[bytes]:
    splitter, runs, start = Splitter(), list[Run](), 0
    while start < len(rows):
        end = start + piece_bytes()
        if run := splitter.feed(rows[start:end]):
            runs.append(run)
        start = end
    return [run.rows[begin:end] for run in [*runs, splitter.rest()] for begin, end in run.blocks()]


@pytest.mark.parametrize(
    ("sizes", "blocks"),
    [
        ((), [0]),
        ((1, 1), [2]),
        ((MAX_BYTES - 1,), [MAX_BYTES - 1]),
        ((MAX_BYTES,), [MAX_BYTES]),
        ((MAX_BYTES, 1), [MAX_BYTES, 1]),
        ((MIN_BYTES - 1, 1, MAX_BYTES), [MIN_BYTES, MAX_BYTES]),  # the row before it ends too early
        ((MIN_BYTES - 1, MAX_BYTES, 5), [MIN_BYTES - 1 + MAX_BYTES, 5]),
        ((MIN_BYTES, MAX_BYTES - MIN_BYTES, 5), [MIN_BYTES, MAX_BYTES - MIN_BYTES + 5]),  # the same head: the first
        ((MIN_BYTES, 10 * MAX_BYTES, RUN_BYTES, 5), [MIN_BYTES, 10 * MAX_BYTES, RUN_BYTES, 5]),
    ],
)
def test_a_block_ends_within_its_window_or_with_a_long_row(sizes: tuple[int, ...], blocks: list[int]) -> None:
    assert [len(block) for block in cut(rows_of(*sizes), lambda: 8192)] == blocks


def test_how_rows_arrive_changes_no_block() -> None:
    chance = random.Random(1)
    sizes = [chance.choice([2, 900, 5000, 70_000, 700_000, 2 * MEGABYTE]) for _ in range(60)]
    rows = b"".join(b"%d" % chance.getrandbits(200) + b"x" * size + b"\n" for size in sizes)
    wanted = cut(rows, lambda: 8192)
    assert b"".join(wanted) == rows
    assert len(wanted) > 10
    for piece_bytes in (lambda: len(rows), lambda: 4093, lambda: RUN_BYTES, lambda: chance.choice([1, 50, MEGABYTE])):
        assert cut(rows, piece_bytes) == wanted


@pytest.mark.parametrize("body", ["long", "short"])
@pytest.mark.parametrize("edit", ["change", "insert", "remove"])
def test_a_row_that_changes_leaves_nearly_all_blocks_as_they_were(edit: str, body: str) -> None:
    chance = random.Random(f"{edit} {body}")
    longest = 1200 if body == "long" else 30
    rows = [row(chance, number, longest) for number in range(4_000_000 // (longest + 20))]
    before = {*cut(b"".join(rows), lambda: 8192)}
    assert len(before) > 10
    new = 0
    for _ in range(EDITS):
        edited, at = [*rows], chance.randrange(len(rows))
        if edit == "change":
            edited[at] = row(chance, at, longest)
        elif edit == "insert":
            edited.insert(at, row(chance, -at, longest))
        else:
            del edited[at]
        new += sum(block not in before for block in cut(b"".join(edited), lambda: 8192))
    assert new < 2 * EDITS


def row(chance: random.Random, number: int, longest: int) -> bytes:
    return b'{"id":%d,"body":"%s"}\n' % (number, b"x" * chance.randint(0, longest))


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


async def compared(index: list[Block], rows: bytes, piece_bytes: Callable[[], int]) -> BlockComparison:
    comparison, start = BlockComparison(index, lambda count: None), 0
    while start < len(rows):
        end = start + piece_bytes()
        await comparison.feed(rows[start:end])
        start = end
    await comparison.close()
    return comparison


async def test_rows_are_compared_with_blocks_that_were_cut_by_any_rule() -> None:
    """Those of an older release have 1 MiB."""
    chance = random.Random(2)
    rows = [row(chance, number, 3000) for number in range(3000)]
    index, begin = list[Block](), 0
    while begin < len(rows):
        end = begin + chance.choice([0, 1, 5, 700])
        index.append(pack(b"".join(rows[begin:end]), []).block)
        begin = end
    for piece_bytes in (lambda: 8192, lambda: 5 * MEGABYTE, lambda: chance.choice([1, 50, MEGABYTE])):
        same = await compared(index, b"".join(rows), piece_bytes)
        assert (same.differing, same.rows, same.bytes) == (None, 3000, len(b"".join(rows)))
        more = await compared(index, b"".join([*rows, *rows]), piece_bytes)
        assert (more.differing, more.rows) == (f"block {len(index) + 1}, which is not stored", 6000)
        fewer = await compared(index, b"".join(rows[:-1]), piece_bytes)
        assert (fewer.differing, fewer.rows) == (f"block {len(index)} at 0", 2999)
        other = await compared(index, b"".join([b"x\n", *rows[1:]]), piece_bytes)
        assert other.differing == f"block {next(n for n, block in enumerate(index, 1) if block.rows)} at 0"
    assert (await compared([pack(b"", []).block], b"", lambda: 1)).differing is None


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

    async def filled() -> None:
        for _ in range(20):
            await writer.feed(rows_of(RUN_BYTES))

    with pytest.raises(AwsRefused), writer:
        await filled()
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
