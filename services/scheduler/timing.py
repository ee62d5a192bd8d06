"""When a schedule is due: by a cron expression on the clocks of a zone, at an interval, or once.

`cronsim` finds what matches on clocks that never change. What a change does is decided here, as Debian's cron does it:
a time of day (neither minutes nor hours begin with `*`) that does not exist is due when the clocks have changed, and
one that comes twice is due the first time; what repeats by `*` goes by the clocks as they are.

The same due times come out wherever one starts to look: a tick, a ledger and a preview all see the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from scheduler.errors import NeverDue

_INSTANT = timedelta(microseconds=1)
_FIRST_LOOK = timedelta(hours=2)


@dataclass(frozen=True)
class Change:
    """Clocks of a zone that go forward or back, at an instant, in UTC."""

    at: datetime
    before: timedelta  # the offset from UTC
    after: timedelta

    @property
    def forward(self) -> bool:
        return self.after > self.before

    @property
    def old_wall(self) -> datetime:
        """What the clocks would show at the instant if they did not change; without a zone."""
        return self.at.replace(tzinfo=None) + self.before

    @property
    def new_wall(self) -> datetime:
        return self.at.replace(tzinfo=None) + self.after


@dataclass(frozen=True)
class Timing:
    """Of `cron`, `every_seconds` and `at` one is given. Due times lie in [start_at, end_at)."""

    cron: str | None
    every_seconds: int | None
    at: datetime | None
    timezone: str
    anchor_at: datetime  # what intervals are counted from
    start_at: datetime | None = None
    end_at: datetime | None = None

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Due times later than `moment`, in UTC, earliest first. Raises NeverDue."""
        if self.start_at and self.start_at > moment:
            moment = self.start_at - _INSTANT
        for due_at in self._all_after(moment):
            if self.end_at and due_at >= self.end_at:
                return
            yield due_at

    def next(self, moment: datetime) -> datetime | None:
        """The first later than `moment`; None when the schedule is over. Raises NeverDue."""
        return next(self.after(moment), None)

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Those in (after, until]. Raises NeverDue."""
        for due_at in self.after(after):
            if due_at > until:
                return
            yield due_at

    def last(self, after: datetime, until: datetime, count: int) -> list[datetime]:
        """The last `count` in (after, until], earliest first. Raises NeverDue."""
        look = _FIRST_LOOK
        while (start := max(after, until - look)) > after:
            if len(found := list(self.between(start, until))) >= count:
                return found[-count:]
            look *= 8
        return list(self.between(after, until))[-count:]

    def _all_after(self, moment: datetime) -> Iterator[datetime]:
        if self.at:
            return iter([self.at] if self.at > moment else [])
        if self.every_seconds:
            return _steps(self.anchor_at, timedelta(seconds=self.every_seconds), moment)
        assert self.cron is not None
        return _by_cron(self.cron, self.timezone, moment)


def _steps(anchor: datetime, every: timedelta, moment: datetime) -> Iterator[datetime]:
    due_at = anchor + every * max((moment - anchor) // every, 0)
    while True:
        if due_at > moment:
            yield due_at
        due_at += every


def _by_cron(cron: str, timezone: str, moment: datetime) -> Iterator[datetime]:
    """Stretch by stretch, in each of which clocks do not change."""
    try:
        changes = _changes_from(timezone, moment)
        fixed = is_time_of_day(cron)
        last = moment
        change = next(changes)  # the one before
        for following in changes:
            shift, begins = change.after, max(moment, change.at - _INSTANT)
            come_again = change.old_wall if fixed and not change.forward else change.new_wall
            for wall in matches(cron, begins.replace(tzinfo=None) + shift, following.old_wall):
                due_at = wall.replace(tzinfo=UTC) - shift
                if wall >= come_again and due_at > last:
                    yield (last := due_at)
            if fixed and following.forward and following.at > last:
                skipped = matches(cron, following.old_wall - _INSTANT, following.new_wall)
                if next(skipped, None):
                    yield (last := following.at)
            change = following
    except (CronSimError, LookupError, OSError, ValueError, OverflowError) as error:
        raise NeverDue(cron, timezone) from error


def is_time_of_day(cron: str) -> bool:
    minutes, hours, *_ = cron.split()
    return not (minutes.startswith("*") or hours.startswith("*"))


def matches(cron: str, after: datetime, before: datetime) -> Iterator[datetime]:
    """What clocks that never change show when `cron` matches: times without a zone, in (after, before).

    Raises NeverDue when nothing matches for 50 years, and CronSimError.
    """
    found = CronSim(cron, after)
    while True:
        try:
            wall = next(found)
        except StopIteration:
            raise NeverDue(cron, "of any kind") from None
        if wall >= before:
            return
        yield wall


def zone(name: str) -> ZoneInfo:
    """Raises NeverDue."""
    try:
        return ZoneInfo(name)
    except (LookupError, OSError, ValueError) as error:
        raise NeverDue("", name) from error


def changes(timezone: str, after: datetime, until: datetime) -> list[Change]:
    """Of the zone's clocks, in (after, until]. Raises NeverDue."""
    zone(timezone)
    years = range(after.year, until.year + 1)
    found = (change for year in years for change in _changes_of_year(timezone, year))
    return [change for change in found if change.before != change.after and after < change.at <= until]


def _changes_from(timezone: str, moment: datetime) -> Iterator[Change]:
    """The last change that is not later than `moment`, then those after it. New Year counts as one, by nothing."""
    year = moment.astimezone(UTC).year
    known = [change for y in (year - 1, year) for change in _changes_of_year(timezone, y)]
    past = [change for change in known if change.at <= moment]
    yield past[-1]
    yield from known[len(past) :]
    while True:
        year += 1
        yield from _changes_of_year(timezone, year)


@lru_cache(maxsize=4096)
def _changes_of_year(timezone: str, year: int) -> tuple[Change, ...]:
    zone = ZoneInfo(timezone)
    start = datetime(year, 1, 1, tzinfo=UTC)
    found = [Change(start, _offset(zone, start), _offset(zone, start))]
    for day in range(366):
        low, high = start + timedelta(days=day), start + timedelta(days=day + 1)
        before, after = _offset(zone, low), _offset(zone, high)
        if before == after or (high.year > year and high.day > 1):
            continue
        while high - low > timedelta(seconds=1):
            middle = low + (high - low) // 2
            middle = middle.replace(microsecond=0)
            low, high = (low, middle) if _offset(zone, middle) != before else (middle, high)
        found.append(Change(high, before, after))
    return tuple(found)


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()
