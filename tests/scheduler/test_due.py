"""The tick: each due time gets one run, whoever ticks, and nothing is half done."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import db, due

RUNS = "select schedule_id, trigger, due_at, state, target from scheduler.runs"


async def fire(engine: AsyncEngine) -> int:
    async with db.transaction(engine) as session:
        return await due.fire(session)


async def test_nothing_is_made_before_its_time(engine: AsyncEngine, sql: asyncpg.Connection) -> None:
    assert await fire(engine) == 0
    assert await sql.fetch(RUNS) == []


async def test_a_due_schedule_gets_its_run_and_its_next_due_time(engine: AsyncEngine, sql: asyncpg.Connection) -> None:
    due_at = await sql.fetchval("update scheduler.schedules set next_due_at = now() returning next_due_at")
    assert await fire(engine) == 1
    [run] = await sql.fetch(RUNS)
    assert (run["trigger"], run["due_at"], run["state"]) == ("schedule", due_at, "queued")
    assert json.loads(run["target"]) == {"kind": "backup", "label": "daily-backup"}
    now = datetime.now(UTC)
    next_due_at = await sql.fetchval("select next_due_at from scheduler.schedules")
    assert now < next_due_at <= now + timedelta(days=1)
    assert (next_due_at.hour, next_due_at.minute) == (2, 0)
    assert await fire(engine) == 0


async def test_three_that_tick_at_once_fire_each_schedule_once(engine: AsyncEngine, sql: asyncpg.Connection) -> None:
    await sql.execute("""
        insert into scheduler.schedules (name, cron, timezone, target, next_due_at)
        select 'due ' || n, '0 0 1 1 *', 'UTC', '{"kind": "backup"}', now() - n * interval '1 hour'
        from generate_series(1, 50) as n
    """)

    async def tick_until_idle() -> int:
        fired = 0
        while batch := await fire(engine):
            fired += batch
        return fired

    fired = sum(await asyncio.gather(*(tick_until_idle() for _ in range(3))))
    while batch := await fire(engine):  # whoever came first may have skipped what the others held
        fired += batch
    per_schedule = Counter(run["schedule_id"] for run in await sql.fetch(RUNS))
    assert fired == 50
    assert (len(per_schedule), set(per_schedule.values())) == (50, {1})


async def test_who_dies_before_the_commit_leaves_all_as_it_was(engine: AsyncEngine, sql: asyncpg.Connection) -> None:
    due_at = await sql.fetchval("update scheduler.schedules set next_due_at = now() returning next_due_at")

    async def fire_and_die() -> None:
        async with db.transaction(engine) as session:
            assert await due.fire(session) == 1
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await fire_and_die()
    assert await sql.fetch(RUNS) == []
    assert await sql.fetchval("select next_due_at from scheduler.schedules") == due_at


async def test_a_due_time_that_has_its_run_gets_no_second_one(engine: AsyncEngine, sql: asyncpg.Connection) -> None:
    """As after somebody set the schedule back by hand: the store refuses, and the schedule goes on."""
    back = "update scheduler.schedules set next_due_at = date_trunc('hour', now())"
    await sql.execute(back)
    await fire(engine)
    await sql.execute(back)
    await fire(engine)
    assert len(await sql.fetch(RUNS)) == 1
    assert await fire(engine) == 0


async def test_a_long_outage_ends_with_one_run_and_a_row_for_what_was_missed(
    engine: AsyncEngine, sql: asyncpg.Connection
) -> None:
    await sql.execute("""
        update scheduler.schedules
        set next_due_at = date_trunc('day', now()) - interval '10 days 22 hours',
            catch_up = catch_up || '{"window_seconds": 172800}'
    """)
    assert [await fire(engine), await fire(engine)] == [1, 0]
    made = sorted((run["due_at"], run["state"]) for run in await sql.fetch(RUNS))
    assert [state for _, state in made] == ["missed"] * (len(made) - 1) + ["queued"]
    assert {later - earlier for (earlier, _), (later, _) in pairwise(made)} == {timedelta(days=1)}
    assert len(made) in {11, 12}


async def test_one_that_cannot_be_recorded_stops_nobody(engine: AsyncEngine, sql: asyncpg.Connection) -> None:
    await sql.execute("update scheduler.schedules set next_due_at = now()")
    await sql.execute("""
        insert into scheduler.schedules (name, cron, timezone, target, catch_up, next_due_at)
        values ('bad', '0 0 * * *', 'UTC', '{}', '{}', now() - interval '2 days')
    """)
    assert [await fire(engine), await fire(engine)] == [2, 0]
    made = await sql.fetch("select state, reason from scheduler.runs order by state")
    said = "When the schedule is due cannot be computed (KeyError). It is tried again in an hour."
    assert [tuple(run) for run in made] == [("failed", said), ("queued", None)]


@pytest.mark.parametrize(
    ("cron", "timezone"),
    [
        ("0 0 31 2 *", "UTC"),
        ("0 2 29 2 1#5", "Mars/Olympus"),
        ("every day", "UTC"),
        ("0 2 * * *", "/etc/passwd"),
        ("0 2 * * *", "Europe"),
    ],
)
async def test_a_schedule_that_cannot_go_on_fails_aloud_and_stops_nobody(
    engine: AsyncEngine, sql: asyncpg.Connection, cron: str, timezone: str
) -> None:
    insert = """
        insert into scheduler.schedules (name, cron, timezone, target, next_due_at)
        values ('bad', $1, $2, '{"kind": "backup"}', now() - interval '1 day')
        returning id
    """
    bad = await sql.fetchval(insert, cron, timezone)
    await sql.execute("update scheduler.schedules set next_due_at = now() where id <> $1", bad)
    assert [await fire(engine), await fire(engine)] == [2, 0]

    made = await sql.fetch("select schedule_id = $1 as bad, * from scheduler.runs order by bad", bad)
    assert [(run["bad"], run["state"]) for run in made] == [(False, "queued"), (True, "failed")]
    assert repr(cron) in made[1]["reason"]
    assert repr(timezone) in made[1]["reason"]
    assert made[1]["announce_at"] == made[1]["ended_at"]
    again_in = await sql.fetchval("select next_due_at - now() from scheduler.schedules where id = $1", bad)
    assert timedelta(minutes=59) < again_in <= timedelta(hours=1)
