"""Are we safe? What this service knows of it by itself, in few queries, however long its history is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

WEEKS = 13
SHOWN = 6  # of each list
# What a day had, the best first. Of those after `stored` a person wants to know even when something better followed.
KINDS = ("proven", "stored", "suspect", "broken", "failed", "missed")
GOOD = ("proven", "stored")

_WATCH = text("""
    select last_proven_id, last_proven_at, proven_within_seconds, seen_at, now() as now from scheduler.watch
""")
_NEXT = text("""
    select id, name, timezone, next_due_at, target->>'kind' as kind from scheduler.schedules
    where next_due_at is not null and deleted_at is null order by next_due_at limit :most
""")
_NAMED = "r.id, r.schedule_id, s.name, r.target->>'kind' as kind, r.due_at, r.state, r.reason, r.backup_id, r.progress"
_RUNNING = text(f"""
    select {_NAMED}, r.created_at, r.started_at
    from scheduler.runs r left join scheduler.schedules s on s.id = r.schedule_id
    where r.state in ('queued', 'running', 'waiting') order by r.state = 'queued', r.id limit :most
""")  # noqa: S608 - constants
_FAILED = text(f"""
    select {_NAMED}, r.ended_at from scheduler.runs r left join scheduler.schedules s on s.id = r.schedule_id
    where r.state = 'failed' and r.id > uuidv7(interval '-14 days') order by r.id desc limit :most
""")  # noqa: S608 - constants
_ALARMS = text("""
    select a.*, s.name from scheduler.alarms a left join scheduler.schedules s on s.id = a.schedule_id
    where a.closed_at is null order by a.opened_at desc limit :most
""")
_BACKUPS = text("""
    select id, state, created_at, rows, bytes, seconds from scheduler.backups where created_at >= :since
    order by created_at
""")
# A run whose backup was seen is that backup's; what remains are those that came to none.
_WITHOUT_BACKUP = text("""
    select (due_at at time zone 'UTC')::date as day, state, count(*) as number from scheduler.runs
    where state in ('failed', 'missed') and id > uuidv7(cast(:ago as interval)) and due_at >= :since
    and target->>'kind' = 'backup' and backup_id is null
    group by 1, 2
""")


@dataclass(frozen=True)
class Day:
    """Of UTC. `kind` is the best that it had, empty when nothing was due or is yet to come."""

    date: date
    counts: Counter[str]
    to_come: bool

    @property
    def kind(self) -> str:
        return next((kind for kind in KINDS if self.counts[kind]), "")

    @property
    def trouble(self) -> bool:
        """Something went wrong beside what went well."""
        return self.kind in GOOD and any(self.counts[kind] for kind in KINDS if kind not in GOOD)

    @property
    def says(self) -> str:
        return ", ".join(f"{self.counts[kind]} {kind}" for kind in KINDS if self.counts[kind]) or "nothing"


@dataclass(frozen=True)
class Overview:
    """`within` is how old the last proven backup may be; None before a worker has looked."""

    now: datetime
    proven_id: str | None
    proven_at: datetime | None
    within: timedelta | None
    seen_at: datetime | None  # when the backups were told last
    coming: Sequence[Row[Any]]
    running: Sequence[Row[Any]]
    failed: Sequence[Row[Any]]
    alarms: Sequence[Row[Any]]
    days: Sequence[Day]  # whole weeks, from a Monday
    backups: Sequence[Row[Any]]  # of those days, the oldest first

    @property
    def age(self) -> timedelta | None:
        return self.now - self.proven_at if self.proven_at else None

    @property
    def safe(self) -> bool:
        return bool(self.age is not None and self.within and self.age <= self.within)


async def look(session: AsyncSession) -> Overview:
    watch = (await session.execute(_WATCH)).one()
    today: date = watch.now.astimezone(UTC).date()
    monday = today - timedelta(days=today.weekday(), weeks=WEEKS - 1)
    since = datetime(monday.year, monday.month, monday.day, tzinfo=UTC)
    most = {"most": SHOWN}
    backups = (await session.execute(_BACKUPS, {"since": since})).all()
    ago = {"ago": since - watch.now - timedelta(days=1), "since": since}
    without = (await session.execute(_WITHOUT_BACKUP, ago)).all()
    seconds = watch.proven_within_seconds
    return Overview(
        now=watch.now,
        proven_id=watch.last_proven_id,
        proven_at=watch.last_proven_at,
        within=timedelta(seconds=seconds) if seconds else None,
        seen_at=watch.seen_at,
        coming=(await session.execute(_NEXT, most)).all(),
        running=(await session.execute(_RUNNING, most)).all(),
        failed=(await session.execute(_FAILED, most)).all(),
        alarms=(await session.execute(_ALARMS, {"most": 20})).all(),
        days=_days(monday, today, backups, without),
        backups=backups,
    )


def _days(monday: date, today: date, backups: Sequence[Row[Any]], without: Sequence[Row[Any]]) -> list[Day]:
    counts: dict[date, Counter[str]] = {}
    for each in backups:
        counts.setdefault(each.created_at.astimezone(UTC).date(), Counter())[each.state] += 1
    for row in without:
        counts.setdefault(row.day, Counter())[row.state] += row.number
    all_days = (monday + timedelta(days=number) for number in range(7 * WEEKS))
    return [Day(day, counts.get(day, Counter()), day > today) for day in all_days]
