"""Runs: rows that say what happened at a due time, or at a person's wish.

    queued -> running -> waiting -> running -> ... -> succeeded | failed | cancelled
    skipped, missed: recorded, and over at once

A step is claimed with a lease, and `seq` is its fence: whoever holds the lease writes, and a run whose lease ended goes
on with another `seq`, so that what the former holder still wants to write is refused. All times are the database's.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from scheduler import alarms
from scheduler.errors import LeaseLost

FIRST_STEP = 1  # whoever claims it is the first to ask for the backup
LEASE = timedelta(seconds=60)  # twice the longest step
ENQUEUE_AGAIN = timedelta(seconds=30)  # what a wiped queue may cost
OVERDUE_GRACE = timedelta(minutes=5)  # at its deadline a run is on the queue once more, and may be about to end
MAX_CRASHES = 5

# A due time that has its run already gets no second one, whoever asks.
_MAKE = text("""
    insert into scheduler.runs (
        id, schedule_id, trigger, due_at, jitter_seconds, revision, target, retry, state, reason, exclusive, held,
        request_key, again_of, backup_id, wake_at, deadline_at, overdue_at, too_long_at, created_at, ended_at,
        announce_at, events
    )
    select
        coalesce(r.id, uuidv7()), r.schedule_id, r.trigger, r.due_at, r.jitter_seconds, r.revision, r.target, r.retry,
        r.state, r.reason, r.exclusive, r.held, r.request_key, r.again_of, r.backup_id,
        case when r.held then 'infinity' else begins end,
        begins + make_interval(secs => r.time_limit_seconds),
        case when r.trigger = 'schedule' then begins + make_interval(secs => r.overdue_grace_seconds) end,
        begins + make_interval(secs => coalesce(r.too_long_seconds, r.time_limit_seconds / 2)),
        now(),
        case when r.state in ('skipped', 'missed', 'failed') then now() end,
        case when r.state = 'failed' then now() end,
        scheduler.with_event('[]', case when r.state = 'queued' then 'recorded' else r.state end, r.reason)
    from jsonb_to_recordset(cast(:rows as jsonb)) as r (
        id uuid, schedule_id uuid, trigger text, due_at timestamptz, jitter_seconds int, revision int, target jsonb,
        retry jsonb, state text, reason text, exclusive boolean, held boolean, request_key text, again_of uuid,
        backup_id text, time_limit_seconds int, overdue_grace_seconds int, too_long_seconds int
    )
    cross join lateral (select greatest(now(), r.due_at + make_interval(secs => r.jitter_seconds)) as begins)
    on conflict (schedule_id, due_at) where trigger = 'schedule' do nothing
    returning id, schedule_id, trigger, due_at, state, reason
""")

# They come again unless they are claimed meanwhile: the queue may have been wiped.
_AWAKE = text("""
    update scheduler.runs set
        wake_at = now() + :again, dispatched_at = coalesce(dispatched_at, now()),
        events = case when dispatched_at is null then scheduler.with_event(events, 'dispatched') else events end
    where id in (
        select id from scheduler.runs
        where state in ('queued', 'waiting') and wake_at <= now()
        order by wake_at
        limit :most
        for update skip locked
    )
    returning id, seq,
              case when dispatched_at = now() then extract(epoch from now() - due_at)::float - jitter_seconds end
                  as late_seconds
""")

# Nothing comes back for a step that was taken already, or that came late: it was delivered twice.
_CLAIM = text("""
    update scheduler.runs set
        state = 'running', lease_until = now() + :lease, started_at = coalesce(started_at, now()),
        events = case when started_at is null then scheduler.with_event(events, 'claimed') else events end
    where id = :id and seq = :seq and state in ('queued', 'waiting')
    returning id, seq, target, backup_id, memo, attempts, retry, now() >= deadline_at as overdue,
              cancel_requested_at is not null as cancelling, accepted_at is not null as accepted,
              extract(epoch from now() - started_at)::float as age_seconds,
              case when started_at = now() then extract(epoch from now() - due_at)::float - jitter_seconds end
                  as late_seconds
""")

# In the order of whoever makes runs of the schedule and cancels one: its row first.
_HOLD = text("""
    select from scheduler.schedules where id = (select schedule_id from scheduler.runs where id = :id) for key share
""")

# A cancel that was asked for while the step was in hand is looked at next.
_WAIT = text("""
    update scheduler.runs set
        state = 'waiting', seq = seq + 1, lease_until = null, backup_id = :backup_id, reason = :reason,
        attempts = :attempts, memo = coalesce(cast(:memo as jsonb), memo),
        progress = coalesce(cast(:progress as jsonb), progress),
        accepted_at = case when :accepted then coalesce(accepted_at, now()) else accepted_at end,
        wake_at = case when cancel_requested_at is not null and not :cancelling then now()
                       else least(now() + :wake_after, greatest(deadline_at, now())) end,
        events = case
            when :accepted and accepted_at is null then scheduler.with_event(events, 'accepted')
            when cast(:reason as text) <> coalesce(reason, '') then scheduler.with_event(events, 'waiting', :reason)
            else events end
    where id = :id and seq = :seq and state = 'running'
    returning schedule_id, trigger, extract(epoch from now() - due_at)::float - jitter_seconds as late_seconds
""")

# A backup whose answer was lost may have been adopted meanwhile, and its end told.
_END = text("""
    update scheduler.runs set
        state = :state, lease_until = null, backup_id = :backup_id, reason = :reason, ended_at = now(),
        progress = coalesce(cast(:progress as jsonb), progress),
        accepted_at = case when :accepted then coalesce(accepted_at, now()) else accepted_at end,
        announce_at = case when :announce and not exists (
            select from scheduler.runs other
            where other.backup_id = :backup_id and other.trigger = 'adopted' and other.state = 'failed'
            and other.id <> :id
        ) then now() end,
        events = scheduler.with_event(events, :state, :reason)
    where id = :id and seq = :seq and state = 'running'
    returning id, schedule_id, trigger, due_at, state, reason,
              extract(epoch from now() - due_at)::float - jitter_seconds as late_seconds
""")

# A step that ends every worker which takes it must not do so for ever.
_SWEEP = text("""
    update scheduler.runs set
        state = 'waiting', seq = seq + 1, crashes = crashes + 1, lease_until = null, wake_at = now(),
        reason = 'The worker that held it has gone; another takes over.', events = scheduler.with_event(events, 'lost')
    where state = 'running' and lease_until < now() and deadline_at > now() and crashes + 1 < :most
    returning id
""")
_SWEEP_FOR_GOOD = text("""
    update scheduler.runs set
        state = 'failed', lease_until = null, crashes = crashes + 1, ended_at = now(), announce_at = now(),
        reason = case when deadline_at <= now() then 'The worker that held it had gone at the run''s deadline.'
                      else crashes + 1 || ' workers have gone while they held it; it is not tried again.' end,
        events = scheduler.with_event(events, 'failed')
    where state = 'running' and lease_until < now() and (deadline_at <= now() or crashes + 1 >= :most)
    returning id, schedule_id, trigger, due_at, state, reason
""")

_LEFT_BEHIND = text("""
    select id, seq from scheduler.runs
    where state in ('queued', 'waiting') and not held and deadline_at < now() - cast(:grace as interval)
    order by deadline_at
    limit 10
""")

# Where a schedule wants one run at a time, the next goes when the one before has ended; of a backfill one goes at a
# time everywhere. Whoever makes runs of a schedule holds its row, and so does this: hence two statements, of which the
# second looks again.
_WITH_HELD = text("""
    select id from scheduler.schedules s
    where id in (select schedule_id from scheduler.runs where held and state = 'queued') and not exists (
        select from scheduler.runs other
        where other.schedule_id = s.id and not other.held
        and other.state in ('queued', 'running', 'waiting') and (other.exclusive or other.trigger = 'backfill')
    )
    order by id
    limit 100
    for update skip locked
""")
_RELEASE = text("""
    update scheduler.runs set
        held = false, wake_at = greatest(now(), due_at + make_interval(secs => jitter_seconds)),
        events = scheduler.with_event(events, 'released'),
        deadline_at = now() + (deadline_at - created_at), too_long_at = now() + (too_long_at - created_at)
    where id in (
        select distinct on (r.schedule_id) r.id from scheduler.runs r
        where r.schedule_id = any(:schedule_ids) and r.held and r.state = 'queued' and not exists (
            select from scheduler.runs other
            where other.schedule_id = r.schedule_id and not other.held
            and other.state in ('queued', 'running', 'waiting') and (other.exclusive or other.trigger = 'backfill')
        )
        order by r.schedule_id, r.due_at, r.id
    )
    returning id
""")

_CANCEL_NOW = text("""
    update scheduler.runs set
        state = 'cancelled', ended_at = now(), held = false, reason = :reason, cancel_requested_at = now(),
        events = scheduler.with_event(events, 'cancelled', :reason)
    where id = :id and state = 'queued' and started_at is null
    returning id, schedule_id, trigger, due_at, state, reason
""")
_CANCEL_SOON = text("""
    update scheduler.runs set
        cancel_requested_at = now(), wake_at = case when state = 'waiting' then now() else wake_at end,
        events = scheduler.with_event(events, 'cancel_requested', :reason)
    where id = :id and state in ('queued', 'running', 'waiting') and cancel_requested_at is null
    returning id
""")

# It was adopted while the answer to the one that asked for it was under way.
_DISOWN = text("""
    update scheduler.runs set
        state = 'cancelled', ended_at = now(), lease_until = null, reason = 'It is the backup of run ' || :id || '.',
        events = scheduler.with_event(events, 'cancelled')
    where backup_id = :backup_id and trigger = 'adopted' and id <> :id and state in ('queued', 'running', 'waiting')
""")


class Step(NamedTuple):
    run_id: UUID
    seq: int


@dataclass(frozen=True)
class Retry:
    """Of requests that got no answer to use. Without `max_attempts` until the run's deadline."""

    max_attempts: int | None = None
    min_seconds: float = 1.0
    max_seconds: float = 60.0


@dataclass(frozen=True)
class Claim:
    """The right to do one step of a run, until its lease ends.

    `memo` is what earlier steps wrote down, `attempts` how many in a row got no answer to use. `late_seconds` is since
    its due time when this is the first claim of the run.
    """

    id: UUID
    seq: int
    target: dict[str, Any]
    backup_id: str | None
    memo: dict[str, Any]
    attempts: int
    retry: Retry
    overdue: bool
    cancelling: bool
    accepted: bool
    age_seconds: float
    late_seconds: float | None = None


@dataclass(frozen=True)
class Waiting:
    """The step is done, and there is another one. `reason` is what went wrong in it, if something did.

    `accepted` once the far side has taken the request; None leaves memo and progress as they were.
    """

    wake_after_seconds: float
    backup_id: str | None
    attempts: int = 0
    reason: str | None = None
    memo: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    accepted: bool = False


@dataclass(frozen=True)
class Ended:
    """The run is over. `announce` when nobody else has told the people who subscribed."""

    state: Literal["succeeded", "failed", "cancelled"]
    backup_id: str | None
    reason: str | None = None
    announce: bool = False
    progress: dict[str, Any] | None = None
    accepted: bool = False


@dataclass(frozen=True)
class New:
    """A run that is to be recorded. What has ended needs no more than its reason."""

    trigger: Literal["schedule", "manual", "backfill", "adopted"]
    due_at: datetime
    schedule_id: UUID | None
    target: dict[str, Any]
    state: Literal["queued", "skipped", "missed", "failed"] = "queued"
    reason: str | None = None
    jitter_seconds: int = 0
    revision: int | None = None
    retry: dict[str, Any] | None = None
    exclusive: bool = False
    held: bool = False
    time_limit_seconds: int = 21600
    overdue_grace_seconds: int = 300
    too_long_seconds: int | None = None
    request_key: str | None = None
    again_of: UUID | None = None
    backup_id: str | None = None
    id: UUID | None = None


async def make(session: AsyncSession, new: Sequence[New]) -> Sequence[Row[Any]]:
    """Make them; those that were not there already.

    Whoever makes runs of a schedule holds a lock on its row. A failed one is announced.
    """
    if not new:
        return []
    rows = json.dumps([asdict(one) | {"retry": one.retry or {}} for one in new], default=str)
    return (await session.execute(_MAKE, {"rows": rows})).all()


async def awake(session: AsyncSession, most: int = 500) -> list[tuple[Step, float | None]]:
    """Steps whose time has come, and how late those are that come for the first time, in seconds.

    They are put on the queue before the caller commits, so that none is forgotten.
    """
    found = await session.execute(_AWAKE, {"again": ENQUEUE_AGAIN, "most": most})
    return [(Step(row.id, row.seq), row.late_seconds) for row in found]


async def claim(session: AsyncSession, step: Step) -> Claim | None:
    """None when the step was delivered before."""
    row = (await session.execute(_CLAIM, {"id": step.run_id, "seq": step.seq, "lease": LEASE})).one_or_none()
    return Claim(**{**row._mapping, "retry": Retry(**row.retry)}) if row else None


async def note(session: AsyncSession, claim: Claim, outcome: Waiting | Ended) -> float | None:
    """Write what a step came to; how late the run was accepted, in seconds, if that is what the step came to.

    Raises LeaseLost when the run is no longer the claim's.
    """
    values: dict[str, Any] = {"id": claim.id, "seq": claim.seq, **vars(outcome)}
    given = {name: values.get(name) for name in ("memo", "progress")}  # an empty one is not none
    values |= {name: value if value is None else json.dumps(value) for name, value in given.items()}
    newly_accepted = outcome.accepted and not claim.accepted
    if isinstance(outcome, Waiting):
        values |= {"wake_after": timedelta(seconds=values.pop("wake_after_seconds")), "cancelling": claim.cancelling}
        row = (await session.execute(_WAIT, values)).one_or_none()
    else:
        del values["memo"]
        await session.execute(_HOLD, {"id": claim.id})
        row = (await session.execute(_END, values)).one_or_none()
    if row is None:
        raise LeaseLost
    if newly_accepted and claim.target["kind"] == "backup" and row.trigger != "adopted":
        await session.execute(_DISOWN, {"id": claim.id, "backup_id": outcome.backup_id})
    if isinstance(outcome, Ended):
        await alarms.after_end(session, row)
    elif newly_accepted and row.schedule_id:
        await alarms.after_acceptance(session, row.schedule_id)
    return float(row.late_seconds) if newly_accepted and row.schedule_id else None


async def sweep(session: AsyncSession) -> list[UUID]:
    """Take runs from workers that went away in the middle of a step; which ones.

    They are woken, or fail when their deadline has passed or too many workers went away with them.
    """
    most = {"most": MAX_CRASHES}
    woken = list(await session.scalars(_SWEEP, most))
    ended = (await session.execute(_SWEEP_FOR_GOOD, most)).all()
    for row in ended:
        await alarms.after_end(session, row)
    return woken + [row.id for row in ended]


async def left_behind(session: AsyncSession) -> list[Step]:
    """Steps that the queue has not brought until well after the deadline of their run: it may be away."""
    return [Step(*row) for row in await session.execute(_LEFT_BEHIND, {"grace": OVERDUE_GRACE})]


async def release(session: AsyncSession) -> list[UUID]:
    """Let those go that were held for another run of their schedule, which has ended; which ones."""
    schedule_ids = list(await session.scalars(_WITH_HELD))
    return list(await session.scalars(_RELEASE, {"schedule_ids": schedule_ids})) if schedule_ids else []


async def cancel(session: AsyncSession, run_id: UUID, reason: str) -> bool:
    """At once if no worker has begun, else at its next step. False when it has ended, or is being cancelled."""
    if (row := (await session.execute(_CANCEL_NOW, {"id": run_id, "reason": reason})).one_or_none()) is not None:
        await alarms.after_end(session, row)
        return True
    return await session.scalar(_CANCEL_SOON, {"id": run_id, "reason": reason}) is not None
