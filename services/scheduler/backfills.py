"""Backfills: due times of the past that are run after all, one after the other."""

from datetime import datetime
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from scheduler import due, ledger, runs
from scheduler.errors import BackfillRefused
from scheduler.models import Schedule

MAX_RUNS = 1000
Which = Literal["missing", "failed", "all"]
_WANTED = {
    "missing": {"missed", "skipped", "cancelled", "unaccounted"},
    "failed": {"missed", "skipped", "cancelled", "unaccounted", "failed"},
    "all": {"missed", "skipped", "cancelled", "unaccounted", "failed", "succeeded"},
}


async def plan(
    session: AsyncSession, schedule: Schedule, after: datetime, until: datetime, which: Which
) -> list[datetime]:
    """The due times in (after, until] that it would run: those that nothing came of, also failed ones, or all.

    One whose run is active is left out. Raises BackfillRefused and NeverDue.
    """
    if schedule.target["kind"] == "backup":
        raise BackfillRefused("A backup of now makes no history: for what was missed there is nothing left to copy.")
    account = await ledger.account(session, schedule, after, until, most=10 * MAX_RUNS)
    found = [each.due_at for each in account.due if each.outcome in _WANTED[which] and not each.active]
    if account.more or len(found) > MAX_RUNS:
        raise BackfillRefused(f"It may have {MAX_RUNS} runs: choose a shorter time.")
    return found


async def start(session: AsyncSession, schedule: Schedule, due_times: list[datetime], count: int) -> int:
    """Record their runs. `schedule` is locked, and `count` is what the caller was told. Raises BackfillRefused."""
    if len(due_times) != count:
        raise BackfillRefused(f"It is {len(due_times)} runs by now, and not {count}: look at the preview again.")
    await runs.make(session, [due.new(schedule, "backfill", due_at, held=True) for due_at in due_times])
    return len(due_times)
