"""Lists of an owner's notes: those that pass the filters, in an order, a page at a time.

A page begins at a place in the order, a keyset, and not at a number of notes: every page costs the same, and what is
made or deleted meanwhile moves no other note over its edge. The id is the last part of each order, so that no two notes
have one place. Statements are put together from the constants below; every value is a parameter.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID

from notes_api.db import Connection, Row, planned_anew
from notes_api.notes import LISTED

Sort = Literal["created_at", "-created_at", "updated_at", "-updated_at", "title", "-title"]
Filters = Mapping[str, Any]  # by name: those of `_PASSES` that are given, and `trashed`

COUNTED = 10_000  # an estimate is not given where counting costs no more than this

_PASSES = {
    "tag": "tags @> ${}::text[]",
    "any_tag": "tags && ${}::text[]",
    "pinned": "pinned = ${}",
    "archived": "archived = ${}",
    "created_after": "created_at >= ${}",
    "created_before": "created_at < ${}",
    "updated_after": "updated_at >= ${}",
    "updated_before": "updated_at < ${}",
}
_ORDERS = {
    "created_at": ("created_at", "timestamptz"),
    "updated_at": ("updated_at", "timestamptz"),
    "title": ('title collate "C"', "text"),
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Place(NamedTuple):
    """Where a note stands in an order."""

    value: Any
    id: UUID

    @classmethod
    def of(cls, row: Row, sort: Sort) -> "Place":
        return cls(row[sort.removeprefix("-")], row["id"])

    @classmethod
    def read(cls, written: Sequence[Any]) -> "Place":
        value, id_ = written
        return cls(_EPOCH + timedelta(microseconds=value) if isinstance(value, int) else value, UUID(id_))

    def written(self) -> Sequence[Any]:
        """As JSON has it, to the microsecond."""
        value = self.value
        return [(value - _EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value, str(self.id)]


class Order(NamedTuple):
    sort: Sort
    after: Place | None


def passing(owner: UUID, filters: Filters) -> tuple[str, list[Any]]:
    """The condition that a note is the owner's and passes, and its parameters, which come first in a statement."""
    conditions, values = ["owner = $1"], [owner]
    conditions.append(f"deleted_at is {'not null' if filters.get('trashed') else 'null'}")
    for name, condition in _PASSES.items():
        if name in filters:
            values.append(filters[name])
            conditions.append(condition.format(len(values)))
    return " and ".join(conditions), values


async def page(
    connection: Connection, owner: UUID, filters: Filters, order: Order, limit: int
) -> tuple[Sequence[Row], Place | None]:
    """Up to `limit` notes without their content, in this order; and the place of the last, if there are more.

    In an order by what changes, `updated_at` or `title`, a note that changes while a client pages may move to where the
    client has been, or come again; whoever must miss nothing follows the changes.
    """
    condition, values = passing(owner, filters)
    sort, after = order
    name, direction = sort.removeprefix("-"), "desc" if sort.startswith("-") else "asc"
    expression, type_ = _ORDERS[name]
    if after:
        values += after
        beyond = "<" if direction == "desc" else ">"
        condition += f" and ({expression}, id) {beyond} (${len(values) - 1}::{type_}, ${len(values)}::uuid)"
    rows = await _fetch(
        connection,
        filters,
        f"select {LISTED} from notes.notes where {condition}"  # noqa: S608  # constants
        f" order by {expression} {direction}, id {direction} limit ${len(values) + 1}",
        [*values, limit + 1],
    )
    return rows[:limit], Place.of(rows[limit - 1], sort) if len(rows) > limit else None


async def count(connection: Connection, owner: UUID, filters: Filters) -> int:
    condition, values = passing(owner, filters)
    [row] = await _fetch(connection, filters, f"select count(*) from notes.notes where {condition}", values)  # noqa: S608
    return int(row["count"])


async def estimate(connection: Connection, owner: UUID, filters: Filters) -> int:
    """Exact up to COUNTED; above it what the planner expects, which follows from samples that it took."""
    condition, values = passing(owner, filters)
    few = f"select count(*) from (select from notes.notes where {condition} limit {COUNTED}) as few"  # noqa: S608
    [row] = await _fetch(connection, filters, few, values)
    if row["count"] < COUNTED:
        return int(row["count"])
    plan = await connection.fetchval(f"explain (format json) select from notes.notes where {condition}", *values)
    return max(COUNTED, int(json.loads(plan)[0]["Plan"]["Plan Rows"]))


async def _fetch(connection: Connection, filters: Filters, statement: str, values: Sequence[Any]) -> Sequence[Row]:
    """To a list without filters there is one way, the index of its order; to one with filters the best depends."""
    if filters.keys() & _PASSES:
        async with planned_anew(connection):
            return await connection.fetch(statement, *values)
    return await connection.fetch(statement, *values)
