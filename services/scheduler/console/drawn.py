"""What pages draw, as SVG: charts over time, and where a run's time went. Shapes have classes, and no style."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

WIDTH, HEIGHT = 320, 56
_PHASES = (
    ("due", "recorded", "until it was recorded"),
    ("recorded", "dispatched", "until it was put on the queue"),
    ("dispatched", "claimed", "until a worker took it"),
    ("claimed", "accepted", "until it was accepted"),
    ("accepted", "ended", "until it was done"),
)


class Chart(NamedTuple):
    """Points of a line in a box of WIDTH by HEIGHT, from 0 at its bottom to `highest`."""

    line: str
    dots: Sequence[tuple[float, float]]
    highest: float
    last: float
    first_at: datetime
    last_at: datetime


class Phase(NamedTuple):
    """A part of a run's time; `start` and `width` are of 100."""

    name: str
    says: str
    seconds: float
    start: float
    width: float


def chart(values: Sequence[tuple[datetime, float]]) -> Chart | None:
    """None of fewer than two."""
    if len(values) < 2:
        return None
    first, last = values[0][0], values[-1][0]
    span = (last - first).total_seconds() or 1.0
    highest = max(value for _, value in values) or 1.0
    dots = [
        (
            round(4 + (WIDTH - 8) * (at - first).total_seconds() / span, 1),
            round(HEIGHT - 4 - (HEIGHT - 8) * v / highest, 1),
        )
        for at, v in values
    ]
    line = " ".join(f"{x},{y}" for x, y in dots)
    return Chart(line, dots if len(dots) <= 60 else dots[-1:], highest, values[-1][1], first, last)


def phases(times: Any, now: datetime) -> list[Phase]:
    """Of `schemas.Times`; a run that goes on is drawn until now. What happened at one instant has no width."""
    at = {
        "due": times.planned_at,
        "recorded": max(times.recorded_at, times.planned_at),
        "dispatched": times.dispatched_at,
        "claimed": times.claimed_at,
        "accepted": times.accepted_at,
        "ended": times.ended_at,
    }
    end = times.ended_at or max(now, times.planned_at)
    whole = (end - times.planned_at).total_seconds() or 1.0
    found, since = [], times.planned_at
    for _, name, says in _PHASES:
        until = at[name] or (end if name == "ended" or not any(at[later] for later in _after(name)) else None)
        if until is None or until < since:
            continue
        seconds = (until - since).total_seconds()
        start = (since - times.planned_at).total_seconds()
        found.append(Phase(name, says, seconds, round(100 * start / whole, 2), round(100 * seconds / whole, 2)))
        since = until
        if at[name] is None:
            break
    return found


def _after(name: str) -> list[str]:
    names = [each for _, each, _ in _PHASES]
    return names[names.index(name) + 1 :]
