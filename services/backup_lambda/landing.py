"""Where the rows of a table land before they go into it: a temporary table, and the statements between the two.

All names are quoted. Keys are compared as the primary key's index does it, and other values as text: types such as json
have no equality, and of others two may be equal and not the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backup_lambda.catalogue import Connection, Table, qualified, quoted
from backup_lambda.errors import RestoreRefused
from backup_lambda.manifest import TableEntry
from backup_lambda.schemas import Change, FieldChange, TableRestored

SHOWN = 100  # rows
SHOWN_CHARACTERS = 200  # of a value
# The operator by which the index of the primary key knows equal values; strategy 3 of a B-tree is equality.
KEY = """
select a.attname as name,
    format('operator(%I.%s)', coalesce(n.nspname, 'pg_catalog'), coalesce(o.oprname, '=')) as equals
from pg_index i
cross join unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality as k (attnum, opclass, position)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
join pg_opclass c on c.oid = k.opclass join pg_am m on m.oid = c.opcmethod
left join pg_amop p on m.amname = 'btree' and p.amopfamily = c.opcfamily and p.amopstrategy = 3
    and p.amoplefttype = c.opcintype and p.amoprighttype = c.opcintype
left join pg_operator o on o.oid = p.amopopr left join pg_namespace n on n.oid = o.oprnamespace
where i.indrelid = $1::text::regclass and i.indisprimary order by k.position
"""
COMPOSITE = """
select attname as name from pg_attribute a join pg_type t on t.oid = atttypid left join pg_type e on e.oid = t.typelem
where attrelid = $1::text::regclass and attnum > 0 and not attisdropped and 'c' in (t.typtype, e.typtype)
order by attnum
"""
# Those that belong to a column, and those that its default takes values of.
SEQUENCES = """
with columns as (
    select attrelid, attnum from pg_attribute where attrelid = $1::text::regclass and attname = $2
), found as (
    select objid as id from columns join pg_depend on refclassid = 'pg_class'::regclass and refobjid = attrelid
        and refobjsubid = attnum and classid = 'pg_class'::regclass and deptype in ('a', 'i')
    union
    select refobjid from columns join pg_attrdef as d on adrelid = attrelid and adnum = attnum
        join pg_depend on classid = 'pg_attrdef'::regclass and objid = d.oid and refclassid = 'pg_class'::regclass
)
select id, id::regclass::text as name, has_sequence_privilege(id, 'update') as movable,
    has_sequence_privilege(id, 'select') and has_schema_privilege(relnamespace, 'usage') as readable
from found join pg_class on oid = id where relkind = 'S' order by name
"""
# As far as the values of a column have come, of those that its sequence can reach.
FURTHEST = """
select seqincrement > 0 as rises, case when seqincrement > 0
    then (select max({column}) from {source} where {column} between seqmin and seqmax)
    else (select min({column}) from {source} where {column} between seqmin and seqmax) end::int8 as value
from pg_sequence where seqrelid = $1
"""
COUNTING = ("smallint", "integer", "bigint", "numeric")  # types of columns that sequences number


@dataclass(frozen=True)
class Landing:
    """`key` are the columns of the primary key, with the operators that compare them; `columns` all that are filled."""

    name: str
    table: Table
    columns: Sequence[str]
    key: Sequence[tuple[str, str]]

    @property
    def source(self) -> str:
        return self.table.source

    @property
    def make(self) -> str:
        """With the types of the live table, and none of its constraints."""
        columns = ", ".join(f"t.{quoted(name)}" for name in self.columns)
        rows = f"select {columns} from {self.source} as t with no data"  # noqa: S608  # quoted
        return f"create temporary table {self.name} on commit drop as {rows}"

    @property
    def count(self) -> str:
        return f"select count(*) from {self.name}"  # noqa: S608  # quoted

    @property
    def analyse(self) -> str:
        """Nothing else would tell the planner how many rows there are."""
        return f"analyze {self.name}"

    async def compare(self, connection: Connection, told: TableRestored) -> None:
        """How many rows are to be added, have other values (`left`, for now), or are the same; and the first ones."""
        [found] = await connection.fetch(f"""
            select count(*) filter (where {self._absent}) as added,
                count(*) filter (where not ({self._absent}) and ({self._differs})) as differing, count(*) as all
            {self._side_by_side}
        """)  # quoted
        told.added, told.left = found["added"], found["differing"]
        told.same = found["all"] - told.added - told.left
        told.changes = [self._change(each) for each in await connection.fetch(self._changes)]
        for each in await connection.fetch(COMPOSITE, qualified(self.table.schema, self.table.relation)):
            told.drift.append(
                f"column {each['name']} is of a composite type: its parts were matched by their names of now"
            )

    async def write(self, connection: Connection, told: TableRestored, *, overwrite: bool) -> None:
        """Raises RestoreRefused where a trigger or a rule lets through fewer rows than there are."""
        table = qualified(self.table.schema, self.table.relation)
        written = 0
        if overwrite and told.left:
            written = await self._overwrite(connection, told)
        if told.added:
            columns = ", ".join(map(quoted, self.columns))
            values = ", ".join(f"s.{quoted(name)}" for name in self.columns)
            order = ", ".join(f"s.{quoted(name)}" for name, _ in self.key)
            tag = await connection.execute(f"""
                insert into {table} ({columns}) overriding system value select {values} from {self.name} as s
                where not exists (select from {self.source} as l where {self._same_key}) order by {order}
            """)  # noqa: S608  # quoted
            written += _count(tag)
        if written != told.added + told.changed:
            raise RestoreRefused(
                f"{self.table.name}: of {told.added + told.changed:,} rows {written:,} were written, because a trigger"
                " or a rule lets no more through. Nothing was restored"
            )

    async def _overwrite(self, connection: Connection, told: TableRestored) -> int:
        """How many rows PostgreSQL says that it updated. Those that differ in what nobody may set stay in `left`."""
        differs = _any_differs(self._settable)
        query = f"select count(*) {self._side_by_side} where not ({self._absent}) and ({differs})"  # quoted
        told.changed = await connection.fetchval(query)
        told.left -= told.changed
        if told.left:
            fixed = ", ".join(name for name in self._others if name not in self._settable)
            told.drift.append(
                f"{told.left:,} rows differ only in what nobody may set, and were left as they are: {fixed}"
            )
        if not told.changed:
            return 0
        values = ", ".join(f"{quoted(name)} = s.{quoted(name)}" for name in self._settable)
        tag = await connection.execute(f"""
            update {self.source} as l set {values} from {self.name} as s where {self._same_key} and ({differs})
        """)  # noqa: S608  # quoted
        return _count(tag)

    async def look_again(self, connection: Connection, told: TableRestored) -> None:
        """How many of the rows that were written are not what they were to be."""
        query = f"select count(*) {self._side_by_side} where {self._absent} or {self._differs}"  # quoted
        others: int = await connection.fetchval(query) - told.left
        if others > 0:
            told.altered = others
            told.drift.append(
                f"{others:,} of the rows that were written are not as in the backup: triggers changed them, or they"
                " have an identity that nobody may set"
            )

    async def move_sequences(self, connection: Connection, told: TableRestored) -> None:
        """Forward, where the next value would be taken. The tables are locked, so that nobody inserts one now.

        Those that cannot be understood, or that the role may not move, are named.

        No rollback takes that back: all else is done by then.
        """
        table = qualified(self.table.schema, self.table.relation)
        columns = {column["name"]: column for column in self.table.catalogue["columns"]}
        for name in self.columns:
            counts = columns[name]["type"].partition("(")[0] in COUNTING
            found = await connection.fetch(SEQUENCES, table, name)
            stay = [each["name"] for each in found if not (counts and await self._move(connection, name, each))]
            if not found and "nextval(" in (columns[name]["default"] or ""):
                stay = ["in its default"]
            for which in stay:
                told.drift.append(f"the sequence of column {name}, {which}, was not moved: look where it stands")

    async def _move(self, connection: Connection, name: str, sequence: Any) -> bool:
        """False where it may be behind the column, and the role cannot move it."""
        if not sequence["readable"]:
            return False
        query = FURTHEST.format(column=quoted(name), source=self.source)
        [(rises, value)] = await connection.fetch(query, sequence["id"])
        # Others may take a value meanwhile, where a sequence is not this table's alone: it never goes back.
        sign = "<" if rises else ">"
        behind = f"from {sequence['name']} where last_value {sign} $1::int8 or last_value = $1 and not is_called"
        if sequence["movable"]:
            await connection.fetch(f"select setval($2::oid, $1, true) {behind}", value, sequence["id"])
            return True
        return not await connection.fetchval(f"select exists (select {behind})", value)

    @property
    def _side_by_side(self) -> str:
        return f"from {self.name} as s left join {self.source} as l on {self._same_key}"

    @property
    def _same_key(self) -> str:
        return " and ".join(f"l.{quoted(name)} {equals} s.{quoted(name)}" for name, equals in self.key)

    @property
    def _absent(self) -> str:
        return f"l.{quoted(self.key[0][0])} is null"

    @property
    def _others(self) -> list[str]:
        """All but the key."""
        keys = {name for name, _ in self.key}
        return [name for name in self.columns if name not in keys]

    @property
    def _settable(self) -> list[str]:
        """Those that may be overwritten: PostgreSQL lets nobody set some identities but in a new row."""
        fixed = {column["name"] for column in self.table.catalogue["columns"] if column["identity"] == "a"}
        return [name for name in self._others if name not in fixed]

    @property
    def _differs(self) -> str:
        return _any_differs(self._others)

    @property
    def _changes(self) -> str:
        """Rows with other values first: they are what somebody has to decide upon."""
        ways = {column["name"]: column["written_as"] for column in self.table.catalogue["columns"]}

        def texts(side: str) -> str:
            shown = (f"left({_json(side, name, ways[name])}::text, {SHOWN_CHARACTERS})" for name in self._others)
            return ", ".join(shown)

        key = ", ".join(f"{_json('s', name, ways[name])} #>> '{{}}'" for name, _ in self.key)
        differing = ", ".join(map(_differ, self._others))
        order = ", ".join(f"s.{quoted(name)}" for name, _ in self.key)
        return f"""
            select {self._absent} as added, array[{key}] as key, array[{differing}]::bool[] as differing,
                array[{texts("l")}]::text[] as before, array[{texts("s")}]::text[] as after
            {self._side_by_side} where {self._absent} or {self._differs}
            order by {self._absent}, {order} limit {SHOWN}
        """  # quoted

    def _change(self, found: Any) -> Change:
        if found["added"]:
            return Change(action="added", key=found["key"])
        values = zip(self._others, found["differing"], found["before"], found["after"], strict=True)
        fields = {name: FieldChange(before=one, after=other) for name, differs, one, other in values if differs}
        return Change(action="changed", key=found["key"], fields=fields)


async def of(connection: Connection, number: int, entry: TableEntry, live: Table, columns: Sequence[str]) -> Landing:
    """The one with this number in the transaction."""
    found = await connection.fetch(KEY, qualified(live.schema, live.relation))
    key = [(each["name"], each["equals"]) for each in found]
    return Landing(f"pg_temp.{quoted(f'holdfast_{number}')}", live, columns, key)


def _any_differs(names: Sequence[str]) -> str:
    return " or ".join(map(_differ, names)) or "false"


def _differ(name: str) -> str:
    one, other = (f'{side}.{quoted(name)}::text collate pg_catalog."C"' for side in "ls")
    return f"{one} is distinct from {other}"


def _json(side: str, name: str, way: str) -> str:
    """As a backup has it; JSON null where there is no value."""
    value = f"{side}.{quoted(name)}" + ("::text" if way == "text" else "")
    return f"coalesce(to_json({value}), 'null'::json)"


def _count(tag: str) -> int:
    return int(tag.rsplit(maxsplit=1)[-1])
