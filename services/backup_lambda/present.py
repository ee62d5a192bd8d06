"""A table of the database as it is now, beside a backup of it: only blocks that the backup has not are kept."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

from backup_lambda import blocks
from backup_lambda.blocks import Block, Key, Run, Splitter
from backup_lambda.catalogue import Table, quoted
from backup_lambda.keys import text_of
from backup_lambda.snapshot import Snapshot


class Enough(Exception):
    """The time, or the memory, is used up. The connection cannot be used any more."""


class Present:
    """The rows of a table from a key on, as far as time and memory reach."""

    def __init__(self, table: Table, known: Mapping[str, Block], most_bytes: int) -> None:
        """`known` are the blocks of the backup by their digests; the rows of others are kept, up to `most_bytes`."""
        self._table, self._known, self._most_bytes = table, known, most_bytes
        self._splitter = Splitter()
        self._found: list[tuple[str, bytes]] = []  # digest and rows of each block; no rows of one that is known
        self._bytes = 0
        self.limit: Key = None  # where it ended: all rows before this key are told

    @property
    def kept(self) -> list[bytes]:
        """The blocks that the backup has not."""
        return [rows for _, rows in self._found if rows]

    @property
    def same(self) -> set[str]:
        """The digests of those that it has."""
        return {digest for digest, rows in self._found if not rows}

    async def read(self, source: Snapshot, ends_at: float) -> None:
        """Raises Enough when not even two blocks were read, and DatabaseFailed."""
        try:
            async with asyncio.timeout_at(ends_at):
                await source.copy(self._table, self._feed)
            self._take(self._splitter.rest())
        except (Enough, TimeoutError):
            self._give_up_the_last()

    async def _feed(self, piece: bytes) -> None:
        if run := self._splitter.feed(piece):
            self._take(run)
            if self._bytes > self._most_bytes:
                raise Enough

    def _take(self, run: Run) -> None:
        for start, end in run.blocks():
            rows = memoryview(run.rows)[start:end]
            digest = hashlib.sha256(rows).hexdigest()
            kept = b"" if digest in self._known else bytes(rows)
            self._found.append((digest, kept))
            self._bytes += len(kept)

    def _give_up_the_last(self) -> None:
        """It is read again next time: its first key is where that goes on, and its first row where a block begins."""
        if len(self._found) < 2:
            raise Enough
        digest, rows = self._found.pop()
        self.limit = (
            blocks.key_of(rows.partition(b"\n")[0], self._table.primary_key) if rows else self._known[digest].first
        )


@dataclass(frozen=True)
class Rest(Table):
    """The rows of a table from a key on."""

    start: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: Table, start: Sequence[object]) -> Self:
        """`start` is of a known order: each value is one that PostgreSQL wrote."""
        same = {each.name: getattr(table, each.name) for each in fields(Table)}
        return cls(**same, start=tuple(map(text_of, start)))

    @property
    def source(self) -> str:
        """In the order of `rows_query`, for which an index on the key serves where it has that order, too."""
        columns = {column["name"]: column for column in self.catalogue["columns"]}
        keys, values = [], []
        for name, value in zip(self.primary_key, self.start, strict=True):
            column = columns[name]
            as_text = column["written_as"] == "text"
            ordered = ' collate pg_catalog."C"' if column["collation"] or as_text else ""
            keys.append(f"s.{quoted(name)}{'::text' if as_text else ''}{ordered}")
            values.append(f"{_literal(value)}::{'text' if as_text else column['type']}")
        return f"(select s.* from {super().source} as s where ({', '.join(keys)}) >= ({', '.join(values)}))"  # noqa: S608  # quoted


def _literal(text: str) -> str:
    """Whatever standard_conforming_strings says."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
