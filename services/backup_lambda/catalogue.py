"""What PostgreSQL's catalogue says of the tables to back up."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import asyncpg

KINDS_WITHOUT_ROWS_OF_THEIR_OWN = {
    "f": "a foreign table: its rows are on another server",
    "m": "a materialised view: refresh it after a restore",
}

# What JSON cannot carry: a reader takes JSON null for SQL NULL, and an array for one whose bounds begin at 1.
LOST = {"jsonb": "jsonb_typeof({0}) = 'null'", "array": r"array_dims({0}) !~ '^(\[1:[0-9]+\])+$'"}

# `part` pairs each type of a column with the types it is made of, and tells those inside it from those that it is
# itself, under a domain or not. `way` says how a type's values are written:
# - text: as PostgreSQL's own text. json text may hold raw newlines at any depth, and a row must be one line. A type
#   with a cast to json is changed by it: hstore's gives an object, which hstore does not read.
# - jsonb or array: as JSON unless a value is LOST; as text where such a one is inside, where nobody looks for it.
# A column with parts of several ways is written in the last of them by name, which is text.
RELATIONS = """
with recursive part (whole, type, inside) as (
    select distinct a.atttypid, a.atttypid, false
    from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.relnamespace = any ($1::text[]::regnamespace[]) and a.attnum > 0 and not a.attisdropped
  union
    select part.whole, next.type, part.inside or next.inside
    from part join pg_type t on t.oid = part.type
    cross join lateral (
        select t.typbasetype, false union all select t.typelem, true
        union all select a.atttypid, true from pg_attribute a
        where a.attrelid = t.typrelid and t.typrelid <> 0 and a.attnum > 0 and not a.attisdropped
    ) as next (type, inside)
    where next.type <> 0
), special (whole, way) as (
    select part.whole, case
        when t.oid = 'json'::regtype
          or exists (select from pg_cast where castsource = t.oid and casttarget = 'json'::regtype and castfunc <> 0)
            then 'text'
        when t.oid = 'jsonb'::regtype then case when inside then 'text' else 'jsonb' end
        when t.typsubscript = 'array_subscript_handler'::regproc then case when inside then 'text' else 'array' end
    end
    from part join pg_type t on t.oid = part.type
)
select n.nspname as schema, c.relname as name, c.relkind::text as kind,
    (select json_agg(json_build_object(
        'name', a.attname,
        'type', format_type(a.atttypid, a.atttypmod),
        'collation', (select quote_ident(cn.nspname) || '.' || quote_ident(l.collname)
                      from pg_collation l join pg_namespace cn on cn.oid = l.collnamespace
                      where l.oid = a.attcollation),
        'nullable', not a.attnotnull,
        'default', pg_get_expr(d.adbin, d.adrelid),
        'identity', nullif(a.attidentity::text, ''),
        'generated', nullif(a.attgenerated::text, ''),
        'written_as', coalesce((select max(way) from special where whole = a.atttypid), 'json')
     ) order by a.attnum)
     from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
     where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns,
    (select json_agg(a.attname order by k.position)
     from pg_constraint p cross join unnest(p.conkey) with ordinality as k (attnum, position)
     join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
     where p.conrelid = c.oid and p.contype = 'p') as primary_key,
    (select json_agg(json_build_object('name', conname, 'definition', pg_get_constraintdef(oid)) order by conname)
     from pg_constraint where conrelid = c.oid) as constraints,
    (select json_agg(pg_get_indexdef(indexrelid) order by indexrelid::regclass::text)
     from pg_index where indrelid = c.oid) as indexes,
    (select json_agg(pg_get_triggerdef(oid) order by tgname)
     from pg_trigger where tgrelid = c.oid and not tgisinternal) as triggers,
    (select json_agg(to_json(p) order by policyname)
     from pg_policies p where p.schemaname = n.nspname and p.tablename = c.relname) as policies
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relnamespace = any ($1::text[]::regnamespace[]) and c.relkind in ('r', 'p', 'f', 'm')
  -- A partition's rows are among those of an ancestor, if that one is backed up.
  and not exists (
    select from pg_partition_ancestors(c.oid) as ancestor join pg_class p on p.oid = ancestor.relid
    where p.oid <> c.oid and p.relnamespace = any ($1::text[]::regnamespace[]))
order by n.nspname collate "C", c.relname collate "C"
"""

DATABASE = """
select current_database() as name, current_setting('server_version') as server_version,
    (select system_identifier::text from pg_control_system()) as system_identifier
"""

SNAPSHOT = """
select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end::text as lsn,
    pg_snapshot_xmin(pg_current_snapshot())::text as xmin, clock_timestamp() as taken_at
"""

SEQUENCES = """
select schemaname || '.' || sequencename as name, last_value,
    -- The value of a sequence that one may not read looks like that of one that was never used.
    has_sequence_privilege(format('%I.%I', schemaname, sequencename), 'select, usage') as readable
from pg_sequences
where schemaname = any ($1) order by schemaname collate "C", sequencename collate "C"
"""

LARGE_OBJECTS = "select count(*) from pg_largeobject_metadata"


@dataclass(frozen=True)
class Table:
    """A table whose rows are backed up; a partitioned one with the rows of its partitions."""

    schema: str
    relation: str
    partitioned: bool
    primary_key: tuple[str, ...]
    catalogue: dict[str, Any]
    lossy: Mapping[str, str]  # columns, and the condition under which JSON would lose one of their values

    def with_text(self, lost: Mapping[str, bool]) -> "Table":
        """The same, with the columns that JSON would lose something of written as text."""
        columns = [
            {**column, "written_as": "text"} if lost.get(column["name"]) else column
            for column in self.catalogue["columns"]
        ]
        return replace(self, catalogue={**self.catalogue, "columns": columns})

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.relation}"

    @property
    def source(self) -> str:
        """For a FROM clause. A child by inheritance is a table of its own."""
        return f"{'' if self.partitioned else 'only '}{quoted(self.schema)}.{quoted(self.relation)}"

    @property
    def rows_query(self) -> str:
        """One JSON text per row, in the order of the key, or of the text of the row where there is no key.

        `.*` because a plain alias would mean a column of that name, if there is one.
        """
        columns = {column["name"]: column for column in self.catalogue["columns"]}
        wanted = ", ".join(
            f"t.{quoted(name)}::text as {quoted(name)}" if column["written_as"] == "text" else f"t.{quoted(name)}"
            for name, column in columns.items()
        )
        order = [
            f"r.{quoted(name)}"
            + (' collate pg_catalog."C"' if columns[name]["collation"] or columns[name]["written_as"] == "text" else "")
            for name in self.primary_key
        ] or ['(r.*)::text collate pg_catalog."C"']
        return (
            f"select row_to_json(r.*) from (select {wanted} from {self.source} as t) as r order by {', '.join(order)}"  # noqa: S608  # every name is quoted
        )

    @property
    def count_query(self) -> str:
        """The number of rows; a digest that depends on neither JSON nor order; whether each lossy column loses."""
        hashes = "coalesce(sum(hashtextextended((t.*)::text, 0)::numeric), 0)::text"
        lost = [f"bool_or({condition})" for condition in self.lossy.values()]
        return f"select {', '.join(['count(*)', hashes, *lost])} from {self.source} as t"  # noqa: S608  # every name is quoted


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def relations(
    connection: "asyncpg.Connection[asyncpg.Record]", schemas: Sequence[str]
) -> tuple[list[Table], list[dict[str, str]]]:
    """The tables of these schemas, by name, and what else holds rows and is not backed up, with the reason.

    Whether the role may read them is not asked: reading one that it may not is an error, skipping it were a lie.
    """
    tables, others = [], []
    for found in await connection.fetch(RELATIONS, [quoted(schema) for schema in schemas]):
        if reason := KINDS_WITHOUT_ROWS_OF_THEIR_OWN.get(found["kind"]):
            others.append({"name": f"{found['schema']}.{found['name']}", "reason": reason})
            continue
        kept = {
            part: json.loads(found[part] or "[]")
            for part in ("columns", "constraints", "indexes", "triggers", "policies")
        }
        key = tuple(json.loads(found["primary_key"] or "[]"))
        lossy = {}
        for column in kept["columns"]:
            if condition := LOST.get(column["written_as"]):
                lossy[column["name"]] = condition.format(f"t.{quoted(column['name'])}")
                column["written_as"] = "json"
        tables.append(Table(found["schema"], found["name"], found["kind"] == "p", key, kept, lossy))
    return tables, others
