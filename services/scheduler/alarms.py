"""Alarms: what is wrong, each opened once and closed once, however often it is seen and whoever sees it.

    failing      a schedule's last run failed, until one succeeds
    overdue      a due time whose run nobody has taken on, or that nobody was there to see, until one is, or the run is
                 cancelled
    too_long     a run goes on for longer than it should, until it ends
    skipped      so many due times in a row were skipped, until a run succeeds
    stale        the last proven backup is too old, until there is a newer one
    unaccounted  the ledger of a schedule has a gap, until somebody says that it is known

A row is the outbox of two messages, `tell_opened_at` and `tell_closed_at`. That a schedule is failing is told by the
message about the run that failed, so only its end is told here.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Row, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from scheduler.errors import AlarmNotFound
from scheduler.models import Alarm, Run, Schedule

Kind = Literal["failing", "overdue", "too_long", "skipped", "stale", "unaccounted"]
TELL_AGAIN = timedelta(seconds=15)  # longer than the topic may take to answer

_OPEN = text("""
    insert into scheduler.alarms (kind, subject, schedule_id, run_id, detail, opened_at, tell_opened_at)
    values (:kind, :subject, :schedule_id, :run_id, :detail, now(), case when :tell then now() end)
    on conflict (kind, subject) where closed_at is null do nothing
    returning id
""")
_CLOSE = text("""
    update scheduler.alarms set closed_at = now(), closed_by = :why, tell_closed_at = now()
    where kind = :kind and subject = :subject and closed_at is null
    returning id
""")
_CLOSE_BY_ID = text("""
    update scheduler.alarms set closed_at = now(), closed_by = :why, tell_closed_at = now()
    where id = :id and closed_at is null
""")
_CLOSE_OF_RUN = text("""
    update scheduler.alarms set closed_at = now(), closed_by = :why, tell_closed_at = now()
    where kind = 'overdue' and subject = :schedule_id and run_id = :run_id and closed_at is null
""")
_CLOSE_OF_SCHEDULE = text("""
    update scheduler.alarms set closed_at = now(), closed_by = :why, tell_closed_at = now()
    where schedule_id = :schedule_id and kind = any(:kinds) and closed_at is null
""")
# Runs that a worker had begun when their schedule was deleted go on, and may fail.
_CLOSE_OF_DELETED = text("""
    update scheduler.alarms a set closed_at = now(), closed_by = 'The schedule was deleted.', tell_closed_at = now()
    from scheduler.schedules s
    where s.id = a.schedule_id and s.deleted_at is not null
    and a.closed_at is null and a.kind in ('failing', 'overdue', 'skipped')
    and not exists (
        select from scheduler.runs r where r.schedule_id = s.id and r.state in ('queued', 'running', 'waiting')
    )
""")
_OVERDUE = text("""
    select distinct on (r.schedule_id) r.id, r.schedule_id, r.due_at, r.reason, s.name
    from scheduler.runs r join scheduler.schedules s on s.id = r.schedule_id
    where r.overdue_at <= now() and r.accepted_at is null and r.state in ('queued', 'running', 'waiting')
    and not exists (
        select from scheduler.alarms a
        where a.kind = 'overdue' and a.subject = r.schedule_id::text and a.closed_at is null
    )
    order by r.schedule_id, r.due_at
    limit 100
""")
_TOO_LONG = text("""
    select r.id, r.schedule_id, r.due_at, r.started_at, r.backup_id, r.deadline_at
    from scheduler.runs r
    where r.too_long_at <= now() and r.state in ('queued', 'running', 'waiting') and not r.held
    and not exists (
        select from scheduler.alarms a where a.kind = 'too_long' and a.subject = r.id::text and a.closed_at is null
    )
    limit 100
""")
# One at a time: the topic may be so slow that a claim on several would end before the last of them is sent.
_UNTOLD = text("""
    update scheduler.alarms
    set tell_opened_at = case when tell_opened_at <= now() then now() + :again else tell_opened_at end,
        tell_closed_at = case when tell_opened_at is null then now() + :again else tell_closed_at end
    where id = (
        select id from scheduler.alarms
        where tell_opened_at <= now() or (tell_closed_at <= now() and tell_opened_at is null)
        order by opened_at limit 1
        for update skip locked
    )
    returning *
""")
_UNANNOUNCED = text("""
    update scheduler.runs set announce_at = now() + :again
    where id = (
        select id from scheduler.runs where announce_at <= now() order by announce_at limit 1 for update skip locked
    )
    returning *
""")
_ANNOUNCED = text("update scheduler.runs set announce_at = null where id = :id")
_TOLD = {
    True: text("update scheduler.alarms set tell_opened_at = null where id = :id"),
    False: text("update scheduler.alarms set tell_closed_at = null where id = :id"),
}


async def raise_(
    session: AsyncSession,
    kind: Kind,
    subject: str,
    detail: str,
    *,
    schedule_id: UUID | None = None,
    run_id: UUID | None = None,
    tell: bool = True,
) -> bool:
    """Open it, unless it is open. `subject` is what it is about."""
    values = {"kind": kind, "subject": subject, "detail": detail, "tell": tell}
    return await session.scalar(_OPEN, values | {"schedule_id": schedule_id, "run_id": run_id}) is not None


async def close(session: AsyncSession, kind: str, subject: str, why: str) -> bool:
    return await session.scalar(_CLOSE, {"kind": kind, "subject": subject, "why": why}) is not None


async def close_of_schedule(session: AsyncSession, schedule_id: UUID, why: str, kinds: Sequence[Kind]) -> None:
    await session.execute(_CLOSE_OF_SCHEDULE, {"schedule_id": schedule_id, "why": why, "kinds": list(kinds)})


async def after_end(session: AsyncSession, run: Row[Any]) -> None:
    """`run` has id, schedule_id, trigger, due_at, state and reason."""
    await close(session, "too_long", str(run.id), f"The run has {run.state}.")
    if run.schedule_id is None:
        return
    if run.state == "succeeded":
        why = f"The run of {run.due_at:%Y-%m-%d %H:%M} UTC has succeeded."
        await close_of_schedule(session, run.schedule_id, why, ["failing", "overdue", "skipped"])
    elif run.state == "failed":
        await failing(session, run)
    elif run.state == "cancelled":
        ids = {"schedule_id": str(run.schedule_id), "run_id": run.id}
        await session.execute(_CLOSE_OF_RUN, ids | {"why": "The run was cancelled."})


async def failing(session: AsyncSession, run: Row[Any]) -> None:
    ids = {"schedule_id": run.schedule_id, "run_id": run.id}
    await raise_(session, "failing", str(run.schedule_id), run.reason or "A run has failed.", tell=False, **ids)


async def after_acceptance(session: AsyncSession, schedule_id: UUID) -> None:
    await close_of_schedule(session, schedule_id, "A run has been taken on.", ["overdue"])


async def look(session: AsyncSession) -> int:
    """Open what is to be seen in runs that are active, how many; close what nothing will come of any more."""
    opened = 0
    await session.execute(_CLOSE_OF_DELETED)
    for run in (await session.execute(_OVERDUE)).all():
        why = f" {run.reason}" if run.reason else ""
        detail = f"Its run of {run.due_at:%Y-%m-%d %H:%M:%S} UTC has not been taken on.{why}"
        ids = {"schedule_id": run.schedule_id, "run_id": run.id}
        opened += await raise_(session, "overdue", str(run.schedule_id), detail, **ids)
    for run in (await session.execute(_TOO_LONG)).all():
        since = f"since {run.started_at:%Y-%m-%d %H:%M:%S} UTC" if run.started_at else "and no worker has begun"
        detail = f"Its run of {run.due_at:%Y-%m-%d %H:%M:%S} UTC goes on {since}; backup: {run.backup_id or 'none'}."
        ids = {"schedule_id": run.schedule_id, "run_id": run.id}
        opened += await raise_(session, "too_long", str(run.id), detail, **ids)
    return opened


async def untold(session: AsyncSession) -> Alarm | None:
    """One whose opening is to be told, else whose end. It comes again unless `told` is called for it."""
    return (await session.scalars(select(Alarm).from_statement(_UNTOLD), {"again": TELL_AGAIN})).one_or_none()


async def told(session: AsyncSession, alarm: Alarm) -> None:
    await session.execute(_TOLD[alarm.tell_opened_at is not None], {"id": alarm.id})


async def unannounced(session: AsyncSession) -> tuple[Run, str] | None:
    """A run whose failure is to be told, with the schedule's name. It comes again unless `announced` is called."""
    run = (await session.scalars(select(Run).from_statement(_UNANNOUNCED), {"again": TELL_AGAIN})).one_or_none()
    if run is None:
        return None
    return run, await name_of(session, run.schedule_id) or "none; somebody else asked for it"


async def announced(session: AsyncSession, run: Run) -> None:
    await session.execute(_ANNOUNCED, {"id": run.id})


async def name_of(session: AsyncSession, schedule_id: UUID | None) -> str | None:
    return (await session.get_one(Schedule, schedule_id)).name if schedule_id else None


async def get(session: AsyncSession, alarm_id: UUID) -> Alarm:
    """Raises AlarmNotFound."""
    if (alarm := await session.get(Alarm, alarm_id)) is None:
        raise AlarmNotFound
    return alarm


async def page(
    session: AsyncSession, after: UUID | None, limit: int, is_open: bool | None, schedule_id: UUID | None
) -> tuple[list[Alarm], UUID | None]:
    """Newest first, strictly after `after`; and where the next page starts, if it does."""
    query = select(Alarm).order_by(Alarm.id.desc()).limit(limit + 1)
    if after:
        query = query.where(Alarm.id < after)
    if is_open is not None:
        query = query.where(Alarm.closed_at.is_(None) == is_open)
    if schedule_id:
        query = query.where(Alarm.schedule_id == schedule_id)
    found = list(await session.scalars(query))
    return found[:limit], found[limit - 1].id if len(found) > limit else None


async def close_by_hand(session: AsyncSession, alarm_id: UUID, by: str) -> Alarm:
    """One that is closed stays as it is. Raises AlarmNotFound."""
    alarm = await get(session, alarm_id)
    await session.execute(_CLOSE_BY_ID, {"id": alarm_id, "why": f"Closed by {by}."})
    await session.refresh(alarm)
    return alarm
