"""When a cron expression is due, minute by minute: slow, and by nothing that the service uses but the zone's clocks."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)


def due_times(cron: str, timezone: str, after: datetime, until: datetime) -> list[datetime]:
    """Those in (after, until], in UTC. Of days it knows `*` alone."""
    minutes, hours, *days = cron.split()
    assert days == ["*", "*", "*"]
    zone, matching = ZoneInfo(timezone), (_values(minutes, 59), _values(hours, 23))
    time_of_day = not (minutes.startswith("*") or hours.startswith("*"))
    found = []
    moment = after.replace(second=0, microsecond=0) - MINUTE
    while (moment := moment + MINUTE) <= until:
        wall, before = moment.astimezone(zone), (moment - MINUTE).astimezone(zone)
        due = _matches(wall, matching) and not (time_of_day and wall.fold)
        if time_of_day:  # what the clocks have just skipped
            skipped = before.replace(tzinfo=None) + MINUTE
            while skipped < wall.replace(tzinfo=None):
                due = due or _matches(skipped, matching)
                skipped += MINUTE
        if due and moment > after:
            found.append(moment)
    return found


def _values(text: str, most: int) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = ("0", "", str(most)) if span == "*" else span.partition("-")
        found |= set(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


def _matches(wall: datetime, matching: tuple[set[int], set[int]]) -> bool:
    minutes, hours = matching
    return wall.minute in minutes and wall.hour in hours
