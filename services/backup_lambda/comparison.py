"""What is the same, and what differs: rows as blocks of bytes, catalogues as facts."""

import asyncio
import hashlib
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from backup_lambda.blocks import BLOCKS_IN_FLIGHT, Block, Splitter

NOTHING = "nothing"


class BlockComparison:
    """Takes the rows of a table in pieces of any size, and finds the first block that an index knows otherwise."""

    def __init__(self, index: Sequence[Block], report: Callable[[int], None]) -> None:
        """`report` is called with the rows of each block."""
        self._wanted = deque(index)
        self._report = report
        self._splitter = Splitter()
        self._hashing: deque[tuple[int, int, asyncio.Future[str]]] = deque()
        self._number = 0
        self.rows = 0
        self.bytes = 0
        self.differing: str | None = None  # in words

    async def feed(self, piece: bytes) -> None:
        """The sink of COPY."""
        for rows in self._splitter.feed(piece):
            await self._hash(rows)

    async def close(self) -> None:
        """What is left is the last block. No rows are one block, too."""
        if (rest := self._splitter.rest()) or not self._number:
            await self._hash(rest)
        while self._hashing:
            await self._compare()
        if self._wanted and not self.differing:
            self.differing = _named(self._number + 1, self._wanted[0])

    async def _hash(self, rows: bytes) -> None:
        self._number += 1
        count = rows.count(b"\n")
        hashing = asyncio.get_running_loop().run_in_executor(None, lambda: hashlib.sha256(rows).hexdigest())
        self._hashing.append((count, len(rows), hashing))
        if len(self._hashing) == BLOCKS_IN_FLIGHT:
            await self._compare()

    async def _compare(self) -> None:
        rows, size, hashing = self._hashing.popleft()
        sha256 = await hashing
        wanted = self._wanted.popleft() if self._wanted else None
        if not self.differing and (wanted is None or (wanted.rows, wanted.sha256) != (rows, sha256)):
            self.differing = _named(self._number - len(self._hashing), wanted)
        self.rows += rows
        self.bytes += size
        self._report(rows)


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
