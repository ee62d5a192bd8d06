"""When a schedule is due, cron minute by minute: slow, and by nothing that the service uses but the zone's clocks."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)


def expected(definition: dict[str, Any], after: datetime, until: datetime) -> list[datetime]:
    """When a revision is due in (after, until]."""
    names = ("at", "end_at", "anchor_at")
    moments = {name: datetime.fromisoformat(definition[name]) for name in names if definition.get(name)}
    if at := moments.get("at"):
        found = [at] if after < at <= until else []
    elif seconds := definition["every_seconds"]:
        found = list(_every(moments["anchor_at"], timedelta(seconds=seconds), after, until))
    else:
        found = due_times(definition["cron"], definition["timezone"], after, until)
    return [due_at for due_at in found if "end_at" not in moments or due_at < moments["end_at"]]


def _every(anchor: datetime, every: timedelta, after: datetime, until: datetime) -> Iterator[datetime]:
    due_at = anchor
    while due_at <= until:
        if due_at > after:
            yield due_at
        due_at += every


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
