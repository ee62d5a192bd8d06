"""The tick: schedules whose time has come get a run. Any number of workers tick, and each due time gets one run."""

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from scheduler import runs, schedules
from scheduler.models import Schedule

# `skip locked`: another worker that ticks at this moment has those rows, and leaves them with a later due time.
_DUE = text("""
    select * from scheduler.schedules
    where next_due_at <= now()
    order by next_due_at
    limit 20
    for update skip locked
""")


async def fire(session: AsyncSession) -> int:
    """Make the runs that are due, and move their schedules on, both in the caller's transaction; how many were due.

    After an outage a schedule gets one run, of the first due time that was missed, and goes on from now.
    """
    due = list(await session.scalars(select(Schedule).from_statement(_DUE)))
    if due:
        now = (await session.execute(select(func.now()))).scalar_one()
        for schedule in due:
            await runs.create(session, schedule.id, "schedule", schedule.next_due_at)
            schedule.next_due_at = schedules.next_due(schedule.cron, schedule.timezone, now)
    return len(due)
