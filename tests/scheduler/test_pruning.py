"""Old runs go, and nothing runs again for it."""

from datetime import timedelta

import asyncpg
import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import db, due, pruning, worker
from tests.scheduler.chain import DAILY

KEPT = timedelta(days=30)


async def test_old_runs_go_in_batches_and_never_run_again(
    engine: AsyncEngine, sql: asyncpg.Connection, ops: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "AT_ONCE", 7)
    before = await sql.fetchval("select next_due_at from scheduler.schedules")
    await sql.execute("""
        update scheduler.schedules set accounted_from = now() - interval '40 days', audited_until = accounted_from;
        update scheduler.schedule_revisions set since = now() - interval '40 days';
        insert into scheduler.runs (schedule_id, trigger, due_at, target, state, deadline_at, ended_at)
        select id, 'schedule', next_due_at - n * interval '1 day', target, 'succeeded', now(),
            next_due_at - n * interval '1 day' + interval '1 hour'
        from scheduler.schedules, generate_series(1, 40) as n
    """)
    assert await pruning.prune(engine, KEPT) in {9, 10, 11}
    assert await pruning.prune(engine, KEPT) == 0
    left = await sql.fetchval("select count(*) from scheduler.runs")
    async with db.transaction(engine) as session:
        assert await due.fire(session) == 0
    assert await sql.fetchval("select next_due_at from scheduler.schedules") == before

    ledger = (await ops.get(f"/v1/schedules/{DAILY}/ledger", params={"from": "2020-01-01T00:00:00Z"})).json()
    assert (ledger["complete"], ledger["counts"]) == (True, {"succeeded": left}), ledger["says"]
    for _ in range(45):
        await worker.audit(engine)
    assert await sql.fetchval("select count(*) from scheduler.alarms") == 0


async def test_runs_that_are_active_and_alarms_that_are_open_stay(engine: AsyncEngine, sql: asyncpg.Connection) -> None:
    await sql.execute("""
        insert into scheduler.runs (schedule_id, trigger, due_at, target, deadline_at)
        select id, 'manual', now() - interval '1 year', target, now() from scheduler.schedules;
        insert into scheduler.alarms (kind, subject, detail, opened_at, closed_at) values
            ('stale', 'a', 'open', now() - interval '1 year', null),
            ('stale', 'b', 'closed', now() - interval '1 year', now() - interval '31 days')
    """)
    assert await pruning.prune(engine, KEPT) == 0
    assert await sql.fetchval("select count(*) from scheduler.runs") == 1
    assert [row["detail"] for row in await sql.fetch("select detail from scheduler.alarms")] == ["open"]
