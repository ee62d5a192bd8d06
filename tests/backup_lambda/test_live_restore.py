"""Restores of rows into the live database."""

import asyncio
import json
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from backup_lambda import snapshot
from backup_lambda.live import committed
from backup_lambda.restores import Transaction
from backup_lambda.schemas import Restore
from backup_lambda.worker import Worker
from tests.backup_lambda.restored import make_example, restored, restoring, stored
from tests.backup_lambda.world import Connection, World, until
from tests.servers import Cluster


@pytest.fixture
def worker(world: World, cluster: Cluster, database: str) -> Worker:
    return restoring(world, cluster, database)


@pytest.fixture
async def live(owner: Connection, database: str) -> Connection:
    await make_example(owner, database)
    return owner


async def rows(live: Connection, table: str = "notes.notes") -> dict[str, str]:
    """Each row as PostgreSQL writes it."""
    found = await live.fetch(f"select ctid::text, t::text as row from {table} t")  # noqa: S608  # ours
    return {each["row"]: each["ctid"] for each in found}


def of(restore: Restore, table: str) -> dict[str, Any]:
    [found] = [each for each in restore.tables if each.name == table]
    return found.model_dump()


async def test_rows_come_back_as_they_were(worker: Worker, world: World, live: Connection) -> None:
    """Deleted ones, changed ones, and such that PostgreSQL's JSON cannot carry; triggers run, and sequences follow."""
    before, people = await rows(live), await rows(live, "notes.people")
    backup_id = await stored(worker, world)
    await live.execute(
        "delete from notes.notes where id <> 3; delete from notes.people where name = 'Ada';"
        "update notes.notes set body = 'spoilt', draft = '[2]', tags = '{1}', price = 5 where id = 3;"
        "insert into notes.notes (id, body) overriding system value values (9000, 'only here');"
        "select setval('notes.notes_id_seq', 1); truncate notes.feed"
    )
    gone = await rows(live)
    wanted = {"tables": [{"table": "notes.notes"}, {"table": "people"}], "on_conflict": "overwrite"}
    dry = await restored(worker, world, backup_id, **wanted, dry_run=True)
    assert dry.state == "completed", dry.reason
    assert await rows(live) == gone
    assert await live.fetchval("select count(*) from notes.feed") == 0
    done = await restored(worker, world, backup_id, **wanted)
    assert (done.state, done.reason) == ("completed", None)
    assert done.tables == dry.tables
    notes = of(done, "notes.notes")
    assert (notes["added"], notes["changed"], notes["left"], notes["same"]) == (2002, 1, 0, 0)
    assert notes["changes"][0] == {
        "action": "changed",
        "key": ["3"],
        "fields": {
            "body": {"before": '"spoilt"', "after": '"third"'},
            "draft": {"before": '"[2]"', "after": '"1"'},
            "tags": {"before": "[1]", "after": "null"},
            "price": {"before": "5", "after": "12345678901234567890.123456789"},
        },
    }
    assert notes["changes"][1] == {"action": "added", "key": ["1"], "fields": {}}
    assert len(notes["changes"]) == 100
    assert of(done, "notes.people") | {"changes": []} == {
        "name": "notes.people", "rows": 2, "added": 1, "altered": 0, "changed": 0, "left": 0, "same": 1, "changes": [],
        "drift": [], "damaged": [], "missing": [],
    }  # fmt: skip
    after = await rows(live)
    assert before.keys() < after.keys()
    assert len(after) == len(before) + 1, "what only the live database has stays"
    assert people.keys() == (await rows(live, "notes.people")).keys()
    assert await live.fetchval("select count(*) from notes.feed") == 2003, "triggers run"
    assert await live.fetchval("select nextval('notes.notes_id_seq')") == 9001
    again = await restored(worker, world, backup_id, **wanted)
    assert of(again, "notes.notes")["same"] == 2003
    assert await rows(live) == after, "what is the same is not written again"
    events = [json.loads(each["Message"]) for each in await world.notices()]
    [told] = [each for each in events if each["id"] == f"{done.id}.restore.completed"]
    assert "  notes.notes: 2,002 added, 1 overwritten\n" in told["data"]["text"]
    assert "spoilt" not in json.dumps(events)
    assert f"{dry.id}.restore.completed" not in {each["id"] for each in events}


class Obstacle(NamedTuple):
    """What stands in the way of one row, how it is done and undone, and what the restore says of it."""

    done: str
    undone: str
    reason: str
    table: str = "notes.notes"
    key: str | int = 1


OBSTACLES = [
    Obstacle(
        "alter table notes.notes rename to gone", "alter table notes.gone rename to notes",
        "notes.notes is not in the live database: restore the whole backup, and take it there",
    ),
    Obstacle(
        "alter table notes.notes drop constraint notes_pkey", "alter table notes.notes add primary key (id)",
        "notes.notes is not what it was: its primary key was id, and is none",
    ),
    Obstacle(
        "alter table notes.notes add must int not null default 0; alter table notes.notes alter must drop default",
        "alter table notes.notes drop must",
        "notes.notes is not what it was: column must is new; it must have a value, and has no default",
    ),
    Obstacle(
        "alter table notes.notes drop about; alter table notes.notes add about inet not null default '::';"
        "alter table notes.notes alter about drop default",
        "alter table notes.notes drop about; alter table notes.notes add about jsonb",
        "notes.notes is not what it was: column about was jsonb, and is inet: its values are left out; it must have a"
        " value, and has no default",
    ),
    Obstacle(
        "alter table notes.people enable row level security", "alter table notes.people disable row level security",
        "notes.people has row-level security, which holds for the role notes_restore, too: a superuser may"
        " `alter role notes_restore bypassrls`, or restore the whole backup and take the rows from there",
        "notes.people", "Ada",
    ),
    Obstacle(
        "insert into notes.notes (body, price) values ('in the way', 1.00)",
        "delete from notes.notes where body = 'in the way'",
        "another row has a value that must be unique: notes_price_key of notes.notes. Nothing was restored",
    ),
    Obstacle(
        "delete from notes.notes where owner = 'Ada'; delete from notes.people where name = 'Ada'",
        "insert into notes.people values ('Ada')",
        "a row refers to one that is not there, or is referred to: notes_owner_fkey of notes.notes. Nothing was"
        " restored",
    ),
    Obstacle(
        "alter table notes.notes add constraint other check (body <> 'first')",
        "alter table notes.notes drop constraint other",
        "a row breaks a check: other of notes.notes. Nothing was restored",
    ),
    Obstacle(
        "create function notes.angry() returns trigger language plpgsql as"
        " $$ begin raise exception 'I saw %', new.body; end $$;"
        "create trigger angry before insert on notes.notes for each row execute function notes.angry()",
        "drop function notes.angry cascade",
        "PostgreSQL: a function raised an error (P0001)",
    ),
    Obstacle(
        "create function notes.lost() returns trigger language plpgsql as $$ begin return lost; end $$;"
        "create trigger lost before insert on notes.notes for each row execute function notes.lost();"
        "create or replace function notes.lost() returns trigger language plpgsql as"
        " $$ begin perform from feed; return new; end $$",
        "drop function notes.lost cascade",
        "PostgreSQL: UndefinedTableError (42P01) in a function: a trigger's function names it without its schema;"
        " set search_path on that function",
    ),
    Obstacle(
        "create function notes.mute() returns trigger language plpgsql as $$ begin return null; end $$;"
        "create trigger mute before insert on notes.notes for each row execute function notes.mute()",
        "drop function notes.mute cascade",
        "notes.notes: of 1 rows 0 were written, because a trigger or a rule lets no more through. Nothing was restored",
    ),
    Obstacle(
        "revoke temporary on database {database} from public, notes_restore",
        "grant temporary on database {database} to notes_restore",
        'PostgreSQL: permission denied to create temporary tables in database "{database}"; the role of restores needs'
        " TEMPORARY on the database",
    ),
    Obstacle(
        "revoke insert on notes.notes from notes_restore", "grant insert on notes.notes to notes_restore",
        "PostgreSQL: permission denied for table notes",
    ),
]  # fmt: skip


async def test_what_stands_in_the_way_is_named_and_nothing_is_touched(
    worker: Worker, world: World, live: Connection, database: str
) -> None:
    backup_id = await stored(worker, world)
    await live.execute("delete from notes.notes where id = 1")
    for each in OBSTACLES:
        await live.execute(each.done.format(database=database))
        feed = await live.fetchval("select count(*) from notes.feed")
        for dry_run in (True, False) if "unique" in each.reason else (False,):
            wanted = {"tables": [{"table": each.table, "keys": [[each.key]]}], "dry_run": dry_run}
            restore = await restored(worker, world, backup_id, **wanted)
            assert (restore.state, restore.reason) == ("failed", each.reason.format(database=database))
        assert await live.fetchval("select count(*) from notes.feed") == feed
        await live.execute(each.undone.format(database=database))
        assert await live.fetchval("select count(*) from notes.notes where id = 1") == 0
    events = [json.loads(each["Message"]) for each in await world.notices()]
    failed = [each for each in events if each["type"] == "restore.failed"]
    assert len(failed) == len(OBSTACLES)
    assert "first" not in json.dumps(failed), "no value of a row is mailed"
    assert "Nothing was changed" in failed[0]["data"]["text"]


async def test_a_table_that_somebody_else_has_locked_is_not_waited_for_for_ever(
    worker: Worker, world: World, live: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(snapshot.SESSION, "lock_timeout", "100ms")
    backup_id = await stored(worker, world)
    async with live.transaction():
        await live.execute("delete from notes.notes where id = 1")
        restore = await restored(worker, world, backup_id, tables=[{"table": "notes", "keys": [[1]]}])
    assert (restore.state, restore.reason) == (
        "failed",
        "somebody else holds a lock on these tables or rows: ask again when that has ended",
    )


async def test_without_a_role_for_it_nothing_is_restored_into_the_live_database(
    worker: Worker, world: World, live: Connection
) -> None:
    backup_id = await stored(worker, world)
    without = replace(worker, means=replace(worker.means, restore_url=None))
    restore = await restored(without, world, backup_id, tables=[{"table": "notes"}])
    assert (restore.state, restore.reason) == (
        "failed",
        "nothing can be restored into the live database: HOLDFAST_RESTORE_DATABASE is not set",
    )


async def test_rows_with_other_values_are_named_left_or_overwritten(
    worker: Worker, world: World, live: Connection
) -> None:
    """Some keys are asked for: as numbers, as texts, twice, and such that no row has or can have."""
    backup_id = await stored(worker, world)
    await live.execute(
        "update notes.notes set body = 'other', about = '{}' where id = 2; delete from notes.notes where id in (1, 50)"
    )
    before = await rows(live)
    keys = [[1], ["2"], [2], [3], [777777], ["none"]]
    tables = [{"table": "notes.notes", "keys": keys}, {"table": "notes.people", "keys": [["Bob"]]}]

    async def told(**wanted: Any) -> tuple[Restore, dict[str, Any]]:
        restore = await restored(worker, world, backup_id, tables=tables, **wanted)
        return restore, of(restore, "notes.notes")

    restore, notes = await told()
    assert (restore.state, restore.reason) == (
        "failed",
        "rows are there with other values: 1 of notes.notes. Nothing was restored. Look at them, and say in"
        " `on_conflict` whether to `skip` or to `overwrite` them",
    )
    assert notes["changes"][0]["fields"] == {
        "body": {"before": '"other"', "after": '"second"'},
        "about": {"before": "{}", "after": "null"},
    }
    assert await rows(live) == before
    for dry_run in (True, False):
        restore, notes = await told(on_conflict="skip", dry_run=dry_run)
        assert (restore.state, notes["added"], notes["left"], notes["same"]) == ("completed", 1, 1, 1)
        assert notes["missing"] == [["none"], ["777777"]]
        assert restore.rows == 3
    assert await live.fetchval("select body from notes.notes where id = 2") == "other"
    restore, notes = await told(on_conflict="overwrite")
    assert (restore.state, notes["added"], notes["changed"], notes["same"]) == ("completed", 0, 1, 2)
    assert await live.fetchval("select about::text from notes.notes where id = 2") == "null"
    assert await live.fetchval("select count(*) from notes.notes where id = 50") == 0, "it was not asked for"
    restore, notes = await told()
    assert (restore.state, notes["same"]) == ("completed", 3), "no conflict: they are the same"


async def test_a_table_that_changed_since_is_mapped_where_that_is_safe(
    worker: Worker, world: World, live: Connection
) -> None:
    backup_id = await stored(worker, world)
    await live.execute("""
        delete from notes.notes where id in (1, 2);
        alter table notes.notes alter id type bigint, drop weight, drop price, add price text,
            add added text default 'default', add also int, alter title drop expression,
            alter about type text using 'about', alter owner type varchar(7),
            add twice int generated always as (1) stored;
        alter table notes.notes drop tags;
        alter table notes.notes add tags text generated always as ('computed') stored;
    """)
    dry = await restored(worker, world, backup_id, tables=[{"table": "notes"}], on_conflict="overwrite", dry_run=True)
    done = await restored(worker, world, backup_id, tables=[{"table": "notes"}], on_conflict="overwrite")
    assert (done.state, done.reason) == ("completed", None)
    assert done.tables == dry.tables
    notes = of(done, "notes.notes")
    assert (notes["added"], notes["changed"], notes["left"]) == (2, 0, 0)
    assert notes["drift"] == [
        "column id was integer, and is bigint: that takes its values",
        "column owner was text, and is character varying(7): its values are left out; new rows get its default",
        "column title was computed, and is not any more; new rows get its default",
        "column about was jsonb, and is text: its values are left out; new rows get its default",
        "column tags is computed now: its values are left out",
        "column weight is there no longer: its values are left out",
        "column price was numeric, and is text: its values are left out; new rows get its default",
        "column added is new; new rows get its default",
        "column also is new; new rows get its default",
    ]
    found = await live.fetchrow("select body, added, also, title, about, tags from notes.notes where id = 1")
    assert found is not None
    assert tuple(found) == ("first", "default", None, None, None, "computed")


async def test_tables_go_in_as_their_keys_want_it(worker: Worker, world: World, live: Connection) -> None:
    """Parents first, whatever they are called; a circle, where the constraint can wait; and a row that is its own."""
    await live.execute("""
        create table notes.a (id int primary key, b int);
        create table notes.b (id int primary key, a int references notes.a, up int references notes.b);
        create table notes.c (id int primary key, b int references notes.b);
        alter table notes.a add foreign key (b) references notes.b deferrable;
        create table notes.pairs (a text, b int, body text, primary key (b, a));
        grant select on all tables in schema notes to notes_backup;
        grant select, insert, update on all tables in schema notes to notes_restore;
        begin;
        set constraints all deferred;
        insert into notes.a values (1, 1), (2, null);
        insert into notes.b values (1, 1, 2), (2, 2, 1);
        insert into notes.c values (1, 1);
        insert into notes.pairs values ('x', 1, 'x1'), ('y', 1, 'y1'), ('x', 2, 'x2');
        commit;
    """)
    backup_id = await stored(worker, world)
    await live.execute("truncate notes.a, notes.b, notes.c, notes.pairs")
    restore = await restored(worker, world, backup_id, tables=[{"table": "notes.c"}, {"table": "notes.b"}])
    assert "notes.a" not in {each.name for each in restore.tables}
    assert restore.state == "failed"
    tables: list[dict[str, Any]] = [{"table": f"notes.{name}"} for name in "cba"]
    tables.append({"table": "notes.pairs", "keys": [[1, "y"], ["2", "x"]]})
    restore = await restored(worker, world, backup_id, tables=tables)
    assert (restore.state, restore.reason, restore.rows) == ("completed", None, 7)
    assert {*await rows(live, "notes.b")} == {"(1,1,2)", "(2,2,1)"}
    assert {*await rows(live, "notes.pairs")} == {"(y,1,y1)", "(x,2,x2)"}
    assert of(restore, "notes.pairs")["changes"][0]["key"] == ["1", "y"]


ODD = """
create type notes.addr as (street text, city text);
create sequence notes.loose;
create table notes.odd (
    id int primary key, code text default 'N' || nextval('notes.loose'), number int generated always as identity,
    home notes.addr, secret text, q text);
alter sequence notes.loose owned by notes.odd.code;
insert into notes.odd (id, home, secret)
select i, row('High Street', 'Rome')::notes.addr, 'my secret diary' from generate_series(1, 3) as i;
"""


async def test_what_cannot_be_quite_as_it_was_is_said(
    worker: Worker, world: World, owner: Connection, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    await make_example(owner, database, ODD)
    backup_id = await stored(worker, world)
    wanted = {"tables": [{"table": "odd"}], "on_conflict": "overwrite"}
    await owner.execute("delete from notes.odd where id < 3; insert into notes.odd (id) values (1)")
    done = await restored(worker, world, backup_id, **wanted)
    told = of(done, "notes.odd")
    assert (done.state, told["added"], told["changed"], told["altered"]) == ("completed", 1, 1, 1)
    assert done.reason == (
        "NOT complete: some rows of notes.odd are not as in the backup, though they were written: `drift` says why"
    )
    drift = "\n".join(told["drift"])
    for each in (
        "column home is of a composite type",
        "identity that nobody may set",
        "column code, notes.loose, was not",
    ):
        assert each in drift
    await owner.execute(
        "update notes.odd set secret = 'spoilt';"
        "create function notes.undo() returns trigger language plpgsql as"
        " $$ begin perform to_tsquery('english', new.secret); return old; end $$;"
        "create trigger undo before update on notes.odd for each row execute function notes.undo()"
    )
    caplog.clear()
    failed = await restored(worker, world, backup_id, **wanted)
    assert (failed.state, failed.reason) == ("failed", "PostgreSQL: PostgresSyntaxError (42601) in a function")
    assert "diary" not in caplog.text


async def test_a_role_whose_transactions_see_the_past_restores_what_is_missing_now(
    worker: Worker, world: World, live: Connection
) -> None:
    backup_id = await stored(worker, world)
    await live.execute("alter role notes_restore set default_transaction_isolation = 'repeatable read'")
    try:
        async with live.transaction():  # its lock is waited for, and what it does must be seen
            await live.execute("delete from notes.notes where id = 3")
            wanted = {"tables": [{"table": "notes"}], "on_conflict": "skip"}
            restoring = asyncio.create_task(restored(worker, world, backup_id, **wanted))

            async def waits() -> bool:
                query = "select exists (select from pg_locks where not granted and relation = 'notes.notes'::regclass)"
                return bool(await live.fetchval(query))

            await until(waits)
        done = await restoring
    finally:
        await live.execute("alter role notes_restore reset default_transaction_isolation")
    assert (done.state, of(done, "notes.notes")["added"]) == ("completed", 1)


async def test_a_transaction_that_a_crash_forgot_was_not_committed(worker: Worker, live: Connection) -> None:
    assert worker.means.restore_url
    system = await live.fetchval("select system_identifier::text from pg_control_system()")
    to_come = str(int(await live.fetchval("select pg_current_xact_id()::text")) + 1_000_000)
    forgotten = Transaction(xid=to_come, system_identifier=system)
    assert not await committed(await worker.means.restore_url(), forgotten)


NUMBERED = """
create sequence notes.shared;
create sequence notes.coded;
create sequence notes.down increment -1 maxvalue 100 minvalue -100 start 100;
create sequence notes.fixed;
create sequence notes.hidden;
create sequence notes.named;
create table notes.numbered (
    id int primary key default nextval('notes.shared'), down numeric default nextval('notes.down'),
    fixed int default nextval('notes.fixed'), hidden int default nextval('notes.hidden'),
    named int default nextval('notes.named'::text), code text default 'N' || nextval('notes.coded'),
    number int generated always as identity, body text);
insert into notes.numbered (body) select 'body ' || i from generate_series(1, 5) as i;
update notes.numbered set down = 1e30 where id = 5;
create table notes.lines (id int primary key, numbered int references notes.numbered on delete cascade);
create table notes.later (id int primary key, numbered int references notes.numbered on delete cascade);
insert into notes.lines select i, i from generate_series(1, 5) as i;
"""


async def test_sequences_follow_their_columns_or_are_named(
    worker: Worker, world: World, owner: Connection, database: str
) -> None:
    """Whether a column owns them or not; and tables whose rows went with those that came back are named."""
    await make_example(owner, database, NUMBERED)
    backup_id = await stored(worker, world)
    await owner.execute(
        "delete from notes.numbered where id > 1; drop table notes.later;"
        "create table notes.since (id int primary key, numbered int references notes.numbered);"
        "select setval('notes.shared', 1), setval('notes.down', 100), setval('notes.fixed', 1);"
        "revoke update on sequence notes.fixed from notes_restore;"
        "revoke all on sequence notes.hidden from notes_restore"
    )
    wanted = {"tables": [{"table": "numbered"}]}
    done = await restored(worker, world, backup_id, **wanted)
    told = of(done, "notes.numbered")
    assert (done.state, done.reason, told["added"], told["same"]) == ("completed", None, 4, 1)
    stayed = [f"the sequence of column {name} was not moved: look where it stands" for name in (
        "fixed, notes.fixed,", "hidden, notes.hidden,", "named, in its default,", "code, notes.coded,",
    )]  # fmt: skip
    assert told["drift"] == ["notes.lines refers to it: its rows were not restored", *stayed]
    row = await owner.fetchrow("insert into notes.numbered (body) values ('next') returning id, down")
    assert row is not None
    assert tuple(row) == (6, 96), "of what its sequence cannot reach none counts"
    await owner.execute("select setval('notes.shared', 50), setval('notes.fixed', 50)")
    done = await restored(worker, world, backup_id, **wanted)
    assert of(done, "notes.numbered")["drift"] == stayed[1:], "one that is not behind need not be moved"
    assert await owner.fetchval("select nextval('notes.shared')") == 51, "none goes back"
    both = [{"table": "numbered", "keys": [[2]]}, {"table": "lines"}]
    await owner.execute("delete from notes.numbered where id = 2")
    done = await restored(worker, world, backup_id, tables=both)
    assert (of(done, "notes.numbered")["added"], of(done, "notes.lines")["added"]) == (1, 4)
    assert "refers to it" not in "".join(of(done, "notes.numbered")["drift"])


async def test_what_nobody_may_set_differs_and_is_left(
    worker: Worker, world: World, owner: Connection, database: str
) -> None:
    await make_example(owner, database, NUMBERED)
    backup_id = await stored(worker, world)
    await owner.execute(
        "alter table notes.numbered alter number set generated by default;"
        "update notes.numbered set number = number + 100 where id in (1, 2);"
        "update notes.numbered set body = 'spoilt' where id in (2, 3);"
        "alter table notes.numbered alter number set generated always"
    )
    before = await rows(owner, "notes.numbered")
    wanted = {"tables": [{"table": "numbered", "keys": [[1], [2], [3], [4]]}]}
    failed = await restored(worker, world, backup_id, **wanted)
    told = of(failed, "notes.numbered")
    assert (failed.state, told["left"], told["same"]) == ("failed", 3, 1)
    assert told["changes"][0]["fields"] == {"number": {"before": "101", "after": "1"}}
    assert before == await rows(owner, "notes.numbered")
    done = await restored(worker, world, backup_id, **wanted, on_conflict="overwrite")
    told = of(done, "notes.numbered")
    assert [told[what] for what in ("added", "changed", "left", "same", "altered")] == [0, 2, 1, 1, 1]
    assert "1 rows differ only in what nobody may set, and were left as they are: number" in told["drift"]
    found = await owner.fetch("select number, body from notes.numbered order by id limit 3")
    assert [tuple(each) for each in found] == [(101, "body 1"), (102, "body 2"), (3, "body 3")]
    only = {"tables": [{"table": "numbered", "keys": [[1]]}], "on_conflict": "overwrite"}
    told = of(await restored(worker, world, backup_id, **only), "notes.numbered")
    assert (told["changed"], told["left"], told["altered"]) == (0, 1, 0)
