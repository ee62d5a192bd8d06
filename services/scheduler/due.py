"""The tick: schedules whose time has come get their runs. Any number of workers tick, and each due time gets one row.

What becomes of a due time is decided here: it runs, it is skipped because the run before has not ended, or it is missed
because nobody was there when it came and the schedule does not want it any more.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from scheduler import alarms, runs
from scheduler.errors import NeverDue
from scheduler.runs import New
from scheduler.timing import Timing

SCHEDULES_AT_ONCE = 500
DUE_TIMES_AT_ONCE = 1000  # of all schedules together; what an outage left for longer comes with the next ticks
ON_TIME = timedelta(minutes=1)
COMPUTE_AGAIN = timedelta(hours=1)

# `skip locked`: another worker that ticks at this moment has those rows, and leaves them with a later due time.
_DUE = text(f"""
    select * from scheduler.schedules
    where next_due_at <= now()
    order by next_due_at
    limit {SCHEDULES_AT_ONCE}
    for update skip locked
""")  # noqa: S608 - a constant
_BUSY = text("""
    select schedule_id, id, due_at from scheduler.runs
    where schedule_id = any(:schedule_ids) and exclusive and not held and state in ('queued', 'running', 'waiting')
""")
_MOVE_ON = text("""
    update scheduler.schedules s
    set next_due_at = r.next_due_at, skips = r.skips
    from jsonb_to_recordset(cast(:rows as jsonb)) as r (id uuid, next_due_at timestamptz, skips int)
    where s.id = r.id
""")
# Of those that wait for a run to be cancelled, only the newest is wanted.
_REPLACE = text("""
    update scheduler.runs set
        state = 'skipped', held = false, ended_at = now(), reason = :reason,
        events = scheduler.with_event(events, 'skipped', :reason)
    where schedule_id = :schedule_id and held and trigger = 'schedule' and state = 'queued'
""")

log = logging.getLogger(__name__)


@dataclass
class _Plan:
    """What is to be written when all that is due has been looked at."""

    new: list[New] = field(default_factory=list)
    moved: list[dict[str, Any]] = field(default_factory=list)
    cancel: list[tuple[UUID, str]] = field(default_factory=list)  # the runs of which schedule, and why
    raised: list[tuple[alarms.Kind, UUID, str]] = field(default_factory=list)


async def fire(session: AsyncSession) -> int:
    """Record what is due, and move the schedules on, both in the caller's transaction; how many were due.

    A schedule that cannot go on neither stops silently nor stops the others: now, and every hour until somebody mends
    it, it gets a run that has failed.
    """
    due = (await session.execute(_DUE)).all()
    if due:
        await settle(session, due)
    return len(due)


async def settle(session: AsyncSession, due: Sequence[Any]) -> None:
    """Record what is due of these schedules, rows or models of them, which the caller has locked."""
    now: datetime = (await session.execute(select(func.now()))).scalar_one()
    wanted = [schedule.id for schedule in due if schedule.overlap != "allow"]
    busy = {row.schedule_id: row.due_at for row in await session.execute(_BUSY, {"schedule_ids": wanted})}
    plan = _Plan()
    room = DUE_TIMES_AT_ONCE
    for schedule in due:
        before = len(plan.new)
        try:
            _look_at(plan, schedule, now, busy.get(schedule.id), max(room, 1))
        except Exception as error:  # whatever it is, the others go on
            log.warning("schedule %s: %s", schedule.id, error, exc_info=not isinstance(error, NeverDue))
            what = (
                error
                if isinstance(error, NeverDue)
                else f"When the schedule is due cannot be computed ({type(error).__name__})."
            )
            why = f"{what} It is tried again in an hour."
            plan.new[before:] = [new(schedule, "schedule", schedule.next_due_at, state="failed", reason=why)]
            plan.moved.append(_moved(schedule, now + COMPUTE_AGAIN, schedule.skips))
        room -= len(plan.new) - before
    await _write(session, plan)


def new(schedule: Any, trigger: Any, due_at: datetime, **more: Any) -> New:
    """A run of the schedule as it is now. Jitter is the same wherever it is computed."""
    exclusive = schedule.overlap != "allow" and more.get("state", "queued") == "queued"
    return New(
        trigger,
        due_at,
        schedule.id,
        _target(schedule),
        jitter_seconds=_jitter(schedule, due_at) if trigger == "schedule" else 0,
        revision=schedule.revision,
        retry=schedule.retry,
        exclusive=exclusive,
        time_limit_seconds=schedule.time_limit_seconds,
        overdue_grace_seconds=schedule.overdue_grace_seconds,
        too_long_seconds=schedule.too_long_seconds,
        **more,
    )


def timing(schedule: Any) -> Timing:
    """`schedule`: a row, or the model of one."""
    return Timing(
        schedule.cron,
        schedule.every_seconds,
        schedule.at,
        schedule.timezone,
        schedule.anchor_at,
        schedule.start_at,
        schedule.end_at,
    )


def _look_at(plan: _Plan, schedule: Any, now: datetime, busy: datetime | None, room: int) -> None:
    """`busy`: the due time of the run that others have to wait for. Raises NeverDue."""
    times = timing(schedule)
    due_times = [schedule.next_due_at]
    following = None
    for following in times.after(schedule.next_due_at):
        if following > now or len(due_times) == room:
            break
        due_times.append(following)
    else:
        following = None
    wanted_from = _wanted_from(schedule, times, now) if now - due_times[0] > ON_TIME else due_times[0]
    missed = [due_at for due_at in due_times if due_at < wanted_from]
    wanted = due_times[len(missed) :]
    why = f"No worker was there, and what is late is caught up by the policy {schedule.catch_up['policy']}."
    plan.new += [new(schedule, "schedule", due_at, state="missed", reason=why) for due_at in missed]
    skipped = _OVERLAPPING[schedule.overlap](plan, schedule, wanted, busy, now)
    skips = schedule.skips + len(skipped) if skipped else 0 if wanted else schedule.skips
    if skipped and skips >= schedule.alarm_after_skips:
        detail = f"{skips} due times in a row were skipped: the run of {_readable(busy)} has not ended."
        plan.raised.append(("skipped", schedule.id, detail))
    if now - due_times[0] > timedelta(seconds=schedule.overdue_grace_seconds):
        detail = f"No worker was there at {_readable(due_times[0])}, when it was due. Missed: {len(missed)} due times."
        plan.raised.append(("overdue", schedule.id, detail))
    plan.moved.append(_moved(schedule, following, skips))


def _allowing(plan: _Plan, schedule: Any, wanted: list[datetime], *_: Any) -> list[datetime]:
    plan.new += [new(schedule, "schedule", due_at) for due_at in wanted]
    return []


def _skipping(
    plan: _Plan, schedule: Any, wanted: list[datetime], busy: datetime | None, now: datetime
) -> list[datetime]:
    """One after the other, where all that was late is to be caught up."""
    skipped = []
    for due_at in wanted:
        if busy is None:
            plan.new.append(new(schedule, "schedule", due_at))
            busy = due_at
        elif schedule.catch_up["policy"] == "all" and now - due_at > ON_TIME:
            plan.new.append(new(schedule, "schedule", due_at, held=True))
        else:
            reason = f"The run of {_readable(busy)} had not ended."
            plan.new.append(new(schedule, "schedule", due_at, state="skipped", reason=reason))
            skipped.append(due_at)
    return skipped


def _cancelling(
    plan: _Plan, schedule: Any, wanted: list[datetime], busy: datetime | None, _: datetime
) -> list[datetime]:
    if wanted:
        *earlier, last = wanted
        reason = f"The run of {_readable(last)} took its place."
        plan.new += [new(schedule, "schedule", due_at, state="skipped", reason=reason) for due_at in earlier]
        plan.new.append(new(schedule, "schedule", last, held=busy is not None))
        if busy:
            plan.cancel.append((schedule.id, reason))
    return []


_OVERLAPPING = {"allow": _allowing, "skip": _skipping, "cancel_previous": _cancelling}


def _wanted_from(schedule: Any, times: Timing, now: datetime) -> datetime:
    """The earliest due time that still runs. What is on time always does."""
    on_time = now - ON_TIME
    policy, window = schedule.catch_up["policy"], timedelta(seconds=schedule.catch_up["window_seconds"])
    if policy == "none":
        return on_time
    count = schedule.catch_up["max_runs"] if policy == "all" else 1
    last = times.last(max(schedule.next_due_at - timedelta(microseconds=1), now - window), now, count)
    return min([on_time, *last])


async def _write(session: AsyncSession, plan: _Plan) -> None:
    for schedule_id, reason in plan.cancel:
        await session.execute(_REPLACE, {"schedule_id": schedule_id, "reason": reason})
        for run in (await session.execute(_BUSY, {"schedule_ids": [schedule_id]})).all():
            await runs.cancel(session, run.id, reason)
    for recorded in await runs.make(session, plan.new):
        if recorded.state == "failed":
            await alarms.failing(session, recorded)
    for kind, schedule_id, detail in plan.raised:
        await alarms.raise_(session, kind, str(schedule_id), detail, schedule_id=schedule_id)
    await session.execute(_MOVE_ON, {"rows": json.dumps(plan.moved)})


def _moved(schedule: Any, next_due_at: datetime | None, skips: int) -> dict[str, Any]:
    return {"id": str(schedule.id), "next_due_at": next_due_at and next_due_at.isoformat(), "skips": skips}


def _target(schedule: Any) -> dict[str, Any]:
    target: dict[str, Any] = schedule.target
    return {"label": schedule.name} | target if target.get("kind") == "backup" else target


def _jitter(schedule: Any, due_at: datetime) -> int:
    if not schedule.jitter_seconds:
        return 0
    said = f"{schedule.id} {due_at.astimezone(UTC).isoformat()}"
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8]) % (int(schedule.jitter_seconds) + 1)


def _readable(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "before"
