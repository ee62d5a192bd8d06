"""Somebody changes the database while it is dumped, or has changed it so that less of it can be read."""

import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from backup_lambda.worker import Worker
from tests.backup_lambda.faults import wire
from tests.backup_lambda.faults.invoking import failed
from tests.backup_lambda.faults.matrix import End
from tests.backup_lambda.faults.source import digests
from tests.backup_lambda.faults.wire import wired
from tests.backup_lambda.world import Connection, World, a_long_time, until
from tests.servers import Cluster

MakeWorker = Callable[[str, str], Worker]
WAITS = "select count(*) from pg_stat_activity where application_name = 'the change' and wait_event_type = 'Lock'"


@pytest.fixture
def url(cluster: Cluster, database: str, owner: Connection) -> str:
    return cluster.url("notes_backup", database)


@pytest.mark.fault("during the dump, in another session")
@pytest.mark.parametrize(
    "change",
    [
        "drop table notes.oddities; drop table notes.notes",
        "truncate notes.notes cascade",
        "alter table notes.notes add column more int default 7",
        "alter table notes.notes alter column body type varchar",
        "alter table notes.notes drop column body",
    ],
    ids=["a table is dropped", "truncated", "gets a column", "a column gets another type", "loses a column"],
)
async def test_a_table_is_changed(
    gated_worker: MakeWorker, cluster: Cluster, database: str, url: str, proof_url: str,
    owner: Connection, world: World, ends: End, change: str,
) -> None:  # fmt: skip
    """Such a change waits for the dump, which goes on with what was there when it began."""
    ends.truth = await digests(owner)
    other = await asyncpg.connect(cluster.url("postgres", database), server_settings={"application_name": "the change"})
    changing: list[asyncio.Task[str]] = []

    async def begin() -> None:
        changing.append(asyncio.create_task(other.execute(change)))
        await until(lambda: owner.fetchval(WAITS))

    async with wired(url, wire.at(b'{"id":1,', begin)) as wired_url:
        backup_id = await world.wish()
        assert await gated_worker(wired_url, proof_url).back_up(backup_id, a_long_time) == "proven"
    [task] = changing
    await task
    await other.close()
    await ends(backup_id, "proven")


@pytest.mark.fault("rows are changed during the dump, in another session")
async def test_rows_are_changed(
    gated_worker: MakeWorker, url: str, proof_url: str, owner: Connection, world: World, ends: End
) -> None:
    """That waits for nothing, and the snapshot does not see it."""
    ends.truth = await digests(owner)

    async def change() -> None:
        await owner.execute(
            "delete from notes.oddities; delete from notes.notes where id % 2 = 0;"
            " update notes.notes set body = 'other'; insert into notes.notes values (0, 'new')"
        )

    async with wired(url, wire.at(b'{"id":1,', change)) as wired_url:
        backup_id = await world.wish()
        assert await gated_worker(wired_url, proof_url).back_up(backup_id, a_long_time) == "proven"
    await ends(backup_id, "proven")


@pytest.mark.fault("a table is dropped between being found and being locked")
async def test_a_table_vanishes(
    gated_worker: MakeWorker, url: str, proof_url: str, owner: Connection, world: World, ends: End
) -> None:
    async def drop() -> None:
        await owner.execute("drop table notes.oddities")

    async with wired(url, sent=wire.at(b"lock table", drop)) as wired_url:
        backup_id = await failed(gated_worker(wired_url, proof_url), world)
    await ends(backup_id, "failed", reason='relation "notes.oddities" does not exist')


@pytest.mark.fault("a table gets a column between being found and being locked")
async def test_a_table_changes_before_the_lock(
    gated_worker: MakeWorker, url: str, proof_url: str, owner: Connection, world: World, ends: End
) -> None:
    """It is found anew."""

    async def alter() -> None:
        await owner.execute("alter table notes.notes add column more int default 7")

    async with wired(url, sent=wire.at(b"lock table", alter)) as wired_url:
        backup_id = await world.wish()
        assert await gated_worker(wired_url, proof_url).back_up(backup_id, a_long_time) == "proven"
    ends.truth = await digests(owner)
    await ends(backup_id, "proven")


@pytest.mark.fault("a table that was proven is truncated before the next backup")
async def test_a_table_is_empty(
    gated_worker: MakeWorker, url: str, proof_url: str, owner: Connection, world: World, ends: End
) -> None:
    """The backup is what the database holds. Nothing relies on it before somebody says that this was meant."""
    worker = gated_worker(url, proof_url)
    assert await worker.back_up(await world.wish(), a_long_time) == "proven"
    await owner.execute("truncate notes.notes cascade")
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "suspect"
    await ends(backup_id, "suspect", reason="notes.notes has 0 rows, and had 2,200")


@pytest.mark.fault("no table has a row")
async def test_all_is_empty(
    gated_worker: MakeWorker, url: str, proof_url: str, owner: Connection, world: World, ends: End
) -> None:
    await owner.execute("truncate notes.notes, notes.oddities, scheduler.runs")
    backup_id = await world.wish()
    assert await gated_worker(url, proof_url).back_up(backup_id, a_long_time) == "suspect"
    await ends(backup_id, "suspect", reason="no table has a row")


@pytest.mark.fault("less can be read")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("alter table notes.notes enable row level security", "would be affected by row-level security policy"),
        (
            "alter table notes.notes enable row level security;"
            " create policy nothing on notes.notes for select to notes_backup using (false)",
            "would be affected by row-level security policy",
        ),
        ("revoke select on notes.notes from notes_backup", "permission denied for table notes"),
        (
            "create sequence notes.numbers; revoke all on sequence notes.numbers from notes_backup",
            "permission denied for sequence numbers",
        ),
        (
            "drop table notes.notes cascade; drop table notes.oddities; drop table scheduler.runs",
            "no table was found in the schemas notes, scheduler: is the database migrated?",
        ),
        ("drop schema scheduler cascade", 'schema "scheduler" does not exist'),
        ("revoke usage on schema notes from notes_backup", "permission denied for schema notes"),
    ],
    ids=[
        "row-level security without a policy",
        "a policy that shows no row",
        "a table may not be read",
        "a sequence may not be read",
        "there are no tables",
        "a schema is missing",
        "a schema may not be used",
    ],
)
async def test_what_may_not_be_read_is_not_skipped(
    gated_worker: MakeWorker,
    url: str,
    proof_url: str,
    owner: Connection,
    world: World,
    ends: End,
    change: str,
    reason: str,
) -> None:
    await owner.execute(change)
    await ends(await failed(gated_worker(url, proof_url), world), "failed", reason=reason)
