"""Alarms: each opened once and closed once, and both told, whoever looks and however often."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import alarms, db, due, runs, steps, worker
from scheduler.answers import Unavailable
from scheduler.notices import Notice, NoticeNotSent, Topic
from scheduler.runs import Ended, Waiting
from scheduler.steps import Reach
from scheduler.watch import look
from tests.scheduler.chain import DAILY
from tests.scheduler.gateway import Gateway, a_backup, problem
from tests.scheduler.one_run import Make

WITHIN = timedelta(hours=26)
Ending = Callable[[Any, Ended | Waiting], Awaitable[None]]


class Told(Topic):
    """A topic that keeps what it is told, unless it is away."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.away = False

    async def publish(self, notice: Notice) -> None:
        if self.away:
            raise NoticeNotSent("away")
        self.notices.append(notice)


async def tell_all(engine: AsyncEngine, topic: Told) -> list[tuple[str, str]]:
    """The types and subjects of what was told now."""
    before = len(topic.notices)
    while True:
        known = len(topic.notices)
        await worker.announce(engine, topic, asyncio.Event())
        if len(topic.notices) == known:
            return [(notice.event["type"], notice.subject) for notice in topic.notices[before:]]


async def open_alarms(sql: asyncpg.Connection) -> list[str]:
    return [row["kind"] for row in await sql.fetch("select kind from scheduler.alarms where closed_at is null")]


async def fire(engine: AsyncEngine) -> None:
    async with db.transaction(engine) as session:
        await due.fire(session)


@pytest.fixture
def ending(engine: AsyncEngine, sql: asyncpg.Connection) -> Ending:
    """The next step of a run comes to this."""

    async def ending(run_id: Any, outcome: Ended | Waiting) -> None:
        seq = await sql.fetchval("select seq from scheduler.runs where id = $1", run_id)
        async with db.transaction(engine) as session:
            claim = await runs.claim(session, runs.Step(run_id, seq))
            assert claim
            await runs.note(session, claim, outcome)

    return ending


async def test_a_run_that_nobody_takes_on_is_overdue_until_one_is(
    engine: AsyncEngine, sql: asyncpg.Connection, ending: Ending
) -> None:
    topic = Told()
    await sql.execute("update scheduler.schedules set next_due_at = now()")
    await fire(engine)
    await worker.look(engine)
    assert await open_alarms(sql) == []
    await sql.execute("update scheduler.runs set overdue_at = now()")  # five minutes later
    await asyncio.gather(*(worker.look(engine) for _ in range(3)))
    await worker.look(engine)
    assert await open_alarms(sql) == ["overdue"]
    assert await tell_all(engine, topic) == [("backup.overdue", "Holdfast: a run is OVERDUE: daily-backup")]
    assert "has not been taken on" in topic.notices[0].text

    run_id = await sql.fetchval("select id from scheduler.runs")
    await ending(run_id, Waiting(1, "20261122T020000Z-00000000", accepted=True))
    await worker.look(engine)
    assert await open_alarms(sql) == []
    assert await tell_all(engine, topic) == [("backup.recovered", "Holdfast: over: a run is OVERDUE: daily-backup")]
    assert await sql.fetchval("select count(*) from scheduler.alarms") == 1


async def test_that_nobody_took_on_a_run_is_over_when_it_is_cancelled(
    engine: AsyncEngine, sql: asyncpg.Connection
) -> None:
    await sql.execute("update scheduler.schedules set next_due_at = now()")
    await fire(engine)
    await sql.execute("update scheduler.runs set overdue_at = now()")
    await worker.look(engine)
    assert await open_alarms(sql) == ["overdue"]
    async with db.transaction(engine) as session:
        assert await runs.cancel(session, await sql.fetchval("select id from scheduler.runs"), "Cancelled by ops.")
    assert await open_alarms(sql) == []


async def test_that_the_scheduler_was_away_is_told_when_it_is_back(
    engine: AsyncEngine, sql: asyncpg.Connection
) -> None:
    topic = Told()
    await sql.execute("update scheduler.schedules set next_due_at = now() - interval '6 minutes'")
    await fire(engine)
    assert await open_alarms(sql) == ["overdue"]
    await tell_all(engine, topic)
    assert ["No worker was there at" in notice.text for notice in topic.notices] == [True]


async def test_a_run_that_takes_too_long_is_told_until_it_ends(
    engine: AsyncEngine, sql: asyncpg.Connection, make: Make, ending: Ending
) -> None:
    topic = Told()
    run = await make()
    await ending(run.id, Waiting(1, "b", accepted=True))
    await sql.execute("update scheduler.runs set too_long_at = now()")
    await worker.look(engine)
    await worker.look(engine)
    assert await open_alarms(sql) == ["too_long"]
    await ending(run.id, Ended("succeeded", "b"))
    assert await open_alarms(sql) == []
    assert [kind for kind, _ in await tell_all(engine, topic)] == ["backup.overdue", "backup.recovered"]


async def test_failures_are_told_each_and_their_end_once(
    engine: AsyncEngine, sql: asyncpg.Connection, make: Make, ending: Ending
) -> None:
    topic = Told()
    for reason in ("No disk.", "No disk."):
        await ending((await make()).id, Ended("failed", None, reason, announce=True))
    assert await open_alarms(sql) == ["failing"]
    assert [kind for kind, _ in await tell_all(engine, topic)] == ["backup.failed"] * 2
    for _ in range(2):
        await ending((await make()).id, Ended("succeeded", "b"))
    assert await open_alarms(sql) == []
    assert [kind for kind, _ in await tell_all(engine, topic)] == ["backup.recovered"]


async def test_a_backup_that_was_told_when_it_was_adopted_is_not_told_again(
    engine: AsyncEngine, make: Make, ending: Ending
) -> None:
    """The answer to the run that asked for it was lost for as long as that took."""
    topic, run = Told(), await make()
    adopted = await make(trigger="adopted", schedule_id=None, target={"kind": "backup", "adopted": True}, backup_id="b")
    await ending(adopted.id, Ended("failed", "b", "The backup failed.", announce=True, accepted=True))
    await ending(run.id, Ended("failed", "b", "The backup failed.", announce=True, accepted=True))
    assert [kind for kind, _ in await tell_all(engine, topic)] == ["backup.failed"]


async def test_alarms_do_not_wait_until_all_failures_are_told(
    engine: AsyncEngine, sql: asyncpg.Connection, make: Make, ending: Ending
) -> None:
    topic = Told()
    for _ in range(3):
        await ending((await make()).id, Ended("failed", None, "No disk.", announce=True))
    async with db.transaction(engine) as session:
        await alarms.raise_(session, "stale", "backups", "Too old.")
    told = [kind for kind, _ in await tell_all(engine, topic)]
    assert told == ["backup.failed", "backup.overdue", "backup.failed", "backup.failed"]


async def test_a_run_of_another_kind_says_what_it_was(engine: AsyncEngine, make: Make, ending: Ending) -> None:
    topic = Told()
    await ending((await make(target={"kind": "proof"})).id, Ended("failed", None, "There is none.", announce=True))
    assert await tell_all(engine, topic) == [("run.failed", "Holdfast: proof FAILED: daily-backup")]


async def test_a_topic_that_is_away_is_told_later_in_order(engine: AsyncEngine, sql: asyncpg.Connection) -> None:
    topic = Told()
    topic.away = True
    async with db.transaction(engine) as session:
        assert await alarms.raise_(session, "stale", "backups", "Too old.")
    await worker.announce(engine, topic, asyncio.Event())
    async with db.transaction(engine) as session:
        assert await alarms.close(session, "stale", "backups", "A new one.")
        assert not await alarms.close(session, "stale", "backups", "A new one.")
    topic.away = False
    assert await tell_all(engine, topic) == [], "it was tried a moment ago"
    await sql.execute("update scheduler.alarms set tell_opened_at = now()")  # a quarter of a minute later
    assert [kind for kind, _ in await tell_all(engine, topic)] == ["backup.overdue", "backup.recovered"]


async def test_alarms_are_listed_shown_and_closed_by_hand(ops: httpx.AsyncClient, engine: AsyncEngine) -> None:
    async with db.transaction(engine) as session:
        for subject in ("a", "b", "c"):
            await alarms.raise_(session, "unaccounted", subject, f"Gap {subject}.")
    first = (await ops.get("/v1/alarms", params={"limit": 2})).json()
    rest = (await ops.get("/v1/alarms", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    found = first["items"] + rest["items"]
    assert [alarm["detail"] for alarm in found] == ["Gap c.", "Gap b.", "Gap a."]
    path = f"/v1/alarms/{found[0]['id']}"
    assert (await ops.get(path)).json() == found[0]
    closed = (await ops.post(f"{path}/close")).json()
    assert closed["closed_by"] == "Closed by test."
    assert (await ops.post(f"{path}/close")).json() == closed
    assert len((await ops.get("/v1/alarms", params={"open": True})).json()["items"]) == 2
    assert len((await ops.get("/v1/alarms", params={"open": False})).json()["items"]) == 1
    async with db.transaction(engine) as session:
        assert await alarms.raise_(session, "unaccounted", "c", "Gap c, again.")
    assert (await ops.post(f"{path}/close")).json() == closed
    assert len((await ops.get("/v1/alarms", params={"open": True})).json()["items"]) == 3, "it is another one"
    unknown = await ops.get(f"/v1/alarms/{DAILY}")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems/alarm-not-found")


async def looked(engine: AsyncEngine, sql: asyncpg.Connection, reach: Reach) -> bool:
    """Five minutes later, an hour after the installation."""
    await sql.execute("""
        update scheduler.watch set looked_at = now() - interval '5 minutes 1 second',
            since = least(since, '2026-11-22T01:00:00Z')
    """)
    return await look(engine, reach.backups, WITHIN)


async def test_the_age_of_the_last_proven_backup_is_watched(
    engine: AsyncEngine, sql: asyncpg.Connection, reach: Reach, gateway: Gateway
) -> None:
    old = a_backup("20261122T020000Z-00000001", "proven", "2026-11-22T02:10:00Z") | {"announced": True}
    gateway.listed = [old]
    now = await sql.fetchval("select now()")
    assert await looked(engine, sql, reach)
    assert await open_alarms(sql) == ["stale"], "it is of November 2026 for ever"
    assert await sql.fetchval("select last_proven_id from scheduler.watch") == old["id"]
    assert "2026-11-22 02:00 UTC" in await sql.fetchval("select detail from scheduler.alarms")

    gateway.listed = [old | {"id": "20261123T020000Z-00000002", "created_at": now.isoformat()}, old]
    assert await looked(engine, sql, reach)
    assert await open_alarms(sql) == []
    gateway.listed = [gateway.listed[0] | {"state": "broken"}, old]
    assert await looked(engine, sql, reach)
    assert await open_alarms(sql) == ["stale"], "what was proven once and is broken now does not count"
    gateway.listed = [old | {"id": "20991123T020000Z-00000003", "created_at": "2099-11-23T02:00:00Z"}, old]
    assert await looked(engine, sql, reach)
    assert await open_alarms(sql) == ["stale"], "it is of a time to come"


async def test_one_of_all_workers_looks(
    engine: AsyncEngine, sql: asyncpg.Connection, reach: Reach, gateway: Gateway
) -> None:
    await sql.execute("update scheduler.watch set looked_at = now() - interval '6 minutes'")
    found = await asyncio.gather(*(look(engine, reach.backups, WITHIN) for _ in range(4)))
    assert sorted(found) == [False, False, False, True]
    assert gateway.asked == ["GET /backups"]


async def test_it_becomes_too_old_while_the_backup_api_is_away(
    engine: AsyncEngine, sql: asyncpg.Connection, reach: Reach, gateway: Gateway
) -> None:
    await sql.execute("update scheduler.watch set last_proven_id = 'x', last_proven_at = now() - interval '27 hours'")
    gateway.instead.append(problem(503, "Away."))
    with pytest.raises(Unavailable):
        await looked(engine, sql, reach)
    assert await open_alarms(sql) == ["stale"]


async def adopted(sql: asyncpg.Connection) -> tuple[str, str]:
    (found,) = await sql.fetch("select state, reason from scheduler.runs where trigger = 'adopted'")
    return tuple(found)


async def test_a_backup_that_nobody_follows_is_adopted_once_and_its_end_is_told(
    engine: AsyncEngine, sql: asyncpg.Connection, reach: Reach, gateway: Gateway, make: Make
) -> None:
    topic = Told()
    await make(backup_id="20261122T020000Z-0000000a")
    running = a_backup("20261122T020000Z-0000000b", "running") | {"requested_by": "arn:aws:iam::1:user/ops"}
    told = a_backup("20261122T020000Z-0000000c", "failed") | {"announced": True}
    gateway.listed = [running, running, a_backup("20261122T020000Z-0000000a", "running"), told]
    await looked(engine, sql, reach)
    await looked(engine, sql, reach)
    rows = await sql.fetch("select id, backup_id, schedule_id, state from scheduler.runs where trigger = 'adopted'")
    assert [row["backup_id"] for row in rows] == [running["id"]]

    gateway.listed = [running | {"state": "failed", "reason": "it was killed", "ended_at": "2026-11-22T02:05:00Z"}]
    async with db.transaction(engine) as session:
        awake = [step for step, _ in await runs.awake(session)]
    await steps.take(engine, reach, next(step for step in awake if step.run_id == rows[0]["id"]))
    assert await adopted(sql) == ("failed", "The backup failed: it was killed")
    assert ("backup.failed", "Holdfast: backup FAILED: none; somebody else asked for it") in await tell_all(
        engine, topic
    )
    await looked(engine, sql, reach)
    assert await sql.fetchval("select count(*) from scheduler.runs where trigger = 'adopted'") == 1


async def test_one_that_turns_out_to_be_ours_is_let_go(
    engine: AsyncEngine, sql: asyncpg.Connection, reach: Reach, gateway: Gateway, make: Make, ending: Ending
) -> None:
    run = await make()
    gateway.listed = [a_backup("20261122T020000Z-0000000b", "running")]
    await looked(engine, sql, reach)
    await ending(run.id, Waiting(1, "20261122T020000Z-0000000b", accepted=True))
    assert await adopted(sql) == ("cancelled", f"It is the backup of run {run.id}.")
