"""Schedules: made, changed, paused and deleted at run time.

Every change first settles what was due under the old definition, then goes on from now: it neither makes a due time in
the past nor loses one. Each is a revision, and what a schedule said when is what its ledger goes by.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Select, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from scheduler import alarms, due, runs
from scheduler.definitions import ScheduleIn
from scheduler.errors import (
    KeyTaken,
    NameTaken,
    NeverDue,
    NotPaused,
    RunActive,
    ScheduleNotFound,
    StillSettling,
    VersionMismatch,
)
from scheduler.models import Revision, Run, Schedule

SETTLED_AT_ONCE = 20  # times `due.DUE_TIMES_AT_ONCE`
RESUMED_AT_ONCE = 100
_DEFINED = tuple(ScheduleIn.model_fields)
_OVER = text("""
    update scheduler.schedule_revisions set until = :at where schedule_id = :id and revision = :revision
""")
_UNBEGUN = text("""
    select id from scheduler.runs
    where schedule_id = :schedule_id and state = 'queued' and started_at is null
""")
# Not before what was changed or recorded already: whoever waited for its row began at an earlier time, and the
# database's clock may be set back.
_NOW = text("""
    select greatest(now(), :updated_at, (
        select max(due_at) from scheduler.runs where schedule_id = :id and trigger = 'schedule'
    ))
""")
_TO_RESUME = text(f"""
    select * from scheduler.schedules where paused_until <= now() order by paused_until limit {RESUMED_AT_ONCE}
    for update skip locked
""")  # noqa: S608 - a constant


async def page(
    session: AsyncSession, after: UUID | None, limit: int, name: str | None = None
) -> tuple[list[Schedule], UUID | None]:
    """Up to `limit` schedules, oldest first, strictly after `after`; and where the next page starts, if it does."""
    query = select(Schedule).where(Schedule.deleted_at.is_(None)).order_by(Schedule.id).limit(limit + 1)
    if after:
        query = query.where(Schedule.id > after)
    if name:
        query = query.where(Schedule.name == name)
    found = list(await session.scalars(query))
    return found[:limit], found[limit - 1].id if len(found) > limit else None


async def get(session: AsyncSession, schedule_id: UUID) -> Schedule:
    """Raises ScheduleNotFound."""
    schedule = await session.get(Schedule, schedule_id)
    if schedule is None or schedule.deleted_at:
        raise ScheduleNotFound
    return schedule


async def locked(session: AsyncSession, schedule_id: UUID, revision: int | None = None) -> Schedule:
    """For a change: nobody else changes it, or makes runs of it. Raises ScheduleNotFound and VersionMismatch."""
    query = select(Schedule).where(Schedule.id == schedule_id, Schedule.deleted_at.is_(None)).with_for_update()
    schedule = await session.scalar(query.execution_options(populate_existing=True))
    if schedule is None:
        raise ScheduleNotFound
    if revision is not None and revision != schedule.revision:
        raise VersionMismatch(schedule.revision)
    return schedule


def definition(schedule: Schedule) -> ScheduleIn:
    """As it was written, also in a zone that has gone since: it must be possible to mend it."""
    kept = {name: getattr(schedule, name) for name in _DEFINED}
    return ScheduleIn.model_validate(kept | {"timezone": "UTC"}).model_copy(update={"timezone": schedule.timezone})


async def revisions(
    session: AsyncSession, schedule_id: UUID, before: int | None, limit: int
) -> tuple[list[Revision], int | None]:
    """Up to `limit`, newest first, before the one with this number; and where the next page starts, if it does."""
    query = select(Revision).where(Revision.schedule_id == schedule_id).order_by(Revision.revision.desc())
    if before:
        query = query.where(Revision.revision < before)
    found = list(await session.scalars(query.limit(limit + 1)))
    return found[:limit], found[limit - 1].revision if len(found) > limit else None


async def create(session: AsyncSession, wanted: ScheduleIn, by: str) -> Schedule:
    """Raises NameTaken and NeverDue."""
    now = await _of_database(session)
    anchor_at = wanted.start_at or now
    schedule = Schedule(**_columns(wanted), anchor_at=anchor_at, next_due_at=wanted.timing(anchor_at).next(now))
    schedule.revision, schedule.skips = 0, 0
    schedule.created_at = schedule.updated_at = schedule.accounted_from = schedule.audited_until = now
    session.add(schedule)
    await _flush(session)
    await _revise(session, schedule, "created", now, by)
    return schedule


async def edit(session: AsyncSession, schedule: Schedule, wanted: ScheduleIn, by: str) -> Schedule:
    """`schedule` is `locked`. Raises NameTaken, NeverDue and StillSettling."""
    now = await settle(session, schedule)
    schedule.anchor_at = anchor(schedule, wanted, now)
    for name, value in _columns(wanted).items():
        setattr(schedule, name, value)
    if schedule.paused_at is None:
        schedule.next_due_at = due.timing(schedule).next(now)
    await _flush(session)
    await _revise(session, schedule, "edited", now, by)
    return schedule


def anchor(schedule: Schedule, wanted: ScheduleIn, now: datetime) -> datetime:
    """What the intervals of the edited schedule are counted from: as before, unless it says something else of them."""
    if (wanted.every_seconds, wanted.start_at) == (schedule.every_seconds, schedule.start_at):
        return schedule.anchor_at
    return wanted.start_at or now


async def pause(
    session: AsyncSession, schedule: Schedule, note: str | None, until: datetime | None, by: str
) -> Schedule:
    """`schedule` is `locked`. One that is paused gets another note and another end. Raises StillSettling."""
    now = await settle(session, schedule)
    schedule.paused_at = schedule.paused_at or now
    schedule.paused_until, schedule.paused_note, schedule.next_due_at = until, note, None
    await _revise(session, schedule, "paused", now, by)
    return schedule


async def resume(session: AsyncSession, schedule: Schedule, by: str | None) -> Schedule:
    """Go on from now; where its pause has ended, from then. `schedule` is `locked`. Raises NotPaused."""
    if schedule.paused_at is None:
        raise NotPaused
    now = await _now(session, schedule)
    at = max(min(now, schedule.paused_until or now), schedule.updated_at)
    schedule.paused_at = schedule.paused_until = schedule.paused_note = None
    try:
        schedule.next_due_at = due.timing(schedule).next(at)
    except NeverDue:
        schedule.next_due_at = at  # the tick says it, by a run that has failed
    await _revise(session, schedule, "resumed", at, by)
    return schedule


async def resume_those_due(session: AsyncSession) -> int:
    """Whose pause has ended; how many, up to RESUMED_AT_ONCE."""
    found = list(await session.scalars(select(Schedule).from_statement(_TO_RESUME)))
    for schedule in found:
        await resume(session, schedule, None)
    return len(found)


async def delete(session: AsyncSession, schedule: Schedule, by: str) -> None:
    """Its runs stay; those that no worker has begun are cancelled. `schedule` is `locked`. Raises StillSettling."""
    now = await settle(session, schedule)
    schedule.next_due_at = schedule.paused_until = None
    schedule.deleted_at = now
    await _revise(session, schedule, "deleted", now, by)
    for run_id in (await session.scalars(_UNBEGUN, {"schedule_id": schedule.id})).all():
        await runs.cancel(session, run_id, "Its schedule was deleted.")
    kinds: Sequence[alarms.Kind] = ("failing", "overdue", "skipped", "unaccounted")
    await alarms.close_of_schedule(session, schedule.id, f"The schedule was deleted by {by}.", kinds)


async def trigger(session: AsyncSession, schedule: Schedule, key: str | None, again_of: Run | None = None) -> Run:
    """A run of it, now; with the same `key` the same run. `schedule` is `locked`.

    Raises RunActive where the schedule wants one run at a time, and KeyTaken.
    """
    if key and (known := await session.scalar(_asked(schedule, key))):
        if known.again_of != (again_of and again_of.id):
            raise KeyTaken(known.id)
        return known
    if schedule.overlap != "allow" and (active := await session.scalar(_active(schedule))):
        raise RunActive(active.id)
    wanted = due.new(schedule, "manual", await _of_database(session), request_key=key)
    if again_of:
        wanted = replace(wanted, target=again_of.target, again_of=again_of.id)
    [made] = await runs.make(session, [wanted])
    return await session.get_one(Run, made.id)


async def settle(session: AsyncSession, schedule: Schedule) -> datetime:
    """Record what is due of a schedule that is `locked`, also since its pause ended; the time until which all is.

    Raises StillSettling.
    """
    now = await _now(session, schedule)
    if schedule.paused_until and schedule.paused_until <= now:
        await resume(session, schedule, None)
    for _ in range(SETTLED_AT_ONCE):
        if schedule.next_due_at is None or schedule.next_due_at > now:
            return now
        await due.settle(session, [schedule])
        await session.refresh(schedule)
    raise StillSettling


def _asked(schedule: Schedule, key: str) -> Select[Run]:
    return select(Run).where(Run.schedule_id == schedule.id, Run.request_key == key)


def _active(schedule: Schedule) -> Select[Run]:
    active = Run.state.in_(["queued", "running", "waiting"])
    return select(Run).where(Run.schedule_id == schedule.id, Run.exclusive, Run.held.is_(False), active)


def _columns(wanted: ScheduleIn) -> dict[str, Any]:
    """Moments as they are, and what is kept as JSON as that; a target without what it leaves open."""
    as_json = wanted.model_dump(mode="json", include={"catch_up", "retry"})
    values = {name: getattr(wanted, name) for name in _DEFINED}
    return values | as_json | {"target": wanted.target.model_dump(mode="json", exclude_none=True)}


async def _revise(
    session: AsyncSession,
    schedule: Schedule,
    change: Literal["created", "edited", "paused", "resumed", "deleted"],
    at: datetime,
    by: str | None,
) -> None:
    if schedule.revision:
        await session.execute(_OVER, {"id": schedule.id, "revision": schedule.revision, "at": at})
    schedule.revision += 1
    schedule.updated_at = at
    said = {name: getattr(schedule, name) for name in _DEFINED}
    moments = ("at", "start_at", "end_at")
    said |= {name: said[name] and said[name].isoformat() for name in moments}
    session.add(
        Revision(
            schedule_id=schedule.id,
            revision=schedule.revision,
            since=at,
            change=change,
            live=schedule.paused_at is None and schedule.deleted_at is None,
            definition=said | {"anchor_at": schedule.anchor_at.isoformat()},
            note=schedule.paused_note,
            changed_by=by,
        )
    )
    await session.flush()


async def _flush(session: AsyncSession) -> None:
    try:
        await session.flush()
    except IntegrityError as error:
        if "schedules_name_idx" in str(error.orig):
            raise NameTaken from None
        raise


async def _now(session: AsyncSession, schedule: Schedule) -> datetime:
    """`schedule` is locked."""
    values = {"id": schedule.id, "updated_at": schedule.updated_at}
    now: datetime = (await session.execute(_NOW, values)).scalar_one()
    return now


async def _of_database(session: AsyncSession) -> datetime:
    now: datetime = (await session.execute(select(func.now()))).scalar_one()
    return now
