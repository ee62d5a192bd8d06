"""What differs between two backups, or a backup and the database: as two dictionaries would say."""

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from backup_lambda import diff
from backup_lambda.app import create_app
from backup_lambda.catalogue import Table
from backup_lambda.errors import InvalidRequest, NotComparable
from backup_lambda.functions import answer_of, answered
from backup_lambda.pages import Cursor
from backup_lambda.present import Enough, Present
from backup_lambda.schemas import Diff
from backup_lambda.snapshot import Counted, Snapshot
from backup_lambda.tasks import DiffTask, Question
from backup_lambda.worker import Worker
from tests.backup_lambda.keyed import Tables, expected, small_blocks
from tests.backup_lambda.test_api import FIRST, assert_problem
from tests.backup_lambda.test_rows import SEVERAL_BLOCKS, backed_up, damage, encoded
from tests.backup_lambda.world import Connection, World, a_long_time, utc_now, worker_for
from tests.servers import Cluster


@pytest.fixture
def storing(world: World, cluster: Cluster, database: str) -> Worker:
    """It only stores."""
    return worker_for(world, cluster.url("notes_backup", database))


async def all_pages(page: Callable[[str | None], Awaitable[Diff]]) -> list[Diff]:
    pages, cursor = list[Diff](), None
    while not pages or pages[-1].next:
        pages.append(await page(cursor))
        told = pages[-1]
        if told.next:
            start, _, cursor = told.next.rpartition("/")
            assert start == f"backups/{told.before}/diff/{told.after}/after"
    return pages


def changes(pages: list[Diff]) -> dict[str, dict[str, tuple[str, Any]]]:
    """What they tell, by table and key."""
    found: dict[str, dict[str, tuple[str, Any]]] = {}
    for page in pages:
        assert page.added + page.removed + page.changed == sum(len(table.changes) for table in page.tables)
        for table in page.tables:
            for each in table.changes:
                of_table, key = found.setdefault(table.name, {}), json.dumps(each.key)
                assert key not in of_table, "told twice"
                of_table[key] = (each.action, each.model_dump()["fields"])
    return found


@pytest.mark.parametrize(("seed", "pages"), [(2, "small"), (3, "of little memory")])
async def test_a_diff_is_the_comparison_of_two_dictionaries(
    world: World, storing: Worker, owner: Connection, monkeypatch: pytest.MonkeyPatch, seed: int, pages: str
) -> None:
    """Of tables with keys of many types; with the database as it is now, too."""
    small_blocks(monkeypatch)
    if pages == "small":
        monkeypatch.setattr("backup_lambda.pages.MOST_CHANGES", 37)
        monkeypatch.setattr("backup_lambda.pages.MOST_READ_BYTES", 4000)
    elif pages == "of little memory":
        monkeypatch.setattr("backup_lambda.differing.MOST_KEPT_BYTES", 2500)
    tables = Tables(owner, seed)
    await tables.make()
    before, old = await backed_up(world, storing), await tables.rows()
    await tables.change()
    new = await tables.rows()
    with_now = await all_pages(lambda cursor: diff.page_with_now(storing.means, before, cursor))
    after = await backed_up(world, storing)
    stored = await all_pages(lambda cursor: diff.page(world.store, before, after, cursor, utc_now))
    back = await all_pages(lambda cursor: diff.page(world.store, after, before, cursor, utc_now))
    for found, wanted in ((stored, expected(old, new)), (with_now, expected(old, new)), (back, expected(new, old))):
        reasons = {table.name: table.comparable for page in found for table in page.tables if table.comparable}
        if pages == "of little memory":
            assert reasons.keys() <= {f"notes.{name}" for name in tables.unordered}
            assert all("whose order only PostgreSQL knows" in str(reason) for reason in reasons.values())
        else:
            assert reasons == {}
        told = changes(found)
        assert {name: told.get(name) for name in wanted} == {
            name: each if name not in reasons else told.get(name) for name, each in wanted.items()
        }
        assert told.keys() <= wanted.keys()
    assert min(len(stored), len(with_now)) > 5 if pages == "small" else len(stored) == 1 < len(with_now)


async def test_a_diff_reads_little_of_what_is_equal(
    api: httpx.AsyncClient, world: World, storing: Worker, owner: Connection
) -> None:
    """Though a row that is inserted moves all that follow."""
    await owner.execute(SEVERAL_BLOCKS)
    before = await backed_up(world, storing)
    await owner.execute("""
        insert into notes.many values (15, 'new'); delete from notes.many where id = 30000;
        update notes.many set body = repeat('ö', 300) where id = 59990
    """)
    after = await backed_up(world, storing)
    answer = await api.get(f"/backups/{before}/diff/{after}")
    assert answer.status_code == 200
    told = answer.json()
    [table] = told.pop("tables")
    changed = table.pop("changes")
    assert [(each["action"], each["key"]) for each in changed] == [
        ("added", ["15"]),
        ("removed", ["30000"]),
        ("changed", ["59990"]),
    ]
    fields = changed[2]["fields"]
    assert fields.keys() == {"body"}
    assert fields["body"]["after"] == '"' + 198 * "ö" + "…"
    blocks, differ = table.pop("blocks"), table.pop("blocks_differ")
    assert 0 < differ <= 3 < blocks
    entry = (await world.read_json(f"backups/{after}/manifest.json"))["tables"][0]
    assert 0 < told.pop("bytes_read") < 2 * entry["stored_bytes"] * (differ + 1) / blocks
    counts = {"added": 1, "removed": 1, "changed": 1}
    nothing: dict[str, Any] = {"columns_added": [], "columns_removed": [], "comparable": None}
    assert table == {"name": "notes.many", "rows_before": 6000, "rows_after": 6000} | counts | nothing
    assert told == {"before": before, "after": after, "next": None} | counts
    for one, other in ((before, before), (after, after)):
        same = (await api.get(f"/backups/{one}/diff/{other}")).json()
        assert (same["tables"], same["next"], same["bytes_read"]) == ([], None, 0)


async def test_a_diff_across_a_change_of_the_schema(world: World, storing: Worker, owner: Connection) -> None:
    """Columns are named; a row that has only them other than before is no change."""
    await owner.execute("""
        create table notes.a (id int primary key, kept text, gone int, tags int[]);
        insert into notes.a select n, 'k' || n, n, array[n] from generate_series(1, 50) n;
        create table notes.b (id int primary key, other int unique not null); insert into notes.b values (1, 2);
        create table notes.c (id int primary key); insert into notes.c values (1);
        create table notes.keyless (a int); insert into notes.keyless values (1), (1), (2);
        create table notes.dropped (id int primary key); insert into notes.dropped values (1), (2);
        create table notes.same (id int primary key); insert into notes.same values (1)
    """)
    before = await backed_up(world, storing)
    await owner.execute("""
        alter table notes.a drop gone, add added text not null default 'x';
        update notes.a set kept = 'other' where id = 7; update notes.a set added = 'y' where id = 8;
        update notes.a set tags = '[0:0]={1}' where id = 9;
        alter table notes.b drop constraint b_pkey, add primary key (other); insert into notes.b values (2, 3);
        alter table notes.c alter id type text; insert into notes.c values ('x');
        insert into notes.keyless values (1);
        drop table notes.dropped; create table notes.created (id int primary key); insert into notes.created values (1)
    """)
    after = await backed_up(world, storing)
    for told in (
        await diff.page(world.store, before, after, None, utc_now),
        await diff.page_with_now(storing.means, before, None),
    ):
        where = told.after
        by_name = {table.name.removeprefix("notes."): table for table in told.tables}
        assert by_name.keys() == {"a", "b", "c", "keyless", "dropped", "created"}
        a = by_name["a"]
        assert (a.columns_added, a.columns_removed) == (
            ["tags (written as text)", "added"],
            ["gone", "tags (written as json)"],
        )
        [change] = a.changes
        assert change.key == ["7"]
        assert {name: (each.before, each.after) for name, each in change.fields.items()} == {
            "kept": ('"k7"', '"other"'),
            "gone": ("7", None),
            "tags": ("[7]", '"{7}"'),
            "added": (None, '"x"'),
        }
        assert by_name["b"].comparable == "it has another primary key: (id) before, (other) after"
        assert by_name["c"].comparable == "its primary key has other types: integer before, text after"
        assert by_name["keyless"].comparable == "it has no primary key"
        keyless = by_name["keyless"]
        assert (keyless.rows_before, keyless.rows_after, keyless.blocks_differ) == (3, 4, 1)
        dropped, created = by_name["dropped"], by_name["created"]
        assert (dropped.comparable, dropped.removed, dropped.rows_after) == (f"only {before} has it", 2, None)
        assert (created.comparable, created.added, created.rows_before) == (f"only {where} has it", 1, None)
        assert (told.added, told.removed, told.changed, told.next) == (1, 2, 1, None)


async def test_a_table_that_was_not_to_be_in_a_backup_is_not_missed(
    api: httpx.AsyncClient, world: World, cluster: Cluster, database: str, owner: Connection
) -> None:
    url = cluster.url("notes_backup", database)
    await owner.execute("create table notes.x (id int primary key); insert into notes.x values (1)")
    await owner.execute("create table notes.y (id int primary key); insert into notes.y values (1)")
    every = await backed_up(world, worker_for(world, url))
    asked = (await api.post("/backups", json={"tables": ["x"]})).json()["id"]
    await worker_for(world, url).back_up(asked, a_long_time)
    excluding = await backed_up(world, worker_for(world, url, exclude_tables=["notes.x"]))
    assert (await diff.page(world.store, every, asked, None, utc_now)).tables == []
    assert (await diff.page_with_now(worker_for(world, url).means, asked, None)).tables == []
    [left_out] = (await diff.page(world.store, every, excluding, None, utc_now)).tables
    assert (left_out.name, left_out.removed) == ("notes.x", 0)
    assert left_out.comparable == f"{excluding} does not have it: excluded by HOLDFAST_EXCLUDE_TABLES"


async def test_a_damaged_block_is_named_and_other_tables_are_told(
    world: World, storing: Worker, owner: Connection
) -> None:
    await owner.execute(SEVERAL_BLOCKS)
    await owner.execute("create table notes.z (id int primary key)")
    before = await backed_up(world, storing)
    await owner.execute(
        "update notes.many set body = 'x' where id in (10, 30000, 60000); insert into notes.z values (1)"
    )
    after = await backed_up(world, storing)
    await damage(world, before, "notes.many", key=30000)
    told = await diff.page(world.store, before, after, None, utc_now)
    many, z = told.tables
    assert f"notes.many in the backup {before} is not what was stored: the block at " in str(many.comparable)
    assert (z.comparable, z.added) == (None, 1)


async def test_what_cannot_be_compared_is_refused(
    api: httpx.AsyncClient, world: World, storing: Worker, owner: Connection
) -> None:
    await owner.execute("create table notes.x (id int primary key); insert into notes.x values (1)")
    there = await backed_up(world, storing)
    waiting, expired = await world.wish(), await backed_up(world, storing)
    await world.write(f"backups/{expired}/expired.json", {})
    for other, status, kind in [
        (waiting, 409, "backup-not-ready"),
        (expired, 410, "backup-expired"),
        (FIRST, 404, "backup-not-found"),
        ("nothing", 404, "backup-not-found"),
    ]:
        for path in (f"/backups/{there}/diff/{other}", f"/backups/{other}/diff/{there}"):
            assert_problem(await api.get(path), status, kind)
    another = await backed_up(world, storing)
    for cursor in ("x", "%00", encoded(1), *map(text, [{"table": "notes.nothing"}, {"key": ["1"]}, {"table": 7}])):
        answer = await api.get(f"/backups/{there}/diff/{another}/after/{cursor}")
        assert "no cursor" in assert_problem(answer, 422, "invalid-request")["detail"]
    await owner.execute("insert into notes.x values (2)")
    later = await backed_up(world, storing)
    keys: list[list[object]] = [["x"], ["1", "2"], [None], [[]]]
    for key in keys:
        bad = text({"table": "notes.x", "key": key})
        assert_problem(await api.get(f"/backups/{there}/diff/{later}/after/{bad}"), 422, "invalid-request")
        with pytest.raises(InvalidRequest):
            await diff.page_with_now(storing.means, there, bad)


def text(cursor: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode().rstrip("=")


async def test_now_is_asked_of_the_worker(world: World, storing: Worker, owner: Connection) -> None:
    """Its errors come through as what they are."""
    await owner.execute(SEVERAL_BLOCKS)
    before = await backed_up(world, storing)
    await owner.execute("update notes.many set body = 'x' where id > 30000")

    async def ask(question: Question) -> bytes:
        assert isinstance(question, DiffTask)
        return answer_of(await answered(diff.page_with_now(storing.means, question.backup_id, question.cursor)))

    app = create_app(world.store, world.topic, world.start_worker, ask=ask)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as api:
        path, keys = f"backups/{before}/diff/now", list[str]()
        while path:
            answer = await api.get(f"/{path}")
            assert answer.status_code == 200, answer.text
            keys += [each["key"][0] for table in answer.json()["tables"] for each in table["changes"]]
            path = answer.json()["next"]
        assert keys == [str(number) for number in range(30010, 60001, 10)]
        assert_problem(await api.get(f"/backups/{FIRST}/diff/now"), 404, "backup-not-found")


async def test_a_table_that_takes_too_long_is_refused(
    world: World, storing: Worker, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await owner.execute("create table notes.x (id int primary key); insert into notes.x values (1)")
    before = await backed_up(world, storing)
    monkeypatch.setattr("backup_lambda.diff.COPY_SECONDS", 0)
    with pytest.raises(NotComparable, match=r"notes\.x is too large .* make a backup"):
        await diff.page_with_now(storing.means, before, None)


async def test_what_takes_too_long_does_not_hide_the_tables_behind_it(
    world: World, storing: Worker, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x", "y", "z"):
        await owner.execute(f"create table notes.{name} (id int primary key); insert into notes.{name} values (1)")  # noqa: S608  # our own
    before = await backed_up(world, storing)
    await owner.execute("create table notes.new (id int primary key); insert into notes.y values (2)")

    async def walked(*slow: int) -> list[tuple[str, bool]]:
        """The tables told, and whether each was too large, where these pages have no time."""
        seen = 0

        async def page(cursor: str | None) -> Diff:
            nonlocal seen
            seen += 1
            monkeypatch.setattr("backup_lambda.diff.COPY_SECONDS", 0 if seen in slow else 60)
            return await diff.page_with_now(storing.means, before, cursor)

        told = [table for each in await all_pages(page) for table in each.tables]
        large = [table for table in told if "make a backup" in str(table.comparable)]
        assert {table.rows_after for table in large} <= {None}
        return [(table.name, table in large) for table in told]

    new, x, y, z = "notes.new", "notes.x", "notes.y", "notes.z"
    assert await walked() == [(new, False), (y, False)]
    assert await walked(1) == [(new, True), (y, False)]
    assert await walked(1, 2, 3, 4) == [(new, True), (x, True), (y, True), (z, True)]


async def test_what_was_counted_is_not_counted_again(
    world: World, storing: Worker, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the pages behind, of which the first has all its time for the rows."""
    await owner.execute("create table notes.x (id int primary key, tags int[]); insert into notes.x values (1)")
    before = await backed_up(world, storing)
    await owner.execute("update notes.x set tags = '[0:0]={1}'")
    counts, count = list[str](), Snapshot.count

    async def counted(source: Snapshot, table: Table) -> Counted:
        counts.append(table.name)
        return await count(source, table)

    monkeypatch.setattr(Snapshot, "count", counted)
    start = Cursor(table="notes.x", rows=7, as_text=["tags"]).text()
    [table] = (await diff.page_with_now(storing.means, before, start)).tables
    assert (table.rows_after, table.columns_added, counts) == (7, ["tags (written as text)"], [])
    with monkeypatch.context() as patched:

        async def no_time_left(*_: object) -> None:
            raise Enough

        patched.setattr(Present, "read", no_time_left)
        first = await diff.page_with_now(storing.means, before, None)
    assert (first.tables, counts) == ([], ["notes.x"])
    assert first.next
    [table] = (await diff.page_with_now(storing.means, before, first.next.rpartition("/")[2])).tables
    assert (table.rows_after, table.columns_added, counts) == (1, ["tags (written as text)"], ["notes.x"])


async def test_an_answer_stays_small(world: World, storing: Worker, owner: Connection) -> None:
    """Whatever the rows hold: a function's answer has 6 MB at most, as ASCII and with escapes."""
    columns = ", ".join(f"c{n} text" for n in range(60))
    await owner.execute(f"create table notes.wide (id int primary key, {columns})")
    values = ", ".join(["repeat('雪\"', 150)"] * 60)
    await owner.execute(f"insert into notes.wide select n, {values} from generate_series(1, 100) n")  # noqa: S608  # our own
    before = await backed_up(world, storing)
    await owner.execute("update notes.wide set " + ", ".join(f"c{n} = 'é' || c{n}" for n in range(60)))  # noqa: S608  # our own
    after = await backed_up(world, storing)
    pages = await all_pages(lambda cursor: diff.page(world.store, before, after, cursor, utc_now))
    assert len(changes(pages)["notes.wide"]) == 100
    assert 1 < len(pages) < 30
    assert max(len(json.dumps(page.model_dump_json())) for page in pages) < 5_000_000
