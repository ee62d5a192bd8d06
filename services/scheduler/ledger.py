"""The ledger: every due time of a schedule, and what became of it.

What was to happen is computed anew from what the schedule said when (its revisions), what did is in `runs`. The two are
compared: a due time without a row, or a row without a due time, is a fault of this service, and is told.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Row, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from scheduler import alarms
from scheduler.errors import NeverDue
from scheduler.models import Revision, Schedule
from scheduler.timing import Timing

Outcome = Literal["succeeded", "failed", "cancelled", "skipped", "missed", "active", "unaccounted"]
MAX_DUE_TIMES = 2000
AUDIT_EVERY = timedelta(days=1)
_AUDIT_LAG = timedelta(hours=1)

# Two queries, since each trigger has its index by due time. Of the backfills of one, the one that is active counts, and
# the best of those that have ended.
_RUNS = text("""
    (
        select due_at, id, trigger, state, reason, backup_id, ended_at from scheduler.runs
        where schedule_id = :schedule_id and due_at > :after and due_at <= :until and trigger = 'schedule'
        order by due_at
        limit :most
    ) union all (
        select distinct on (due_at, ended_at is null)
            due_at, id, trigger, state, reason, backup_id, ended_at
        from scheduler.runs
        where schedule_id = :schedule_id and due_at > :after and due_at <= :until and trigger = 'backfill'
        order by due_at, ended_at is null, state = 'succeeded' desc, id desc
        limit :most
    )
""")
# A day of which all is recorded.
_TO_AUDIT = text("""
    select * from scheduler.schedules
    where audited_until < now() - cast(:every as interval) - cast(:lag as interval)
    and (deleted_at is null or audited_until < deleted_at)
    and least(next_due_at, paused_until, 'infinity') > audited_until + cast(:every as interval)
    order by audited_until limit 20
    for update skip locked
""")
_MOMENTS = ("at", "start_at", "end_at", "anchor_at")


@dataclass(frozen=True)
class Due:
    """A due time and its runs: that of the tick, which is missing if there is none, and those of backfills."""

    due_at: datetime
    run: Row[Any] | None
    backfills: Sequence[Row[Any]] = ()

    @property
    def runs(self) -> list[Row[Any]]:
        return [row for row in (self.run, *self.backfills) if row]

    @property
    def active(self) -> Row[Any] | None:
        return next((row for row in self.runs if row.state in {"queued", "running", "waiting"}), None)

    @property
    def best(self) -> Row[Any] | None:
        """What became of it: a backfill may mend what was missed."""
        succeeded = (row for row in reversed(self.runs) if row.state == "succeeded")
        return next(succeeded, self.active or self.run)

    @property
    def outcome(self) -> Outcome:
        if self.best is None:
            return "unaccounted"
        return "active" if self.best is self.active else self.best.state


@dataclass(frozen=True)
class Paused:
    after: datetime
    until: datetime
    note: str | None


@dataclass(frozen=True)
class Ledger:
    """Of (after, until]; all of it is over, and `more` says that there were too many due times for one answer."""

    after: datetime
    until: datetime
    due: list[Due] = field(default_factory=list)
    unexpected: list[Row[Any]] = field(default_factory=list)  # runs at times that were not due
    paused: list[Paused] = field(default_factory=list)
    more: bool = False

    @property
    def unaccounted(self) -> list[datetime]:
        return [each.due_at for each in self.due if each.run is None]

    @property
    def complete(self) -> bool:
        return not self.unaccounted and not self.unexpected

    @property
    def counts(self) -> Counter[str]:
        return Counter(each.outcome for each in self.due)


async def account(
    session: AsyncSession, schedule: Schedule | Row[Any], after: datetime, until: datetime, most: int = MAX_DUE_TIMES
) -> Ledger:
    """What was due in (after, until], of which the first `most`. `until` is not later than now. Raises NeverDue.

    What was due before `schedule.accounted_from` was pruned, and what is due but not recorded yet is left out.
    """
    after = max(after, schedule.accounted_from)
    if schedule.next_due_at:
        until = min(until, schedule.next_due_at - timedelta(microseconds=1))
    if schedule.paused_until:
        until = min(until, schedule.paused_until)
    if until <= after:
        return Ledger(after, after)
    expected, paused = [], []
    for revision in await _revisions(session, schedule, after, until):
        start, end = max(revision.since, after), min(revision.until or until, until)
        if revision.live:
            for due_at in timing(revision.definition).between(start, end):
                expected.append(due_at)
                if len(expected) > most:
                    break
        elif start < end and revision.change != "deleted":
            paused.append(Paused(start, end, revision.note))
        if len(expected) > most:
            until = expected[most] - timedelta(microseconds=1)
            break
    values = {"schedule_id": schedule.id, "after": after, "until": until, "most": 4 * most}
    rows = (await session.execute(_RUNS, values)).all()
    more = len(expected) > most
    return Ledger(after, until, list(_matched(expected[:most], rows)), _unexpected(expected, rows), paused, more)


async def audit(session: AsyncSession) -> int:
    """Account for a day of each schedule whose last account is older; how many gaps were found."""
    values = {"every": AUDIT_EVERY, "lag": _AUDIT_LAG}
    found = 0
    for schedule in await session.scalars(select(Schedule).from_statement(_TO_AUDIT), values):
        until = schedule.audited_until + AUDIT_EVERY
        gap: str | None
        try:
            of_day = await account(session, schedule, schedule.audited_until, until)
        except NeverDue as error:
            gap = f"It cannot be computed when it was due: {error}"
        else:
            until = of_day.until if of_day.more else until
            gap = None if of_day.complete else _gap(schedule, of_day)
        schedule.audited_until = until
        if gap:
            found += 1
            await alarms.raise_(session, "unaccounted", str(schedule.id), gap, schedule_id=schedule.id)
    await session.flush()
    return found


def _gap(schedule: Schedule, ledger: Ledger) -> str:
    return (
        f"From {ledger.after:%Y-%m-%d %H:%M} to {ledger.until:%Y-%m-%d %H:%M} UTC"
        f" {len(ledger.unaccounted)} due times have no row, and {len(ledger.unexpected)} runs"
        f" were at no due time. See GET /v1/schedules/{schedule.id}/ledger."
    )


def timing(definition: dict[str, Any]) -> Timing:
    """Of a revision."""
    moments = {name: datetime.fromisoformat(definition[name]) for name in _MOMENTS if definition.get(name)}
    return Timing(
        definition.get("cron"),
        definition.get("every_seconds"),
        moments.get("at"),
        definition["timezone"],
        moments["anchor_at"],
        moments.get("start_at"),
        moments.get("end_at"),
    )


async def _revisions(
    session: AsyncSession, schedule: Schedule | Row[Any], after: datetime, until: datetime
) -> list[Revision]:
    overlapping = (Revision.until.is_(None) | (Revision.until > after)) & (Revision.since < until)
    query = select(Revision).where(Revision.schedule_id == schedule.id, overlapping).order_by(Revision.revision)
    return list(await session.scalars(query))


def _matched(expected: list[datetime], rows: Sequence[Row[Any]]) -> Iterator[Due]:
    runs = {row.due_at: row for row in rows if row.trigger == "schedule"}
    backfills: dict[datetime, list[Row[Any]]] = {}
    for row in rows:
        if row.trigger == "backfill":
            backfills.setdefault(row.due_at, []).append(row)
    return (Due(due_at, runs.get(due_at), backfills.get(due_at, ())) for due_at in expected)


def _unexpected(expected: list[datetime], rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    known = set(expected)
    return [row for row in rows if row.trigger == "schedule" and row.due_at not in known]
