"""Snapshots that do not tell the truth in one thing, as an engine with a fault would not."""

from collections.abc import Callable, Coroutine
from dataclasses import fields, replace
from typing import Any

from backup_lambda.catalogue import Table
from backup_lambda.snapshot import Counted, Snapshot


def a(kind: type[Snapshot]) -> Callable[[Snapshot], Snapshot]:
    return lambda source: kind(**{each.name: getattr(source, each.name) for each in fields(source)})


class SkipsARow(Snapshot):
    """The last one of each table."""

    async def count(self, table: Table) -> Counted:
        counted = await super().count(table)
        return counted._replace(rows=max(0, counted.rows - 1))

    async def copy(self, table: Table, sink: Callable[[bytes], Coroutine[Any, Any, None]]) -> int:
        pieces: list[bytes] = []

        async def keep(piece: bytes) -> None:
            pieces.append(bytes(piece))

        copied = await super().copy(table, keep)
        await sink(b"".join(b"".join(pieces).splitlines(keepends=True)[:-1]))
        return max(0, copied - 1)


class ForgetsAColumn(Snapshot):
    """The last one of each table that its key does not need."""

    async def count(self, table: Table) -> Counted:
        counted = await super().count(table)
        columns = counted.table.catalogue["columns"]
        last = [each for each in columns if each["name"] not in table.primary_key][-1:]
        kept = [each for each in columns if each not in last]
        return counted._replace(table=replace(counted.table, catalogue={**table.catalogue, "columns": kept}))
