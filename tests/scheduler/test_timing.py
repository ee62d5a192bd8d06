"""When a schedule is due, above all when clocks change."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.errors import NeverDue
from scheduler.timing import Timing, changes
from tests.scheduler import oracle

START = datetime(2026, 1, 1, tzinfo=UTC)
CHANGING = [
    ("Europe/Ljubljana", "2026-03-29"),
    ("Europe/Ljubljana", "2026-10-25"),
    ("Australia/Lord_Howe", "2026-04-05"),  # by half an hour
    ("Australia/Lord_Howe", "2026-10-04"),
    ("America/Havana", "2026-03-08"),  # at midnight
    ("America/Havana", "2026-11-01"),
    ("America/Santiago", "2026-09-06"),
    ("Antarctica/Troll", "2026-03-29"),  # by two hours
    ("Antarctica/Troll", "2026-10-25"),
    ("Pacific/Apia", "2011-12-30"),  # a day that was not
    ("UTC", "2026-12-31"),
]
CRONS = ["* * * * *", "*/30 * * * *", "30 * * * *", "30 2 * * *", "0 0 * * *", "15,45 1-3 * * *", "0 3 * * *",
         "*/20 2 * * *", "30 23 * * *", "7 */2 * * *", "* 0 * * *"]  # fmt: skip


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def by_cron(cron: str, timezone: str = "UTC") -> Timing:
    return Timing(cron, None, None, timezone, START)


@pytest.mark.parametrize(("timezone", "day"), CHANGING)
@pytest.mark.parametrize("cron", CRONS)
def test_due_times_are_those_of_the_oracle(cron: str, timezone: str, day: str) -> None:
    after, until = at(day) - timedelta(hours=27), at(day) + timedelta(hours=30)
    assert list(by_cron(cron, timezone).between(after, until)) == oracle.due_times(cron, timezone, after, until)


@given(
    st.sampled_from(CHANGING),
    st.sampled_from(CRONS),
    st.timedeltas(timedelta(0), timedelta(hours=57)),
    st.integers(1, 40),
)
def test_they_are_the_same_wherever_one_starts_to_look(
    where: tuple[str, str], cron: str, offset: timedelta, count: int
) -> None:
    timezone, day = where
    start = at(day) - timedelta(hours=27)
    moment, end = start + offset, start + timedelta(hours=57)
    known = oracle.due_times(cron, timezone, start, end)
    times = by_cron(cron, timezone)
    assert list(times.between(moment, end)) == [due_at for due_at in known if due_at > moment]
    assert times.last(start, moment, count) == [due_at for due_at in known if due_at <= moment][-count:]


@pytest.mark.parametrize(
    ("cron", "timezone", "after", "expected"),
    [
        ("0 2 * * *", "UTC", "2026-11-22T01:59:59", "2026-11-22T02:00"),
        ("0 2 * * *", "UTC", "2026-11-22T02:00:00", "2026-11-23T02:00"),
        ("0 2 29 2 *", "UTC", "2026-11-22T00:00:00", "2028-02-29T02:00"),
        ("0 0 L * *", "UTC", "2026-11-22T00:00:00", "2026-11-30T00:00"),
        ("0 9 * * MON#2", "UTC", "2026-11-22T00:00:00", "2026-12-14T09:00"),
        ("30 2 * * *", "Europe/Ljubljana", "2026-10-24T12:00:00", "2026-10-25T00:30"),  # 02:30 twice: the first
        ("30 2 * * *", "Europe/Ljubljana", "2026-10-25T00:30:00", "2026-10-26T01:30"),  # and not the second
        ("30 2 * * *", "Europe/Ljubljana", "2026-10-25T01:10:00", "2026-10-26T01:30"),  # also from between the two
        ("30 2 * * *", "Europe/Ljubljana", "2026-03-28T12:00:00", "2026-03-29T01:00"),  # no 02:30: 03:00 is next
        ("0 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00", "2026-10-03T15:30"),  # 30 minutes do not exist
    ],
)
def test_the_next_one(cron: str, timezone: str, after: str, expected: str) -> None:
    found = by_cron(cron, timezone).next(at(after))
    assert found == at(expected)
    assert found.tzinfo is UTC


@given(st.integers(60, 10**6), st.integers(-(10**7), 10**8))
def test_intervals_are_counted_from_their_anchor(seconds: int, offset: int) -> None:
    moment = START + timedelta(seconds=offset)
    times = Timing(None, seconds, None, "UTC", START)
    first = times.next(moment)
    assert first is not None
    assert first > moment
    assert first >= START
    assert (first - START) % timedelta(seconds=seconds) == timedelta(0)
    assert first - moment <= timedelta(seconds=seconds) or first == START


def test_once_is_once() -> None:
    times = Timing(None, None, at("2026-06-01T12:00"), "UTC", START)
    assert list(times.after(START)) == [at("2026-06-01T12:00")]
    assert list(times.after(at("2026-06-01T12:00"))) == []


def test_nothing_is_due_before_the_start_nor_from_the_end_on() -> None:
    times = Timing("0 12 * * *", None, None, "UTC", START, at("2026-06-01T12:00"), at("2026-06-04T12:00"))
    assert list(times.after(START)) == [at(f"2026-06-0{day}T12:00") for day in (1, 2, 3)]
    assert times.next(at("2026-06-03T12:00")) is None


@pytest.mark.parametrize(
    ("cron", "timezone"),
    [("0 0 30 2 *", "UTC"), ("every day", "UTC"), ("0 2 * * *", "Mars/Olympus"), ("0 2 * * *", "/etc/passwd"),
     ("0 2 * * *", "Europe"), ("0 0 31 4,6 *", "UTC")],
)  # fmt: skip
def test_what_is_never_due_says_so(cron: str, timezone: str) -> None:
    with pytest.raises(NeverDue, match="cannot be computed"):
        by_cron(cron, timezone).next(START)


def test_changes_of_clocks_are_found_to_the_second() -> None:
    found = changes("Europe/Ljubljana", at("2026-03-29T01:00"), at("2027-03-28T01:00"))
    assert [each.at for each in found] == [at("2026-10-25T01:00"), at("2027-03-28T01:00")]
    assert changes("UTC", at("2026-01-01T00:00"), at("2036-01-01T00:00")) == []
