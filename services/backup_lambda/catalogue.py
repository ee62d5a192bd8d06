"""What PostgreSQL's catalogue says of the tables to back up."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import asyncpg

from backup_lambda.errors import BackupFailed

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

KINDS_WITHOUT_ROWS_OF_THEIR_OWN = {
    "f": "a foreign table: its rows are on another server",
    "m": "a materialised view: refresh it after a restore",
}

# What JSON cannot carry: a reader takes JSON null for SQL NULL, and an array for one whose bounds begin at 1.
# An expression is slow, and most arrays have one dimension.
_BOUNDS = r"array_lower({0}, 1) <> 1 or array_ndims({0}) > 1 and array_dims({0}) !~ '^(\[1:[0-9]+\])+$'"
LOST = {"jsonb": "jsonb_typeof({0}) = 'null'", "array": _BOUNDS}

# `torn` are the partitioned tables with a partition on another server, which no snapshot of ours holds still.
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
), torn (oid, part) as (
    select c.oid, min(format('%I.%I', pn.nspname, p.relname) collate "C")
    from pg_class c cross join pg_partition_tree(c.oid) as tree join pg_class p on p.oid = tree.relid
    join pg_namespace pn on pn.oid = p.relnamespace
    where c.relkind = 'p' and p.relkind = 'f' group by c.oid
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
    exists (select from pg_depend
            where classid = 'pg_class'::regclass and objid = c.oid and deptype = 'e') as of_extension,
    (select part from torn where torn.oid = c.oid) as foreign_part,
    (select json_agg(json_build_object(
        'name', a.attname,
        'type', format_type(a.atttypid, a.atttypmod),
        'collation', (select quote_ident(cn.nspname) || '.' || quote_ident(l.collname)
                      from pg_collation l join pg_namespace cn on cn.oid = l.collnamespace
                      where l.oid = a.attcollation),
        'nullable', not a.attnotnull,
        'default', pg_get_expr(d.adbin, d.adrelid), 'id', json_build_array('pg_attrdef', d.oid::int8),
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
    -- NOT NULL has constraints of its own since PostgreSQL 18, and `nullable` says it. A foreign key to a partitioned
    -- table has one more for each partition.
    (select json_agg(json_build_object(
        'id', json_build_array('pg_constraint', k.oid::int8),
        'name', k.conname, 'definition', pg_get_constraintdef(k.oid)
     ) order by k.conname collate "C")
     from pg_constraint k left join pg_constraint above on above.oid = k.conparentid
     where k.conrelid = c.oid and k.contype not in ('n', 't') and above.conrelid is distinct from c.oid) as constraints,
    -- What a failed CREATE INDEX CONCURRENTLY left is no index. That of a partitioned table may wait for its parts'.
    (select json_agg(json_build_object('definition', definition,
        'id', coalesce((select json_build_array('pg_constraint', oid::int8) from pg_constraint
                        where conindid = i.indexrelid and contype in ('p', 'u', 'x')),
                       json_build_array('pg_class', i.indexrelid::int8))
     ) order by definition collate "C")
     from pg_index i join pg_class ic on ic.oid = i.indexrelid cross join pg_get_indexdef(i.indexrelid) as definition
     where i.indrelid = c.oid and (i.indisvalid or ic.relkind = 'I')) as indexes,
    (select json_agg(json_build_object(
        'id', json_build_array('pg_trigger', oid::int8), 'definition', pg_get_triggerdef(oid), 'enabled', tgenabled
     ) order by tgname collate "C")
     from pg_trigger where tgrelid = c.oid and not tgisinternal) as triggers,
    (select json_agg(json_build_object(
        'id', json_build_array('pg_rewrite', oid::int8), 'definition', pg_get_ruledef(oid), 'enabled', ev_enabled
     ) order by rulename collate "C")
     from pg_rewrite where ev_class = c.oid) as rules,
    (select json_agg(json_build_object(
        'id', json_build_array('pg_policy', y.oid::int8), 'name', polname, 'permissive', p.permissive, 'command', cmd,
        'roles', roles, 'using', qual, 'with_check', with_check
     ) order by polname collate "C")
     from pg_policy y join pg_policies p on (p.schemaname, p.tablename, p.policyname) = (n.nspname, c.relname, polname)
     where polrelid = c.oid) as policies,
    (select json_agg(json_build_object(
        'name', pn.nspname || '.' || p.relname, 'bound', pg_get_expr(p.relpartbound, p.oid)
     ) order by pn.nspname collate "C", p.relname collate "C")
     from pg_partition_tree(c.oid) as tree join pg_class p on p.oid = tree.relid
     join pg_namespace pn on pn.oid = p.relnamespace where tree.level > 0) as partitions,
    (select json_agg(json_build_object(
        'id', json_build_array('table inheritance', c.oid::int8), 'name', pn.nspname || '.' || p.relname
     ) order by inhseqno)
     from pg_inherits join pg_class p on p.oid = inhparent join pg_namespace pn on pn.oid = p.relnamespace
     where inhrelid = c.oid and not c.relispartition) as inherits,
    pg_get_partkeydef(c.oid) as partition_key,
    c.relpersistence = 'u' as unlogged,
    c.relrowsecurity as row_security,
    c.relforcerowsecurity as row_security_forced,
    c.relreplident::text as replica_identity
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relnamespace = any ($1::text[]::regnamespace[]) and c.relkind in ('r', 'p', 'f', 'm')
  -- A partition's rows are among those of an ancestor, if that one is backed up. Of a torn table each is one by itself.
  and not exists (
    select from pg_partition_ancestors(c.oid) as ancestor join pg_class p on p.oid = ancestor.relid
    where p.oid <> c.oid and p.relnamespace = any ($1::text[]::regnamespace[])
      and p.oid not in (select oid from torn))
order by n.nspname collate "C", c.relname collate "C"
"""
PARTS = ("columns", "constraints", "indexes", "triggers", "rules", "policies", "inherits")  # each with its `id`
FACTS = ("partition_key", "unlogged", "row_security", "row_security_forced", "replica_identity")

# What a database must have in common with another for its rows to mean and to sort the same.
DATABASE = """
select datname as name, current_setting('server_version') as server_version,
    (select system_identifier::text from pg_control_system()) as system_identifier,
    pg_encoding_to_char(encoding) as encoding,
    case datlocprovider when 'b' then 'builtin' when 'i' then 'icu' else 'libc' end as locale_provider,
    datcollate as collate, datctype as ctype, datlocale as locale, daticurules as icu_rules
from pg_database where datname = current_database()
"""

SEQUENCES = """
select n.nspname || '.' || c.relname as name, n.nspname as schema, c.relname as relation,
    format_type(seqtypid, null) as data_type, seqstart as start, seqincrement as increment, seqmin as min,
    seqmax as max, seqcache as cache, seqcycle as cycle
from pg_sequence join pg_class c on c.oid = seqrelid join pg_namespace n on n.oid = c.relnamespace
where seqrelid = any ($1) order by n.nspname collate "C", c.relname collate "C"
"""

SNAPSHOT = """
select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end::text as lsn,
    pg_snapshot_xmin(pg_current_snapshot())::text as xmin, clock_timestamp() as taken_at
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

    def without(self, not_made: Collection[tuple[str, int]]) -> "Table":
        """The same, as it is where these objects are not made, and without what is known here only."""
        kept = self.catalogue | {
            part: [
                {name: value for name, value in each.items() if name != "id"}
                for each in self.catalogue[part]
                if part == "columns" or tuple(each["id"]) not in not_made
            ]
            for part in PARTS
        }
        for column, each in zip(kept["columns"], self.catalogue["columns"], strict=True):
            if tuple(each["id"]) in not_made:
                column["default"] = column["generated"] = None
        return replace(self, catalogue=kept)

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.relation}"

    @property
    def source(self) -> str:
        """For a FROM clause. A child by inheritance is a table of its own."""
        return f"{'' if self.partitioned else 'only '}{qualified(self.schema, self.relation)}"

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
        """The number of rows, and whether JSON would lose something of each lossy column."""
        lost = [f"bool_or({condition})" for condition in self.lossy.values()]
        return f"select {', '.join(['count(*)', *lost])} from {self.source} as t"  # noqa: S608  # every name is quoted

    @property
    def hash_query(self) -> str:
        """A digest that depends on neither JSON nor order."""
        return f"select coalesce(sum(hashtextextended((t.*)::text, 0)::numeric), 0)::text from {self.source} as t"  # noqa: S608  # every name is quoted


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str, relation: str) -> str:
    return f"{quoted(schema)}.{quoted(relation)}"


@dataclass(frozen=True)
class Selection:
    """Which tables are backed up: by settings, patterns of `schema.table` with `*`; and by request, their names."""

    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    asked: Sequence[str] | None = None  # None asks for all

    def refusal(self, name: str) -> str | None:
        """Why the table is not taken."""
        if not any(_matches(pattern, name) for pattern in self.include):
            return "not among HOLDFAST_INCLUDE_TABLES"
        if any(_matches(pattern, name) for pattern in self.exclude):
            return "excluded by HOLDFAST_EXCLUDE_TABLES"
        return "not asked for" if self.asked is not None and name not in self.asked else None


EVERYTHING = Selection()


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None


async def relations(
    connection: Connection, schemas: Sequence[str], selection: Selection
) -> tuple[list[Table], list[dict[str, str]]]:
    """The tables to back up, by name, and what else holds rows and is not backed up, with the reason.

    Whether the role may read them is not asked: reading one that it may not is an error, skipping it were a lie.
    Raises BackupFailed when a table was asked for that is not there, or not taken.
    """
    tables, others = [], {}
    for found in await connection.fetch(RELATIONS, [quoted(schema) for schema in schemas]):
        name = f"{found['schema']}.{found['name']}"
        if reason := _refusal(found) or selection.refusal(name):
            others[name] = reason
        else:
            tables.append(_table(found))
    names = {table.name for table in tables}
    for name in selection.asked or ():
        if name not in names:
            raise BackupFailed(f"{name} was asked for, and is no table to back up: {others.get(name, 'there is none')}")
    return tables, [{"name": name, "reason": reason} for name, reason in others.items()]


def _refusal(found: "asyncpg.Record") -> str | None:
    if found["of_extension"]:
        return "its extension makes it, and its rows"
    if part := found["foreign_part"]:
        return f"a partition of it, {part}, is a foreign table: its rows are on another server"
    return KINDS_WITHOUT_ROWS_OF_THEIR_OWN.get(found["kind"])


def _table(found: "asyncpg.Record") -> Table:
    kept: dict[str, Any] = {part: json.loads(found[part] or "[]") for part in (*PARTS, "partitions")}
    kept |= {part: found[part] for part in FACTS}
    lossy = {}
    for column in kept["columns"]:
        if condition := LOST.get(column["written_as"]):
            lossy[column["name"]] = condition.format(f"t.{quoted(column['name'])}")
            column["written_as"] = "json"
    key = tuple(json.loads(found["primary_key"] or "[]"))
    return Table(found["schema"], found["name"], found["kind"] == "p", key, kept, lossy)


async def sequences(connection: Connection, oids: Collection[int]) -> list[dict[str, Any]]:
    """What these sequences are, and how far they are. One that was never used, or was set back, is not `is_called`."""
    found = [dict(each) for each in await connection.fetch(SEQUENCES, list(oids))]
    for each in found:
        name = qualified(each["schema"], each["relation"])
        value = await connection.fetchrow(f"select last_value, is_called from {name}")  # noqa: S608  # quoted
        assert value is not None
        each |= dict(value)
    return found
