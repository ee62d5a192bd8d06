"""The tick: schedules whose time has come get a run. Any number of workers tick, and each due time gets one run."""

import logging
from datetime import timedelta

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from scheduler import runs, schedules
from scheduler.errors import NeverDue
from scheduler.models import Schedule

COMPUTE_AGAIN = timedelta(hours=1)

# `skip locked`: another worker that ticks at this moment has those rows, and leaves them with a later due time.
_DUE = text("""
    select * from scheduler.schedules
    where next_due_at <= now()
    order by next_due_at
    limit 20
    for update skip locked
""")

log = logging.getLogger(__name__)


async def fire(session: AsyncSession) -> int:
    """Make the runs that are due, and move their schedules on, both in the caller's transaction; how many were due.

    After an outage a schedule gets one run, of the first due time that was missed, and goes on from now. One that
    cannot go on neither stops silently nor stops the others: now, and every hour until somebody mends it, it gets a
    run that has failed.
    """
    due = list(await session.scalars(select(Schedule).from_statement(_DUE)))
    if due:
        now = (await session.execute(select(func.now()))).scalar_one()
        for schedule in due:
            run = await runs.create(session, schedule.id, "schedule", schedule.next_due_at)
            try:
                schedule.next_due_at = schedules.next_due(schedule.cron, schedule.timezone, now)
            except NeverDue as error:
                log.warning("schedule %s: %s", schedule.id, error)
                schedule.next_due_at = now + COMPUTE_AGAIN
                if run:
                    runs.fail(run, f"{error} It is tried again in an hour.", now)
    return len(due)
