"""Old runs are removed, in batches, and never run again: when a schedule is due next is not read from its runs."""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import db

AT_ONCE = 1000

_PRUNE = text("""
    with old as (
        delete from scheduler.runs where id in (
            select id from scheduler.runs where ended_at < now() - cast(:kept as interval) order by ended_at limit :most
            for update skip locked
        )
        returning schedule_id, due_at
    ), gone as (
        select schedule_id, max(due_at) as due_at, count(*) as number from old group by schedule_id
    ), accounted as (
        update scheduler.schedules s
        set accounted_from = gone.due_at, audited_until = greatest(s.audited_until, gone.due_at)
        from gone where s.id = gone.schedule_id and s.accounted_from < gone.due_at
    )
    select coalesce(sum(number), 0)::int from gone
""")
_PRUNE_ALARMS = text("""
    delete from scheduler.alarms where id in (
        select id from scheduler.alarms
        where closed_at < now() - cast(:kept as interval) and tell_closed_at is null
        limit :most
    )
""")


async def prune(engine: AsyncEngine, kept: timedelta) -> int:
    """Remove runs and alarms that ended longer ago than `kept`, in a transaction for each batch; how many runs."""
    removed = 0
    while True:
        async with db.transaction(engine) as session:
            gone: int = (await session.execute(_PRUNE, {"kept": kept, "most": AT_ONCE})).scalar_one()
            await session.execute(_PRUNE_ALARMS, {"kept": kept, "most": AT_ONCE})
        removed += gone
        if gone < AT_ONCE:
            return removed
