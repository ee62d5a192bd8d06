"""What a row was in all backups: every distinct state, newest first, at a cost that follows their number."""

import json
from collections import Counter
from typing import Any

import httpx
import pytest

from backup_lambda import rows
from backup_lambda.worker import Worker
from tests.backup_lambda.keyed import Tables, small_blocks
from tests.backup_lambda.test_api import assert_problem
from tests.backup_lambda.test_rows import SEVERAL_BLOCKS, backed_up, damage, encoded, storing
from tests.backup_lambda.world import Connection, World, utc_now

__all__ = ["storing"]


def read_objects(world: World) -> Counter[str]:
    """Counts, from now on, the objects that are read: by the first part of their names in the backup."""
    counted: Counter[str] = Counter()

    def note(request: Any, **_: object) -> None:
        counted[request.url.split("/backups/")[1].partition("/")[2].partition("/")[0]] += 1

    world.s3.meta.events.register("before-send.s3.GetObject", note)
    return counted


async def test_every_state_is_told_with_the_backups_that_have_it(
    api: httpx.AsyncClient, world: World, storing: Worker, owner: Connection
) -> None:
    await owner.execute(SEVERAL_BLOCKS)
    ids = []
    for statement in (
        "",
        "insert into notes.many values (30001, 'first')",
        "update notes.many set body = 'other' where id = 10",
        "update notes.many set body = 'beside' where id = 30000",
        "update notes.many set body = 'second' where id = 30001",
        "delete from notes.many where id = 30001",
        "",
        "insert into notes.many values (30001, 'first')",
    ):
        await owner.execute(statement or "select")
        ids.append(await backed_up(world, storing))
    counted = read_objects(world)
    answer = await api.get("/rows/many/30001/history")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    first, second = {"id": 30001, "body": "first"}, {"id": 30001, "body": "second"}
    items = found.pop("items")
    assert [(each["row"], each["backup_id"], each["oldest_backup_id"], each["damaged"]) for each in items] == [
        (first, ids[7], ids[7], None),
        (None, ids[6], ids[5], None),
        (second, ids[4], ids[4], None),
        (first, ids[3], ids[1], None),
        (None, ids[0], ids[0], None),
    ]
    assert found == {"table": "notes.many", "key": ["30001"], "backups": 8}
    assert counted["index"] == 6, "there are pairs of backups that are the same"
    assert counted["data"] <= 6
    counted.clear()
    assert len((await api.get("/rows/many/59990/history")).json()["items"]) == 1
    assert (counted["index"], counted["data"], counted["manifest.json"]) == (6, 1, 2), "other blocks differ"
    for key in ("15", "x", encoded(1, 2)):
        assert_problem(await api.get(f"/rows/many/{key}/history"), 404, "row-not-found")
    for table in ("nothing", "notes.", "notes"):
        assert_problem(await api.get(f"/rows/{table}/1/history"), 404, "table-not-found")


async def test_a_history_goes_through_changes_of_the_schema(world: World, storing: Worker, owner: Connection) -> None:
    """The type of the key, its columns, another column: each backup is read by its own catalogue."""
    await owner.execute("""
        create table notes.x (id int primary key, n numeric);
        insert into notes.x select n, 1.50 from generate_series(1, 20) n
    """)
    ids = []
    for statement in (
        "",
        "alter table notes.x add b text not null default 'b'",
        "alter table notes.x alter id type text",
        "alter table notes.x drop constraint x_pkey",
        "alter table notes.x add primary key (id, b)",
        "alter table notes.x drop constraint x_pkey, add primary key (id)",
        "alter table notes.x alter id type numeric using id::numeric + 0.00",
    ):
        await owner.execute(statement or "select")
        ids.append(await backed_up(world, storing))
    found = await rows.history(world.store, "x", "10", utc_now)
    items = json.loads(found, parse_float=str)["items"]
    newest, text, whole = ({"id": each, "n": "1.50", "b": "b"} for each in ("10.00", "10", 10))
    assert [(each["row"], each["backup_id"], each["oldest_backup_id"]) for each in items] == [
        (newest, ids[6], ids[6]),
        (text, ids[5], ids[5]),
        (None, ids[4], ids[3]),  # without a key of one column there is no such row
        (text, ids[2], ids[2]),
        (whole, ids[1], ids[1]),
        ({"id": 10, "n": "1.50"}, ids[0], ids[0]),
    ]
    by_both = json.loads(await rows.history(world.store, "x", encoded("10", "b"), utc_now))
    assert [(each["row"] is None, each["backup_id"]) for each in by_both["items"]] == [
        (True, ids[6]), (False, ids[4]), (True, ids[3])
    ]  # fmt: skip


async def test_what_is_damaged_hides_nothing_else(
    api: httpx.AsyncClient, world: World, storing: Worker, owner: Connection
) -> None:
    await owner.execute(SEVERAL_BLOCKS)
    ids = []
    for number in range(5):
        await owner.execute(f"update notes.many set body = 'v{number}' where id = 30000")  # noqa: S608  # a number
        ids.append(await backed_up(world, storing))
    await damage(world, ids[1], "notes.many", key=30000)
    await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{ids[2]}/index/notes.many.json.gz", Body=b"x")
    await world.write(f"backups/{ids[3]}/expired.json", {})
    await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{ids[4]}/manifest.json", Body=b"{}")
    items = (await api.get("/rows/many/30000/history")).json()["items"]
    assert [(each["backup_id"], each["row"] and each["row"]["body"]) for each in items] == [
        (ids[4], None), (ids[2], None), (ids[1], None), (ids[0], "v0")
    ]  # fmt: skip
    assert [str(each["damaged"]).partition("Have")[0] for each in items] == [
        f"the manifest of {ids[4]} is not one that this release reads",
        f"notes.many in the backup {ids[2]} is not what was stored: its index is not the one that was stored. ",
        items[2]["damaged"].partition("Have")[0],
        "None",
    ]
    assert "the block at " in items[2]["damaged"]
    never = (await api.get("/rows/many/15/history")).json()["items"]
    assert [each["damaged"] is None for each in never] == [False, False, True], "it may have been there"


async def test_a_history_by_a_key_of_any_type(
    world: World, storing: Worker, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_blocks(monkeypatch)
    tables = Tables(owner, 5)
    await tables.make()
    states: list[Any] = []
    for _ in range(3):
        states.insert(0, await tables.rows())
        await backed_up(world, storing)
        await tables.change()
    for name in tables.keys:
        keys = sorted({key for state in states for key in state[name]})
        for key in tables.chance.sample(keys, 1):
            typed = [json.loads(value) if value.startswith("[") else value for value in json.loads(key)]
            texts = [state[name].get(key, ("null",))[0] for state in states]
            body = (await rows.history(world.store, name, encoded(*typed), utc_now)).decode()
            told = [text for number, text in enumerate(texts) if number == 0 or text != texts[number - 1]]
            position = 0
            for text in told:
                position = body.find(f'"row": {text}}}', position) + 1
                assert position, (name, key)
            assert len(json.loads(body)["items"]) == len(told), (name, key)


async def test_a_history_that_is_too_large_is_refused(
    api: httpx.AsyncClient, world: World, storing: Worker, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await owner.execute("create table notes.x (id int primary key, t text); insert into notes.x values (1, '')")
    for letter in "abc":
        await owner.execute(f"update notes.x set t = repeat('{letter}', 1000)")  # noqa: S608  # a letter
        await backed_up(world, storing)
    assert len((await api.get("/rows/x/1/history")).json()["items"]) == 3
    monkeypatch.setattr("backup_lambda.rows.ANSWER_BYTES", 2500)
    problem = assert_problem(await api.get("/rows/x/1/history"), 413, "row-too-large")
    assert "GET /backups/{id}/tables/{table}/rows/{key}" in problem["detail"]
