"""A backup that holds much that is other than in the last proven one says so."""

from collections.abc import Sequence

import pytest

from backup_lambda.worker import Worker
from tests.backup_lambda.world import Connection, World, a_long_time


@pytest.fixture(autouse=True)
async def notes(owner: Connection) -> None:
    await owner.execute(
        "create table notes.notes (id int primary key, title text, body text);"
        "create table notes.few (id int primary key, body text);"
        "insert into notes.few select i, 'x' from generate_series(1, 99) as i;"
        # Half a kilobyte each: a dozen blocks.
        "insert into notes.notes"
        " select i, 'note ' || i, repeat(md5(i::text), 16) from generate_series(1, 3000) as i"
    )


async def said(world: World, worker: Worker) -> str | None:
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    told: str | None = (await world.read_json(f"backups/{backup_id}/manifest.json"))["changed"]
    return told


async def after(world: World, worker: Worker, owner: Connection, *statements: str) -> str | None:
    """What a backup says that is made after these, and after a proven one from before them."""
    assert await said(world, worker) is None, "there is no other one"
    for statement in statements:
        await owner.execute(statement)
    return await said(world, worker)


@pytest.mark.parametrize(
    ("statements", "share"),
    [
        (["update notes.notes set body = 'encrypted'"], "100%"),
        (["update notes.notes set body = body || '!' where id % 4 > 0"], "75%"),
        (
            ["delete from notes.notes where id % 10 > 5", "update notes.notes set title = '' where id % 10 < 3"],
            "70%",
        ),
        (["alter table notes.notes drop constraint notes_pkey", "update notes.notes set body = 'encrypted'"], "100%"),
        # Who changes the columns, too, does not hide it.
        (["update notes.notes set body = ''", "alter table notes.notes add column colour text default 'red'"], "100%"),
    ],
)
async def test_what_changed_most_of_a_table_is_told(
    world: World, worker: Worker, owner: Connection, statements: Sequence[str], share: str
) -> None:
    told = await after(world, worker, owner, *statements)
    assert told is not None
    assert told.startswith("since 20")
    assert told.endswith(
        f", the last proven backup: about {share} of the 3,000 rows of notes.notes were changed or removed"
    )


@pytest.mark.parametrize(
    "statements",
    [
        ["insert into notes.notes select i, 'new', 'new' from generate_series(3001, 9000) as i"],
        ["update notes.notes set body = '' where id % 3 = 0"],  # in every block, and yet a third
        ["alter table notes.notes add column colour text default 'red'"],
        ["delete from notes.few", "update notes.notes set title = '' where id < 1000"],
        ["alter table notes.notes drop constraint notes_pkey", "update notes.notes set body = '' where id % 3 = 0"],
    ],
)
async def test_what_is_ordinary_is_not_told(
    world: World, worker: Worker, owner: Connection, statements: Sequence[str]
) -> None:
    assert await after(world, worker, owner, *statements) is None


async def test_a_backup_is_made_though_the_older_one_cannot_be_read(
    world: World, worker: Worker, owner: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    first = await world.wish()
    assert await worker.back_up(first, a_long_time) == "proven"
    await world.s3.delete_object(Bucket=world.bucket, Key=f"backups/{first}/index/notes.notes.json.gz")
    await owner.execute("update notes.notes set body = ''")
    assert await said(world, worker) is None
    assert "how much of notes.notes changed could not be told" in caplog.text
