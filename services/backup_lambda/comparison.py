"""What is the same, and what differs: rows as blocks of bytes, catalogues as facts."""

import asyncio
import hashlib
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from backup_lambda.blocks import RUN_BYTES, RUNS_IN_FLIGHT, Block, Run

NOTHING = "nothing"
MORE = 1 << 62  # rows: whatever comes behind the last block of an index


class BlockComparison:
    """Takes the rows of a table in pieces of any size, and finds the first block that an index knows otherwise.

    They are cut as the index says, by the number of rows, and not by the rule that made it: older blocks follow others.
    """

    def __init__(self, index: Sequence[Block], report: Callable[[int], None]) -> None:
        """`report` is called with the rows of each block."""
        self._wanted = deque(index)
        self._counts = iter([block.rows for block in index])
        self._missing = next(self._counts, MORE)  # rows of the block that is being cut
        self._report = report
        self._pieces: list[bytes] = []
        self._buffered = 0  # bytes
        self._ends: list[int] = []  # of blocks, in what is buffered
        self._hashing: deque[asyncio.Future[list[tuple[int, int, str]]]] = deque()
        self._number = 0
        self.rows = 0
        self.bytes = 0
        self.differing: str | None = None  # in words

    async def feed(self, piece: bytes) -> None:
        """The sink of COPY."""
        start = 0
        while (lines := piece.count(b"\n", start)) >= self._missing:
            for _ in range(self._missing):
                start = piece.find(b"\n", start) + 1
            self._ends.append(self._buffered + start)
            self._missing = next(self._counts, MORE)
        self._missing -= lines
        self._pieces.append(piece)
        self._buffered += len(piece)
        if self._buffered >= RUN_BYTES and (self._ends or self._missing > MORE // 2):
            await self._hash()

    async def close(self) -> None:
        """What is left is a block that is not whole, or rows that are not stored. No rows are one block, too."""
        await self.feed(b"")
        if self._buffered > (self._ends[-1] if self._ends else 0):
            self._ends.append(self._buffered)
        if self._ends:
            await self._hash()
        while self._hashing:
            await self._compare()
        if self._wanted and not self.differing:
            self.differing = _named(self._number + 1, self._wanted[0])

    async def _hash(self) -> None:
        rows = b"".join(self._pieces)
        run = Run(rows, self._ends or [len(rows)])
        self._pieces, self._ends = [rows[run.bytes :]], []
        self._buffered = len(rows) - run.bytes
        self._hashing.append(asyncio.get_running_loop().run_in_executor(None, _hashed, run))
        if len(self._hashing) == RUNS_IN_FLIGHT:
            await self._compare()

    async def _compare(self) -> None:
        for rows, size, sha256 in await self._hashing.popleft():
            self._number += 1
            wanted = self._wanted.popleft() if self._wanted else None
            if not self.differing and (wanted is None or (wanted.rows, wanted.sha256) != (rows, sha256)):
                self.differing = _named(self._number, wanted)
            self.rows += rows
            self.bytes += size
            self._report(rows)


def _hashed(run: Run) -> list[tuple[int, int, str]]:
    """The rows, the bytes and the digest of each block."""
    rows = memoryview(run.rows)
    return [
        (run.rows.count(b"\n", start, end), end - start, hashlib.sha256(rows[start:end]).hexdigest())
        for start, end in run.blocks()
    ]


def _named(number: int, block: Block | None) -> str:
    """Not by its keys: they are of rows, and this goes into reasons and mails. The index in the bucket has them."""
    if block is None:
        return f"block {number}, which is not stored"
    return f"block {number} at {block.offset:,}"


def differing(expected: Mapping[str, object], found: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """What is not the same on both sides: its name, and what each side says. Names and texts may be SQL."""
    left: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in found.keys() - expected.keys():
        left[tokens(name)].append(name)
    for name, one in expected.items():
        alike = [name] if name in found else left[tokens(name)]
        other = found[alike.pop()] if alike else NOTHING
        if one != other and not (isinstance(one, str) and isinstance(other, str) and tokens(one) == tokens(other)):
            yield name, one, other
    for name in sorted(name for those in left.values() for name in those):
        yield name, NOTHING, found[name]


def tokens(sql: str) -> tuple[str, ...]:
    """What makes two expressions the same, as PostgreSQL writes them.

    It writes `between` and `in` in a form that it reads as another one: with other parentheses, and with the cast of an
    array moved to its elements. So neither parentheses nor casts of arrays are compared: had the engine, which stores
    what PostgreSQL wrote as it is, changed only these, this would not see it. What is quoted is one token.
    """
    kept: list[str] = []
    depth, ended = 0, False  # within ARRAY[...], and right behind it
    for each in (match[0] for match in _TOKEN.finditer(sql)):
        if each in "()" or each.isspace() or (each.startswith("::") and (depth or ended)):
            continue
        if each == "[" and (depth or kept[-1:] == ["ARRAY"]):
            depth += 1
        ended = each == "]" and depth == 1
        depth -= each == "]" and depth > 0
        kept.append(each)
    return tuple(kept)


_NAME = r"""(?:[a-z_][\w$]*(?:[ ][a-z]+)*|"(?:[^"]|"")*")"""
_TOKEN = re.compile(
    rf"""
    (?P<quote>\$\w*\$).*?(?P=quote) | E'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
    | ::{_NAME}(?:\.{_NAME})?(?:\(\d+(?:,\d+)?\)(?:[ ][a-z]+)*)?(?:\[\])*
    | \w+ | .
    """,
    re.DOTALL | re.VERBOSE,
)


def facts(catalogue: Mapping[str, Any]) -> dict[str, object]:
    """What a table's catalogue says, one by one; how its columns are written is seen where its rows are."""
    columns = catalogue["columns"]
    named: dict[str, object] = {"columns": [each["name"] for each in columns]}
    named |= {
        f"column {each['name']}, {fact}": value
        for each in columns
        for fact, value in each.items()
        if fact not in ("name", "written_as")
    }
    named |= {f"constraint {each['name']}": each["definition"] for each in catalogue["constraints"]}
    named |= {f"policy {each['name']}, {fact}": each[fact] for each in catalogue["policies"] for fact in each}
    named |= {f"partition {each['name']}": each["bound"] for each in catalogue["partitions"]}
    named |= {each["definition"]: "there" for each in catalogue["indexes"]}
    named |= {each["definition"]: each["enabled"] for each in (*catalogue["triggers"], *catalogue["rules"])}
    named["parents"] = [each["name"] for each in catalogue["inherits"]]
    return named | {name: value for name, value in catalogue.items() if not isinstance(value, list)}


def ways(catalogue: Mapping[str, Any]) -> dict[str, object]:
    """How the values of each column are written."""
    return {f"column {each['name']}, written as": each["written_as"] for each in catalogue["columns"]}
