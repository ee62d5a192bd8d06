"""Runs as people see them: listed, shown, cancelled and made again."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from scheduler import runs, schedules
from scheduler.errors import NotScheduled, RunEnded, RunNotFound
from scheduler.models import Run
from scheduler.schemas import RunsQuery


async def page(session: AsyncSession, query: RunsQuery) -> tuple[list[Run], UUID | None]:
    """Newest first, strictly after the cursor; and where the next page starts, if it does."""
    wanted = select(Run).order_by(Run.id.desc()).limit(query.limit + 1)
    if query.cursor:
        wanted = wanted.where(Run.id < query.cursor)
    for column, value in ((Run.schedule_id, query.schedule_id), (Run.state, query.state), (Run.trigger, query.trigger)):
        if value is not None:
            wanted = wanted.where(column == value)
    found = list(await session.scalars(wanted))
    return found[: query.limit], found[query.limit - 1].id if len(found) > query.limit else None


async def get(session: AsyncSession, run_id: UUID) -> Run:
    """Raises RunNotFound."""
    if (run := await session.get(Run, run_id, populate_existing=True)) is None:
        raise RunNotFound
    return run


async def cancel(session: AsyncSession, run_id: UUID, by: str) -> Run:
    """Raises RunNotFound and RunEnded."""
    await get(session, run_id)
    if not await runs.cancel(session, run_id, f"Cancelled by {by}."):
        raise RunEnded
    return await get(session, run_id)


async def again(session: AsyncSession, run_id: UUID, key: str | None) -> Run:
    """Another run like it, now; with the same `key` the same run.

    Raises RunNotFound, NotScheduled, ScheduleNotFound when it was deleted, RunActive and KeyTaken.
    """
    run = await get(session, run_id)
    if run.schedule_id is None:
        raise NotScheduled
    schedule = await schedules.locked(session, run.schedule_id)
    return await schedules.trigger(session, schedule, key, again_of=run)
