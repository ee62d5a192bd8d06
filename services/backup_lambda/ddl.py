"""The SQL that makes the tables of a backup, and what belongs to them, from PostgreSQL's catalogue.

There is no pg_dump in Lambda. What needs what is in pg_depend; an object that we do not make ourselves (the type of a
table's rows, an array's type, what an extension made) is walked through to what it stands for.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import asyncpg

from backup_lambda import definitions
from backup_lambda.catalogue import Connection, Table
from backup_lambda.manifest import SchemaSql

Id: TypeAlias = tuple[str, int]
# Names are written in full, and functions may name what is made after them.
SESSION = ["set check_function_bodies = off;", "select pg_catalog.set_config('search_path', '', false);"]
# A function's text does not tell what it needs: all of them are there before a row may need one.
BEFORE_ROWS = {"schema", "extension", "collation", "enum", "domain", "composite", "range", "function", "cast",
               "sequence", "generated", "table", "inheritance", "default", "sequence owner"}  # fmt: skip
RANK = {kind: number for number, kind in enumerate(definitions.STATEMENTS)}
NOT_KEPT = {
    "name": "owners, privileges, comments, tablespaces, storage settings, publications, names of NOT NULL constraints",
    "reason": "they belong to the server, not to the data",
}


class Item(NamedTuple):
    """A line of definitions.OBJECTS."""

    id: Id
    kind: str | None
    relation: Id
    schema: str | None
    name: str
    inherited: bool
    trusted: bool

    @property
    def rank(self) -> tuple[int, str]:
        return RANK.get(self.kind or "", 0), self.name


class Schema(NamedTuple):
    """The SQL, the OIDs of the sequences whose values belong to it, and what is not made, by its id and by its name."""

    sql: SchemaSql
    tables: list[Table]  # all but the refused
    refused: list[dict[str, str]]  # tables that cannot be made, with the reason
    sequences: set[int]
    not_made: set[Id]
    not_backed_up: list[dict[str, str]]


async def statements(connection: Connection, schemas: Sequence[str], tables: Sequence[Table], whole: bool) -> Schema:
    """For these tables and all that they need; if `whole`, for what else is in the schemas too.

    Equal schemas give equal statements, and nearly the same order of them.
    """
    graph = await _read(connection, tables)
    refused: dict[str, str] = {}
    while unmade := graph.unmade():  # what needs these is refused in the next round
        refused |= unmade
        tables = [table for table in tables if table.name not in refused]
        graph = await _read(connection, tables)
    roots = sorted((item for item in graph.items.values() if graph.is_root(item, schemas, whole)), key=lambda i: i.rank)
    for item in roots:
        if item.kind in BEFORE_ROWS:
            graph.put(item)
    before = len(graph.order)
    for item in roots:
        graph.put(item)
    made = await _written(connection, graph)
    missed = sorted(
        (item.name, reason.removeprefix("which "))
        for item in graph.items.values()
        if (reason := graph.why_not(item)) and (item in roots or graph.is_missed(item, schemas, whole))
    )
    sql = SchemaSql(before_rows=SESSION + _flat(made[:before]), after_rows=SESSION + _flat(made[before:]))
    not_made = {item.id for item in graph.items.values() if graph.why_not(item)}
    named = _named([*missed, *graph.cycles])
    return Schema(sql, [*tables], _named(refused.items()), graph.sequences(), not_made, [*named, NOT_KEPT])


def _named(reasons: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "reason": reason} for name, reason in reasons]


@dataclass(frozen=True)
class Graph:
    """The items of a database, what each needs, and the order in which they were put."""

    items: dict[Id, Item]
    needed: dict[Id, set[Id]]
    wholes: dict[Id, Id]
    taken: dict[Id, Table]  # the tables that are backed up, and their partitions
    order: dict[Id, Item] = field(default_factory=dict)
    cycles: list[tuple[str, str]] = field(default_factory=list)
    _reasons: dict[Id, str | None] = field(default_factory=dict)
    _under_way: set[Id] = field(default_factory=set)

    def needs(self, item: Item) -> list[Item]:
        """In the order of their making."""
        found, seen, left = [], {item.id}, [item.id]
        while left:
            for each in self.needed[left.pop()] - seen:
                seen.add(each)
                if each in self.items:
                    found.append(self.items[each])
                else:
                    left.append(each)
        return sorted(found, key=lambda each: each.rank)

    def is_root(self, item: Item, schemas: Sequence[str], whole: bool) -> bool:
        if item.kind is None:
            return False
        if item.kind == "schema":
            return item.schema in schemas
        if item.relation in self.taken:
            return not self._comes_with_a_parent(item)
        if item.kind == "table":
            return item.id in self.taken
        if item.kind == "extension":
            return whole and item.trusted  # of another we know only that some object needs it
        if item.kind == "cast":  # an expression may use it without a word in pg_depend
            return any(needed.schema in schemas for needed in self.needs(item))
        on = self.items.get(item.relation, item)
        return whole and on.schema in schemas and on.kind != "table"

    def is_missed(self, item: Item, schemas: Sequence[str], whole: bool) -> bool:
        """Foreign tables and materialised views are named where tables are."""
        if item.kind is not None:
            return False
        if item.relation in self.taken:
            return True
        return whole and item.id[0] != "pg_class" and (item.schema is None or item.schema in schemas)

    def _comes_with_a_parent(self, item: Item) -> bool:
        if item.kind == "index attachment":  # to an index of a table that is not backed up
            return any(each.relation not in self.taken for each in self.needs(item) if each.relation[1])
        return item.inherited and bool(
            (self.needed["table inheritance", item.relation[1]] - {item.relation}) & self.taken.keys()
        )

    def why_not(self, item: Item) -> str | None:
        """Why it cannot be made."""
        if item.id not in self._reasons:
            self._reasons[item.id] = None  # what needs itself is not refused for that
            self._reasons[item.id] = self._refusal(item)
        return self._reasons[item.id]

    def _refusal(self, item: Item) -> str | None:
        if item.kind == "table" and item.id not in self.taken:
            return "which is not backed up"
        if item.kind is None:
            return "which is invalid" if item.relation[1] else "which this release cannot make"
        for needed in self.needs(item):
            if needed.kind != "generated" and (reason := self.why_not(needed)):
                return f"which needs {needed.name}, {reason}"
        return None

    def unmade(self) -> dict[str, str]:
        """The tables that cannot be made, and why: a column's type, say. One that lacks an expression is made."""
        return {
            table.name: reason.removeprefix("which ")
            for each, table in self.taken.items()
            if each in self.items and (reason := self.why_not(self.items[each]))
        }

    def put(self, item: Item) -> None:
        """Into the order, behind all that it needs."""
        if item.id in self.order or self.why_not(item):
            return
        if item.id in self._under_way:
            self.cycles.append((item.name, "it is needed by what it needs itself: no order is surely right"))
            return
        self._under_way.add(item.id)
        for needed in self.needs(item):
            self.put(needed)
        self.order[item.id] = item

    def sequences(self) -> set[int]:
        own = {item.id[1] for item in self.order.values() if item.kind == "sequence"}
        return own | {
            oid for (catalogue, oid), whole in self.wholes.items() if catalogue == "pg_class" and whole in self.taken
        }


async def _read(connection: Connection, tables: Sequence[Table]) -> Graph:
    names = [[table.schema for table in tables], [table.relation for table in tables]]
    found = await connection.fetch(definitions.TAKEN, *names)
    taken = {("pg_class", each["oid"]): tables[each["number"]] for each in found}
    items = {item.id: item for item in map(_item, await connection.fetch(definitions.OBJECTS))}
    parts = await connection.fetch(definitions.PARTS)
    wholes = {(each["class"], each["oid"]): (each["whole_class"], each["whole"]) for each in parts}
    needed: dict[Id, set[Id]] = defaultdict(set)
    for each in await connection.fetch(definitions.NEEDS):
        one, other = (each["class"], each["oid"]), (each["needed_class"], each["needed"])
        needed[wholes.get(one, one)].add(wholes.get(other, other))
    for item in items.values():
        if item.relation[1]:
            needed[item.id].add(item.relation)
        if item.kind == "generated":  # with the table, and so before it
            needed[item.id].discard(item.relation)
            needed[item.relation].add(item.id)
    return Graph(items, needed, wholes, taken)


def _item(found: "asyncpg.Record") -> Item:
    kind = f"{found['kind']} of " if " " in found["class"] else ""
    return Item(
        (found["class"], found["oid"]),
        found["kind"],
        ("pg_class", found["relation"]),
        found["schema"],
        f"{kind}{found['type']} {found['identity']}",
        found["inherited"],
        found["trusted"],
    )


async def _written(connection: Connection, graph: Graph) -> list[list[str]]:
    """The statements of each item."""
    oids: dict[str, list[int]] = defaultdict(list)
    for item in graph.order.values():
        assert item.kind is not None  # the others are refused
        oids[item.kind].append(item.id[1])
    plain = [item.id[1] for item in graph.items.values() if item.kind == "generated" and graph.why_not(item)]
    known = {"trigger": [oid for _, oid in graph.taken], "table": plain}
    found: dict[tuple[str | None, int], list[str]] = {}
    for kind, those in oids.items():
        more = [known[kind]] if kind in known else []
        for oid, lines in await connection.fetch(definitions.STATEMENTS[kind], those, *more):
            found[kind, oid] = [f"{line};" for line in lines]
    return [found[item.kind, item.id[1]] for item in graph.order.values()]


def _flat(lists: Iterable[list[str]]) -> list[str]:
    return [line for each in lists for line in each]
