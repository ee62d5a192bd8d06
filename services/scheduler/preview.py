"""The next due times of a schedule, in plain sight, and what changes of the clocks do to them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile

from scheduler import timing
from scheduler.timing import Change, Timing

LOOK_AHEAD = timedelta(days=400)
HORIZON = timedelta(days=50 * 366)
MAX_CHANGES = 2
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class DueTime:
    at: datetime  # UTC
    local: datetime  # in the schedule's zone, with its offset


def upcoming(times: Timing, now: datetime, count: int) -> list[DueTime]:
    """The next `count`, of those within HORIZON. Raises NeverDue."""
    zone, until = timing.zone(times.timezone), _begin(times, now) + HORIZON
    near = takewhile(lambda due_at: due_at < until, times.after(now))
    return [DueTime(due_at, due_at.astimezone(zone)) for due_at in islice(near, count)]


def difference(before: Timing, after: Timing, now: datetime, count: int) -> tuple[list[DueTime], list[DueTime]]:
    """Of the next `count` due times of both: those that disappear, and those that appear. Raises NeverDue.

    They are compared as far as both are known.
    """
    old, new = upcoming(before, now, count), upcoming(after, now, count)
    ends = [each[-1].at for each in (old, new) if len(each) == count]
    until = min(ends, default=datetime.max.replace(tzinfo=UTC))
    old_times, new_times = ({each.at for each in many} for many in (old, new))
    gone = [each for each in old if each.at not in new_times and each.at <= until]
    come = [each for each in new if each.at not in old_times and each.at <= until]
    return gone, come


def clock_changes(times: Timing, now: datetime) -> list[str]:
    """A sentence on each of the next changes of the zone's clocks. A single time goes by no clock. Raises NeverDue."""
    if times.at:
        return []
    now = _begin(times, now)
    until = min(now + LOOK_AHEAD, times.end_at or datetime.max.replace(tzinfo=UTC))
    found = timing.changes(times.timezone, now, until)[:MAX_CHANGES]
    return [_sentence(times, change) for change in found]


def _begin(times: Timing, now: datetime) -> datetime:
    return max(now, times.at or times.start_at or now)


def _sentence(times: Timing, change: Change) -> str:
    first, last = sorted((change.old_wall, change.new_wall))
    shift, lost = _length(last - first), f"{first:%H:%M} to {last:%H:%M}"
    on = f"On {first.day} {first:%B %Y} clocks in {times.timezone}"
    if (cron := times.cron) is None:
        go, then = ("forward", "later") if change.forward else ("back", "earlier")
        return f"{on} go {go} by {shift}: from then on they show {shift} {then} when it is due."
    walls = list(timing.matches(cron, first - timedelta(microseconds=1), last))
    which = _listed(walls)
    if change.forward:
        head = f"{on} go forward by {shift}, and {lost} does not exist"
        if not walls:
            return f"{head}: nothing is due then."
        if timing.is_time_of_day(cron):
            return f"{head}: what is due at {which} is due once, at {change.new_wall:%H:%M}."
        return f"{head}: what would be due at {which} is left out."
    head = f"{on} go back by {shift}, and {lost} comes twice"
    if not walls:
        return f"{head}: nothing is due then."
    if timing.is_time_of_day(cron):
        return f"{head}: what is due at {which} is due once, the first time."
    return f"{head}: what is due at {which} is due both times."


def _listed(walls: list[datetime]) -> str:
    shown = ", ".join(f"{wall:%H:%M}" for wall in walls[:3])
    return f"{shown} and {len(walls) - 3} more times" if len(walls) > 3 else shown


def _length(shift: timedelta) -> str:
    minutes = int(shift / _MINUTE)
    if minutes % 60:
        return f"{minutes} minutes"
    return "1 hour" if minutes == 60 else f"{minutes // 60} hours"
