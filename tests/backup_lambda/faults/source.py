"""A database to be backed up: small, with a table of several blocks, and kinds of columns that JSON does not carry."""

import hashlib

from tests.backup_lambda.world import Connection

# Text with the entropy of hexadecimal digits: 1 kB a row, of which gzip leaves about 0.6 kB.
NOTES = """
create table notes.notes as
select i as id, (select string_agg(md5(i::text || j), '') from generate_series(1, 31) as j) as body
from generate_series(1, {rows}) as i;
alter table notes.notes add primary key (id)
"""
ROWS = 2_200
SOURCE = (
    NOTES.format(rows=ROWS)
    + """;
create type notes.mood as enum ('calm', 'hurried');
create table notes.oddities (
    id bigint generated always as identity primary key,
    mood notes.mood not null default 'calm',
    numbers int[],
    said jsonb,
    exact numeric,
    at timestamptz,
    note_id int references notes.notes (id),
    twice numeric generated always as (exact * 2) stored
);
insert into notes.oddities (mood, numbers, said, exact, at, note_id)
select (array['calm', 'hurried'])[1 + i % 2]::notes.mood,
    case when i % 3 = 0 then '[2:3]={7,8}' else '{7,8}' end::int[],
    case i % 4 when 0 then null when 1 then 'null' else '{"a": [1, 2.50]}' end::jsonb, 12345678901234567890.12 + i,
    '2026-11-22 02:00:00+00'::timestamptz + i * interval '1 second', i
from generate_series(1, 200) as i;
create table scheduler.runs (name text primary key, due_at timestamptz);
insert into scheduler.runs values ('nightly', 'infinity'), ('Ünïcode', '-infinity');
grant select on all tables in schema notes, scheduler to notes_backup;
grant select on all sequences in schema notes, scheduler to notes_backup
"""
)
TABLES = """
select schemaname || '.' || tablename from pg_tables where schemaname in ('notes', 'scheduler') order by 1
"""
# As PostgreSQL's own text where JSON would lose something: the bounds of an array, JSON null beside SQL NULL.
ODDITIES = "select id, mood, numbers::text, said::text, exact, at, note_id, twice from notes.oddities order by id"


async def digests(owner: Connection) -> dict[str, str]:
    """Of each table's rows as its file must have them, asked for in other words than Holdfast's."""
    found = {}
    async with owner.transaction():
        await owner.execute("set local timezone = 'UTC'")
        for (table,) in await owner.fetch(TABLES):
            rows = ODDITIES if table == "notes.oddities" else f"select * from {table} order by 1"  # noqa: S608
            lines = await owner.fetch(f"select row_to_json(t)::text from ({rows}) as t")  # noqa: S608
            text = "".join(f"{line}\n" for (line,) in lines)
            found[table] = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    return found
