"""What a schedule is going to do, before it does it."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from scheduler.preview import clock_changes, difference, upcoming
from scheduler.timing import Timing
from tests.scheduler.chain import DAILY

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def told(cron: str, timezone: str = "Europe/Ljubljana") -> list[str]:
    return clock_changes(Timing(cron, None, None, timezone, NOW), NOW)


@pytest.mark.parametrize(
    ("cron", "forward", "back"),
    [
        ("30 2 * * *", "is due at 02:30 is due once, at 03:00", "02:30 is due once, the first time"),
        ("*/30 * * * *", "would be due at 02:00, 02:30 is left out", "02:00, 02:30 is due both times"),
        (
            "* * * * *",
            "would be due at 02:00, 02:01, 02:02 and 57 more times is left out",
            "02:00, 02:01, 02:02 and 57 more times is due both times",
        ),
    ],
)
def test_a_sentence_says_what_a_change_of_the_clocks_does(cron: str, forward: str, back: str) -> None:
    where = "clocks in Europe/Ljubljana go"
    assert told(cron) == [
        f"On 29 March 2026 {where} forward by 1 hour, and 02:00 to 03:00 does not exist: what {forward}.",
        f"On 25 October 2026 {where} back by 1 hour, and 02:00 to 03:00 comes twice: what is due at {back}.",
    ]


def test_a_change_at_another_time_of_the_day_does_nothing() -> None:
    assert [sentence.partition(": ")[2] for sentence in told("0 12 * * *")] == ["nothing is due then."] * 2


def test_half_an_hour_is_called_so() -> None:
    assert told("15 2 * * *", "Australia/Lord_Howe")[1] == (
        "On 4 October 2026 clocks in Australia/Lord_Howe go forward by 30 minutes, and 02:00 to 02:30 does not exist:"
        " what is due at 02:15 is due once, at 02:30."
    )


def test_nothing_is_said_where_clocks_do_not_change() -> None:
    assert told("30 2 * * *", "UTC") == []
    assert clock_changes(Timing(None, None, NOW, "Europe/Ljubljana", NOW), NOW) == []


def test_an_interval_goes_on_and_the_clocks_show_something_else() -> None:
    assert clock_changes(Timing(None, 86400, None, "Europe/Ljubljana", NOW), NOW)[0] == (
        "On 29 March 2026 clocks in Europe/Ljubljana go forward by 1 hour: from then on they show 1 hour later when it"
        " is due."
    )


def test_changes_before_it_begins_are_left_out() -> None:
    begins = NOW.replace(year=2029)
    sentences = clock_changes(Timing("30 2 * * *", None, None, "Europe/Ljubljana", NOW, start_at=begins), NOW)
    assert ["2029" in sentence for sentence in sentences] == [True, True]


def test_it_looks_so_far_and_no_further() -> None:
    rarely = upcoming(Timing("0 0 29 2 */7", None, None, "UTC", NOW), NOW, 100)
    assert [due.at.year for due in rarely] == [2032, 2060]
    assert [due.at.year for due in upcoming(Timing(None, None, NOW.replace(year=2150), "UTC", NOW), NOW, 9)] == [2150]


def test_an_edit_is_compared_as_far_as_both_sides_are_known() -> None:
    daily, twice = (Timing(cron, None, None, "UTC", NOW) for cron in ("0 2 * * *", "0 2,14 * * *"))
    gone, come = difference(daily, twice, NOW, 4)
    assert [each.at for each in gone] == []
    assert [each.at for each in come] == [NOW + timedelta(hours=14), NOW + timedelta(days=1, hours=14)]
    gone, come = difference(twice, Timing("0 3 * * *", None, None, "UTC", NOW), NOW, 3)
    assert [each.at.hour for each in gone] == [2, 14, 2]
    assert [each.at.hour for each in come] == [3]


async def test_a_schedule_shows_its_next_due_times_locally_and_in_utc(ops: httpx.AsyncClient) -> None:
    wanted = {"name": "x", "cron": "30 2 * * *", "timezone": "Asia/Kathmandu", "target": {"kind": "backup"}}
    before = (await ops.post("/v1/schedules:preview", params={"count": 3}, json=wanted)).json()
    made = (await ops.post("/v1/schedules", json=wanted)).json()
    after = (await ops.get(f"/v1/schedules/{made['id']}/preview", params={"count": 3})).json()
    assert before == after
    assert len(after["due"]) == 3
    assert after["due"][0]["at"] == made["next_due_at"]
    assert [each["local"][11:] for each in after["due"]] == ["02:30:00+05:45"] * 3
    assert (after["timezone"], after["clock_changes"]) == ("Asia/Kathmandu", [])


async def test_an_edit_shows_what_appears_and_what_disappears_and_changes_nothing(ops: httpx.AsyncClient) -> None:
    before = (await ops.get(f"/v1/schedules/{DAILY}")).json()
    shown = await ops.post(f"/v1/schedules/{DAILY}/preview", params={"count": 2}, json={"cron": "0 3 * * *"})
    assert shown.status_code == 200, shown.text
    told = shown.json()
    assert [each["local"][11:13] for each in told["due"]] == ["03", "03"]
    assert {each["at"][11:13] for each in told["disappear"]} == {"02"}
    assert {each["at"][11:13] for each in told["appear"]} == {"03"}
    assert (await ops.get(f"/v1/schedules/{DAILY}")).json() == before


async def test_a_wrong_edit_is_refused_as_it_would_be(ops: httpx.AsyncClient) -> None:
    shown = await ops.post(f"/v1/schedules/{DAILY}/preview", json={"cron": "0 0 30 2 *"})
    assert (shown.status_code, shown.json()["errors"][0]["pointer"]) == (422, "#/cron")
