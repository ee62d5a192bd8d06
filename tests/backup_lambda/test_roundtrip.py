"""What is stored comes back exactly, as PostgreSQL's own pg_dump sees it, and the proof says so, and only then."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from backup_lambda.catalogue import quoted
from tests.backup_lambda.drill import Drill
from tests.backup_lambda.faulty import ForgetsAColumn, SkipsARow, a
from tests.backup_lambda.world import Connection, World
from tests.servers import Cluster

EVERYTHING = Path(__file__).with_name("everything.sql").read_text()


@pytest.fixture
def drill(world: World, cluster: Cluster, database: str) -> Drill:
    return Drill(world, cluster, database)


async def test_everything_comes_back(drill: Drill, owner: Connection) -> None:
    await owner.execute(EVERYTHING)
    manifest = await drill.backup()
    evidence = await drill.prove(manifest)
    assert evidence.differences == []
    assert (evidence.rows, evidence.bytes) == (
        sum(t.rows for t in manifest.tables),
        sum(t.bytes for t in manifest.tables),
    )
    assert await drill.differences(manifest) == ([], [])


async def test_a_row_of_100_megabytes_comes_back(drill: Drill, owner: Connection) -> None:
    """The text is one of those that JSON makes longer."""
    await owner.execute(r"""
        create table notes.large (id int primary key, t text);
        insert into notes.large values (1, 'small'), (2, repeat(E'\t"é\\', 13200000)), (3, null)
    """)
    manifest = await drill.backup()
    [entry] = manifest.tables
    assert entry.bytes > 100 * 1024 * 1024
    assert (await drill.prove(manifest)).differences == []


# Tables and rows of every kind, as SQL. Each type has its own awkward values.
CHARACTERS = st.characters(exclude_characters="\x00", exclude_categories=["Cs"])
NAMES = st.text(CHARACTERS, max_size=10)
INTEGERS = st.integers(-(2**31), 2**31 - 1)
TIMES = ["infinity", "-infinity", "4713-01-01 BC", "294276-12-31 23:59:59.999999Z", "2000-01-01 00:00:00.000001Z"]
VALUES = {
    "int": INTEGERS.map(str),
    "numeric": st.decimals(allow_nan=False).map(str) | st.just("NaN"),
    "float8": st.floats().map(repr),
    "text": st.text(CHARACTERS, max_size=8),
    "bytea": st.binary(max_size=8).map(lambda value: rf"\x{value.hex()}"),
    "boolean": st.sampled_from(["t", "f"]),
    "timestamptz": st.sampled_from(TIMES),
    "interval": INTEGERS.map(lambda days: f"7 months {days} days -1.5 seconds"),
    "json": st.sampled_from(["null", '{"a":\n1, "a": 2}', "[1e400]", '"\\u0041"', " 1 "]),
    "jsonb": st.sampled_from(["null", '{"a": null}', "[null]", "1e400", '"x"', "[]"]),
    "int[]": st.sampled_from(["{}", "{1,NULL}", "[2:3]={7,8}", "{{1,2},{3,4}}", "[0:0][5:6]={{1,2}}"]),
    "text[]": st.sampled_from(["{}", '{"a,b",NULL,"NULL","\\""}', "[-1:0]={a,b}"]),
    "jsonb[]": st.sampled_from(["{}", '{null,"null",1}']),
    "int4range": st.sampled_from(["empty", "[1,5)", "(,)", "[7,)"]),
    "int4multirange": st.sampled_from(["{}", "{[1,3),[5,)}", "{(,)}"]),
    "notes.score": st.integers(0, 100).map(str),
    "notes.mood": st.sampled_from(["sad", 'it"s ok', "glad"]),
    "notes.moods": st.sampled_from(["{sad}", "[3:3]={glad}", '{NULL,"it\\"s ok"}']),
    "notes.pair": st.sampled_from(["(1,a)", "(,)", '(2,"[null]")']),
    "notes.pair[]": st.sampled_from(["{}", '{"(1,a)",NULL}', '[4:4]={"(,)"}']),
}
TYPES = """
create type notes.mood as enum ('sad', 'it"s ok', 'glad'); create domain notes.moods as notes.mood[];
create type notes.pair as (n int, doc text); create domain notes.score as int default 9 check (value <= 100)
"""
READER = """
create schema notes; grant usage on schema notes to notes_backup;
alter default privileges in schema notes grant select on tables to notes_backup;
alter default privileges in schema notes grant select on sequences to notes_backup
"""


@st.composite
def databases(draw: st.DrawFn) -> str:
    """The SQL of two or three tables with their rows: the second refers to the first."""
    first, second, third = (f"notes.{quoted(f't{number}{draw(NAMES)}')}" for number in range(3))
    keys, refers = draw(st.sampled_from([("number", "of_number"), ("number, part", "of_number, of_part")]))
    parts = f"""partition by hash (number);
        create table notes.even partition of {first} for values with (modulus 2, remainder 0);
        create table notes.odd partition of {first} for values with (modulus 2, remainder 1)"""
    also = ["number int generated always as identity", "part int default 7", f"primary key ({keys})"]
    rows = draw(st.integers(1, 4))
    sql = [draw(tables(first, rows, also, {}, draw(st.sampled_from(["", parts]))))]
    rule = draw(st.sampled_from(["", "on delete cascade", "deferrable initially deferred"]))
    also = ["place serial", "word text", "of_number int", "of_part int default 7", "score notes.score default 8"]
    also += ["check (place > 0)", "primary key (place, word)", f"foreign key ({refers}) references {first} {rule}"]
    given = {"word": VALUES["text"], "of_number": st.none() | st.integers(1, rows).map(str)}
    sql.append(draw(tables(second, draw(st.integers(0, 4)), also, given)))
    if draw(st.booleans()):
        sql.append(draw(tables(third, draw(st.integers(0, 4)))))
    return ";\n".join(sql)


Values: TypeAlias = st.SearchStrategy[str] | st.SearchStrategy[str | None]


@st.composite
def tables(
    draw: st.DrawFn, table: str, rows: int, also: Sequence[str] = (), given: Mapping[str, Values] = {}, end: str = ""
) -> str:
    """The SQL of a table of random columns, `also` others, of which some are `given` values, and of its rows."""
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=5))
    names = [quoted(f"{number}{draw(NAMES)}") for number in range(len(kinds))]
    columns = [f"{name} {kind}" for name, kind in zip(names, kinds, strict=True)]
    made = draw(st.sampled_from(["", "stored", "virtual"]))
    if made and names and not kinds[0].startswith("notes."):  # types of one's own cannot be in virtual columns
        columns.append(f"made boolean generated always as ({names[0]} is null) {made}")
    values: dict[str, Values] = {name: st.none() | VALUES[kind] for name, kind in zip(names, kinds, strict=True)}
    values |= given
    sql = [f"create table {table} ({', '.join([*columns, *also])}) {end}"]
    for _ in range(rows):
        row = ", ".join(literal(draw(value)) for value in values.values())
        named = f"({', '.join(values)}) values ({row})" if values else "default values"
        sql.append(f"insert into {table} {named}")  # all of it is quoted
    return ";\n".join(sql)


def literal(value: str | None) -> str:
    return "null" if value is None else "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


# Shrinking would take longer than a test may.
@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(databases(), st.sampled_from([True, False, False, False]))
async def test_random_tables_come_back_and_a_fault_is_found(
    drill: Drill, owner: Connection, database: str, looked_at: bool
) -> None:
    await owner.execute(f"drop schema notes cascade; {READER}; {TYPES}")
    await owner.execute(database)
    manifest = await drill.backup()
    assert (await drill.prove(manifest)).differences == []
    for fault in (SkipsARow, ForgetsAColumn):
        assert (await drill.prove(await drill.backup(lie=a(fault)))).differences != [], fault
    if looked_at:  # pg_dump starts slowly
        assert await drill.differences(manifest) == ([], [])
