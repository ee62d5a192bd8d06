"""What differs between two texts, line by line, in bounded work: with two of 1 MiB any exact way can take hours.

The shortest edit, after E. Myers, An O(ND) Difference Algorithm and Its Variations (1986), of what is left without the
lines that both begin and end with.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

CONTEXT = 3  # lines
MAX_STEPS = 600_000
MAX_EDITS = 700  # whose way is kept: half the square of it in numbers


class Block(NamedTuple):
    """Lines `start` to `end` of the one become lines `new_start` to `new_end` of the other."""

    start: int
    end: int
    new_start: int
    new_end: int


class Difference(NamedTuple):
    unified: str  # as `diff -u` has it, without the names of files; empty when nothing differs
    line_by_line: bool  # False: it was too much work, and one block has all from the first difference to the last


async def difference(before: str, after: str) -> Difference:
    """A line ends with a line feed only. `patch` can apply what comes out."""
    # In a thread, so that other requests go on.
    return await asyncio.to_thread(_difference, before, after)


def _difference(before: str, after: str) -> Difference:
    old, new = _lines(before), _lines(after)
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    inner = _blocks(old[head : len(old) - tail], new[head : len(new) - tail])
    blocks = [Block(*(place + head for place in block)) for block in inner or []]
    if inner is None:
        blocks = [Block(head, len(old) - tail, head, len(new) - tail)]
    return Difference("".join(_unified(old, new, blocks)), inner is not None)


def _lines(text: str) -> list[str]:
    """With their line feeds. Not `splitlines`, which ends lines at other characters, too."""
    *lines, rest = text.split("\n")
    return [line + "\n" for line in lines] + ([rest] if rest else [])


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _blocks(old: Sequence[str], new: Sequence[str]) -> list[Block] | None:
    """The fewest lines taken out and put in; None when it takes more than MAX_STEPS or MAX_EDITS."""
    numbers: dict[str, int] = {}
    a = [numbers.setdefault(line, len(numbers)) for line in old]
    b = [numbers.setdefault(line, len(numbers)) for line in new]
    if not a or not b:
        return [Block(0, len(a), 0, len(b))] if a or b else []
    if abs(len(a) - len(b)) > MAX_EDITS:
        return None
    furthest = {1: 0}
    ways: list[dict[int, int]] = []
    steps = 0
    for edits in range(min(MAX_EDITS, len(a) + len(b)) + 1):
        ways.append({})
        for diagonal in range(-edits, edits + 1, 2):
            down = diagonal == -edits or (diagonal != edits and furthest[diagonal - 1] < furthest[diagonal + 1])
            x = start = furthest[diagonal + 1] if down else furthest[diagonal - 1] + 1
            y = x - diagonal
            while x < len(a) and y < len(b) and a[x] == b[y]:
                x, y = x + 1, y + 1
            ways[-1][diagonal] = furthest[diagonal] = x
            if x >= len(a) and y >= len(b):
                return _walked(ways, len(a), len(b))
            steps += 1 + x - start
            if steps > MAX_STEPS:
                return None
    return None


def _walked(ways: Sequence[dict[int, int]], x: int, y: int) -> list[Block]:
    """Back along the way that reached the end, joining edits that touch each other."""
    blocks: list[Block] = []
    for edits in range(len(ways) - 1, 0, -1):
        former, diagonal = ways[edits - 1], x - y
        down = diagonal == -edits or (diagonal != edits and former[diagonal - 1] < former[diagonal + 1])
        from_diagonal = diagonal + 1 if down else diagonal - 1
        from_x = former[from_diagonal]
        from_y = from_x - from_diagonal
        edit = Block(from_x, from_x, from_y, from_y + 1) if down else Block(from_x, from_x + 1, from_y, from_y)
        if blocks and (edit.end, edit.new_end) == (blocks[-1].start, blocks[-1].new_start):
            edit = Block(edit.start, blocks[-1].end, edit.new_start, blocks[-1].new_end)
            blocks.pop()
        blocks.append(edit)
        x, y = from_x, from_y
    return blocks[::-1]


def _unified(old: Sequence[str], new: Sequence[str], blocks: Sequence[Block]) -> Iterator[str]:
    hunks: list[list[Block]] = []
    for block in blocks:
        if hunks and block.start - hunks[-1][-1].end <= 2 * CONTEXT:
            hunks[-1].append(block)
        else:
            hunks.append([block])
    for hunk in hunks:
        yield from _hunk(old, new, hunk)


def _hunk(old: Sequence[str], new: Sequence[str], hunk: Sequence[Block]) -> Iterator[str]:
    before = min(CONTEXT, hunk[0].start)
    after = min(CONTEXT, len(old) - hunk[-1].end)
    of_old = _range(hunk[0].start - before, hunk[-1].end + after)
    of_new = _range(hunk[0].new_start - before, hunk[-1].new_end + after)
    yield f"@@ -{of_old} +{of_new} @@\n"
    place = hunk[0].start - before
    for block in hunk:
        yield from _marked(" ", old[place : block.start])
        yield from _marked("-", old[block.start : block.end])
        yield from _marked("+", new[block.new_start : block.new_end])
        place = block.end
    yield from _marked(" ", old[place : place + after])


def _range(start: int, end: int) -> str:
    """As in `diff -u`: lines count from 1, and one that is empty stands after its line."""
    return f"{start + 1},{end - start}" if end > start else f"{start},0"


def _marked(mark: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield mark + mark.join(lines)
        if not lines[-1].endswith("\n"):
            yield "\n\\ No newline at end of file\n"
