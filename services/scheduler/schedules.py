"""Schedules: what is to happen, and when next."""

from datetime import UTC, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from cronsim import CronSim
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from scheduler.errors import NeverDue, ScheduleNotFound
from scheduler.models import Schedule


async def page(session: AsyncSession, after: UUID | None, limit: int) -> tuple[list[Schedule], UUID | None]:
    """Up to `limit` schedules, oldest first, strictly after `after`; and where the next page starts, if it does."""
    query = select(Schedule).order_by(Schedule.id).limit(limit + 1)
    if after:
        query = query.where(Schedule.id > after)
    found = list(await session.scalars(query))
    return found[:limit], found[limit - 1].id if len(found) > limit else None


async def get(session: AsyncSession, schedule_id: UUID) -> Schedule:
    """Raises ScheduleNotFound."""
    if (schedule := await session.get(Schedule, schedule_id)) is None:
        raise ScheduleNotFound
    return schedule


def next_due(cron: str, timezone: str, after: datetime) -> datetime:
    """The first due time later than `after`, in UTC.

    When clocks change it does as Debian's cron: a time that does not exist is due right after the gap, and a daily one
    that exists twice is due once. Raises NeverDue.
    """
    try:
        return next(CronSim(cron, after.astimezone(ZoneInfo(timezone)))).astimezone(UTC)
    except (
        Exception
    ) as error:  # an unknown zone is a KeyError, a ValueError or an OSError, and no more due time no error
        raise NeverDue(cron, timezone) from error
