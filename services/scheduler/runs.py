"""Runs: rows that say what happened at a due time, or at a person's wish.

    queued -> running -> waiting -> running -> ... -> succeeded | failed

A step is claimed with a lease, and `seq` is its fence: whoever holds the lease writes, and a run whose lease ended goes
on with another `seq`, so that what the former holder still wants to write is refused. All times are the database's.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from scheduler.errors import LeaseLost, RunNotFound, ScheduleNotFound
from scheduler.models import Run, Schedule

FIRST_STEP = 1  # whoever claims it is the first to ask for the backup
TIME_LIMIT = timedelta(hours=6)  # from its making to its deadline, the longest that a backup may take
LEASE = timedelta(seconds=60)  # twice the longest step
ENQUEUE_AGAIN = timedelta(seconds=30)  # what a wiped queue may cost
ANNOUNCE_AGAIN = timedelta(seconds=15)  # longer than the topic may take to answer
OVERDUE_GRACE = timedelta(minutes=5)  # at its deadline a run is on the queue once more, and may be about to end

# A due time that has its run already gets no second one, whoever asks.
_CREATE = text("""
    insert into scheduler.runs (schedule_id, trigger, due_at, target, deadline_at)
    select id, :trigger, coalesce(cast(:due_at as timestamptz), now()),
           jsonb_build_object('label', name) || target, now() + :time_limit
    from scheduler.schedules
    where id = :schedule_id
    on conflict do nothing
    returning *
""")

# They come again unless they are claimed meanwhile: the queue may have been wiped.
_AWAKE = text("""
    update scheduler.runs set wake_at = now() + :again
    where id in (
        select id from scheduler.runs
        where state in ('queued', 'waiting') and wake_at <= now()
        order by wake_at
        limit 100
        for update skip locked
    )
    returning id, seq
""")

# Nothing comes back for a step that was taken already, or that came late: it was delivered twice.
_CLAIM = text("""
    update scheduler.runs
    set state = 'running', lease_until = now() + :lease, started_at = coalesce(started_at, now())
    where id = :id and seq = :seq and state in ('queued', 'waiting')
    returning id, seq, target, backup_id, attempts, now() >= deadline_at as overdue,
              extract(epoch from now() - started_at)::float as age_seconds
""")

_WAIT = text("""
    update scheduler.runs
    set state = 'waiting', seq = seq + 1, lease_until = null, backup_id = :backup_id, reason = :reason,
        attempts = :attempts, wake_at = least(now() + :wake_after, greatest(deadline_at, now()))
    where id = :id and seq = :seq and state = 'running'
    returning id
""")

_END = text("""
    update scheduler.runs
    set state = :state, lease_until = null, backup_id = :backup_id, reason = :reason, ended_at = now(),
        announce_at = case when :announce then now() end
    where id = :id and seq = :seq and state = 'running'
    returning id
""")

# A step that ends every worker which takes it must not do so for ever.
_SWEEP = text("""
    update scheduler.runs
    set state = 'waiting', seq = seq + 1, lease_until = null, wake_at = now(),
        reason = 'The worker that held it has gone; another takes over.'
    where state = 'running' and lease_until < now() and deadline_at > now()
    returning id
""")
_SWEEP_OVERDUE = text("""
    update scheduler.runs
    set state = 'failed', lease_until = null, ended_at = now(), announce_at = now(),
        reason = 'The worker that held it had gone at the run''s deadline.'
    where state = 'running' and lease_until < now() and deadline_at <= now()
    returning id
""")

_OVERDUE = text("""
    select id, seq from scheduler.runs
    where state in ('queued', 'waiting') and deadline_at < now() - cast(:grace as interval)
    order by deadline_at
    limit 10
""")

# One at a time: the topic may be so slow that a claim on several would end before the last of them is sent.
_UNSENT = text("""
    update scheduler.runs set announce_at = now() + :again
    where id = (
        select id from scheduler.runs where announce_at <= now() order by announce_at limit 1 for update skip locked
    )
    returning *
""")

_SENT = text("update scheduler.runs set announce_at = null where id = :id")


class Step(NamedTuple):
    run_id: UUID
    seq: int


@dataclass(frozen=True)
class Claim:
    """The right to do one step of a run, until its lease ends."""

    id: UUID
    seq: int
    target: dict[str, Any]
    backup_id: str | None
    attempts: int
    overdue: bool
    age_seconds: float


@dataclass(frozen=True)
class Waiting:
    """The step is done, and there is another one. `reason` is what went wrong in it, if something did."""

    wake_after_seconds: float
    backup_id: str | None
    attempts: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Ended:
    """The run is over. `announce` when nobody else has told the people who subscribed."""

    state: Literal["succeeded", "failed"]
    backup_id: str | None
    reason: str | None = None
    announce: bool = False


async def trigger(session: AsyncSession, schedule_id: UUID) -> Run:
    """A run of the schedule, now, beside those that are due. Raises ScheduleNotFound."""
    if (run := await create(session, schedule_id, "manual")) is None:
        raise ScheduleNotFound
    return run


async def create(
    session: AsyncSession, schedule_id: UUID, why: Literal["schedule", "manual"], due_at: datetime | None = None
) -> Run | None:
    """Due now unless `due_at` says otherwise. None when there is no such schedule, or the due time has its run."""
    values = {"schedule_id": schedule_id, "trigger": why, "due_at": due_at, "time_limit": TIME_LIMIT}
    return (await session.scalars(select(Run).from_statement(_CREATE), values)).one_or_none()


def fail(run: Run, reason: str, at: datetime) -> None:
    """End a run that the caller's transaction has made, so that nobody can have claimed it. It is announced."""
    run.state, run.reason, run.ended_at, run.announce_at = "failed", reason, at, at


async def page(session: AsyncSession, after: UUID | None, limit: int) -> tuple[list[Run], UUID | None]:
    """Up to `limit` runs, newest first, strictly after `after`; and where the next page starts, if it does."""
    query = select(Run).order_by(Run.id.desc()).limit(limit + 1)
    if after:
        query = query.where(Run.id < after)
    found = list(await session.scalars(query))
    return found[:limit], found[limit - 1].id if len(found) > limit else None


async def get(session: AsyncSession, run_id: UUID) -> Run:
    """Raises RunNotFound."""
    if (run := await session.get(Run, run_id)) is None:
        raise RunNotFound
    return run


async def awake(session: AsyncSession) -> list[Step]:
    """Steps whose time has come. They are put on the queue before the caller commits, so that none is forgotten."""
    return [Step(*row) for row in await session.execute(_AWAKE, {"again": ENQUEUE_AGAIN})]


async def claim(session: AsyncSession, step: Step) -> Claim | None:
    """None when the step was delivered before."""
    row = (await session.execute(_CLAIM, {"id": step.run_id, "seq": step.seq, "lease": LEASE})).one_or_none()
    return Claim(**row._mapping) if row else None


async def record(session: AsyncSession, claim: Claim, outcome: Waiting | Ended) -> None:
    """Write what a step came to. Raises LeaseLost when the run is no longer the claim's."""
    values: dict[str, Any] = {"id": claim.id, "seq": claim.seq, **vars(outcome)}
    if isinstance(outcome, Waiting):
        values["wake_after"] = timedelta(seconds=values.pop("wake_after_seconds"))
    if await session.scalar(_WAIT if isinstance(outcome, Waiting) else _END, values) is None:
        raise LeaseLost


async def sweep(session: AsyncSession) -> list[UUID]:
    """Take runs from workers that went away in the middle of a step; which ones.

    They are woken, or fail when their deadline has passed.
    """
    return [run_id for statement in (_SWEEP, _SWEEP_OVERDUE) for run_id in await session.scalars(statement)]


async def overdue(session: AsyncSession) -> list[Step]:
    """Steps that the queue has not brought until well after the deadline of their run: it may be away."""
    return [Step(*row) for row in await session.execute(_OVERDUE, {"grace": OVERDUE_GRACE})]


async def unsent(session: AsyncSession) -> tuple[Run, str] | None:
    """A run whose alarm is to be sent, with the schedule's name. It comes again unless `sent` is called for it."""
    run = (await session.scalars(select(Run).from_statement(_UNSENT), {"again": ANNOUNCE_AGAIN})).one_or_none()
    return run and (run, (await session.get_one(Schedule, run.schedule_id)).name)


async def sent(session: AsyncSession, run: Run) -> None:
    await session.execute(_SENT, {"id": run.id})
