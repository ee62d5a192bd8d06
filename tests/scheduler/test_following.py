"""A backup that a run follows to its end: what becomes of the run, and how it is cancelled."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scheduler import following
from tests.scheduler.gateway import a_backup, problem, proof
from tests.scheduler.one_run import BACKUP, Make, OneRun

FOLLOWED = "20261122T020000Z-00000000"


async def test_a_run_goes_from_its_request_to_its_end(one: OneRun) -> None:
    await one.take(1)
    run = await one.row()
    assert (run["state"], run["seq"], run["backup_id"], run["reason"]) == (
        "waiting",
        2,
        "20261122T020000Z-00000000",
        None,
    )
    assert timedelta(0) < run["wakes_in"] <= timedelta(seconds=1)

    one.gateway.outcome = {"state": "running"}
    await one.take(2)
    assert ((await one.row())["state"], (await one.row())["seq"]) == ("waiting", 3)

    one.gateway.outcome = {"state": "stored"}
    await one.take(3)
    run = await one.row()
    assert (run["state"], run["reason"], run["lease_until"], run["announce_at"]) == ("succeeded", None, None, None)
    assert run["ended_at"] >= run["started_at"]

    post, *gets = one.gateway.calls
    assert (post.body, post.headers["idempotency-key"]) == ({"label": "daily-backup"}, str(one.id))
    assert [get.path for get in gets] == ["/v1/backups/20261122T020000Z-00000000"] * 2


@pytest.mark.parametrize(
    ("outcome", "state", "reason", "announced_by_us"),
    [
        ({"state": "stored"}, "succeeded", None, False),
        ({"state": "proven"}, "succeeded", None, False),
        (
            {"state": "stored", "reason": "not proven: the proof server is away", "announced": True},
            "succeeded",
            "The backup is stored, but not proven: the proof server is away",
            False,
        ),
        ({"state": "failed", "reason": "no space"}, "failed", "The backup failed: no space", True),
        ({"state": "failed"}, "failed", "The backup failed.", True),
        ({"state": "failed", "announced": True}, "failed", "The backup failed.", False),
        ({"state": "failed", "reason": "lost", "announced": True}, "failed", "The backup failed: lost", False),
        ({"state": "failed", "ended_at": "2026-11-22T02:00:00Z"}, "failed", "The backup failed.", True),
        (
            {"state": "proven", "unheard": "nobody was subscribed", "announced": True},
            "succeeded",
            "The backup is proven, but nobody was subscribed",
            False,
        ),
        ({"state": "suspect", "reason": "0 rows"}, "failed", "The backup is stored, but suspect: 0 rows", True),
        (
            {"state": "suspect", "reason": "0 rows", "announced": True},
            "failed",
            "The backup is stored, but suspect: 0 rows",
            False,
        ),
        ({"state": "broken"}, "failed", "The backup is stored, but its proof failed.", True),
        (
            {"state": "broken", "reason": "block 3", "announced": True},
            "failed",
            "The backup is stored, but its proof failed: block 3",
            False,
        ),
        ({"state": "cancelled", "announced": True}, "failed", "The backup was cancelled.", False),
        ({"state": "expired"}, "failed", "The backup was removed by retention before its end was seen.", True),
        ({"state": "failed", "reason": "a\x00b\nc"}, "failed", "The backup failed: a b c", True),
        ({"state": "queued"}, "waiting", None, False),
        ({"state": "running"}, "waiting", None, False),
        ({"state": "running", "reason": "its worker was not heard of"}, "waiting", None, False),
        ({"state": "running", "progress": {"stage": "restoring"}, "rows": 12}, "waiting", None, False),
        ({"state": "of-a-later-release"}, "waiting", None, False),
    ],
)
async def test_a_run_is_what_the_backup_is(
    one: OneRun,
    outcome: dict[str, Any],
    state: str,
    reason: str | None,
    announced_by_us: bool,
) -> None:
    one.gateway.outcome = outcome
    await one.take(1)
    await one.take(2)
    run = await one.row()
    assert (run["state"], run["reason"], run["announce_at"] is not None) == (state, reason, announced_by_us)


@pytest.mark.parametrize("announced", [True, False])
async def test_the_function_gets_a_moment_to_announce_what_it_has_just_ended(one: OneRun, announced: bool) -> None:
    one.gateway.outcome = {"state": "failed", "reason": "no space", "ended_at": datetime.now(UTC).isoformat()}
    await one.take(1)
    await one.take(2)
    run = await one.row()
    assert (run["state"], run["reason"], run["announce_at"]) == ("waiting", "The backup failed: no space", None)
    assert timedelta(seconds=5) < run["wakes_in"] <= timedelta(seconds=following.NOTICE_SECONDS)

    moments_ago = datetime.now(UTC) - run["wakes_in"] - timedelta(seconds=1)
    one.gateway.outcome |= {"announced": announced, "ended_at": moments_ago.isoformat()}
    await one.take(3)
    run = await one.row()
    assert (run["state"], run["announce_at"] is None) == ("failed", announced)


async def test_the_moment_to_announce_begins_with_the_end_of_the_proof(one: OneRun) -> None:
    """Which may come hours after the rows were stored."""
    now = datetime.now(UTC)
    ended = {"ended_at": (now - timedelta(hours=1)).isoformat(), "proof": proof(1, "broken", now.isoformat())}
    one.gateway.outcome = {"state": "broken", "reason": "block 3"} | ended
    await one.take(1)
    await one.take(2)
    run = await one.row()
    assert (run["state"], run["announce_at"]) == ("waiting", None)
    one.gateway.outcome |= {"announced": True}
    await one.take(3)
    run = await one.row()
    assert (run["state"], run["announce_at"]) == ("failed", None)


async def test_a_backup_that_never_ends_fails_the_run_at_its_deadline(one: OneRun) -> None:
    one.gateway.outcome = {"state": "running"}
    await one.take(1)
    await one.be_overdue()
    await one.take(2)
    run = await one.row()
    said = "The backup was still running at the run's deadline. It was asked to end."
    assert (run["state"], run["reason"]) == ("failed", said)
    assert one.gateway.asked[-1] == f"POST /backups/{FOLLOWED}/cancel"
    assert run["announce_at"] is not None


async def test_a_backup_that_ended_in_time_counts_though_it_is_seen_late(one: OneRun) -> None:
    await one.take(1)
    await one.be_overdue()
    await one.take(2)  # it asks that it be cancelled, and is told that it has ended
    assert (await one.take(3))["state"] == "succeeded"


async def test_a_deadline_at_which_the_backup_cannot_be_cancelled_says_both(one: OneRun) -> None:
    one.gateway.outcome = {"state": "running"}
    await one.take(1)
    await one.be_overdue()
    one.gateway.instead.append(problem(503, "Not now."))
    run = await one.take(2)
    assert (run["state"], run["announce_at"] is not None) == ("failed", True)
    said = "The backup had not ended at the run's deadline, and could not be cancelled."
    assert run["reason"] == f"{said} The backup API answered 503 Service Unavailable: Not now."


async def test_a_backup_that_is_found_only_after_the_deadline_is_asked_to_end(one: OneRun) -> None:
    one.gateway.loses_answers = True
    await one.take(1)
    one.gateway.loses_answers = False
    one.gateway.outcome = {"state": "running"}
    await one.be_overdue()
    assert (await one.take(2))["state"] == "waiting"
    assert (await one.take(3))["reason"].endswith("It was asked to end.")


async def test_what_is_known_of_its_progress_is_kept(one: OneRun) -> None:
    one.gateway.outcome = {
        "state": "running",
        "progress": {"stage": "copying", "rows": 12, "bytes": 900, "percent": 7, "rows_per_second": 4.5},
    }
    await one.take(1)
    run = await one.take(2)
    assert run["accepted_at"]
    shown = one.gateway.outcome["progress"] | {"bytes_per_second": None, "seconds_left": None}
    assert json.loads(run["progress"]) == shown
    one.gateway.outcome = {"state": "running", "progress": None}
    assert json.loads((await one.take(3))["progress"]) == shown
    one.gateway.outcome = {"state": "proven", "rows": 20, "bytes": 1000}
    ended = {"stage": "proven", "rows": 20, "bytes": 1000, "percent": 100}
    assert json.loads((await one.take(4))["progress"]) == ended


async def test_some_tables_only_are_asked_for_by_name(make: Make) -> None:
    one = await make(target=BACKUP | {"tables": ["notes.notes"]})
    await one.take(1)
    assert one.gateway.calls[0].body == {"label": "daily-backup", "tables": ["notes.notes"]}


async def test_a_run_that_is_cancelled_cancels_its_backup_once_and_follows_it(one: OneRun) -> None:
    one.gateway.outcome = {"state": "running"}
    await one.take(1)
    await one.be_cancelled()
    run = await one.take(2)
    assert (run["state"], run["reason"]) == ("waiting", "The backup was asked to end.")
    one.gateway.outcome = {"state": "running"}  # not yet
    assert (await one.take(3))["state"] == "waiting"
    one.gateway.outcome = {"state": "cancelled", "reason": "cancelled by a person", "announced": True}
    run = await one.take(4)
    assert (run["state"], run["announce_at"]) == ("cancelled", None)
    assert run["reason"] == "The backup was cancelled: cancelled by a person"
    assert [each for each in one.gateway.asked if each.endswith("/cancel")] == [f"POST /backups/{FOLLOWED}/cancel"]


async def test_a_backup_that_ended_before_the_cancel_has_succeeded(one: OneRun) -> None:
    await one.take(1)
    await one.be_cancelled()
    assert (await one.take(2))["state"] == "waiting"  # it was told: 409
    run = await one.take(3)
    assert (run["state"], run["reason"]) == ("succeeded", "It had ended before it could be cancelled.")


async def test_a_run_that_is_cancelled_before_it_asked_makes_no_backup(one: OneRun) -> None:
    await one.be_cancelled()
    run = await one.take(1)
    assert (run["state"], one.gateway.calls) == ("cancelled", [])


async def test_a_run_that_is_cancelled_finds_the_backup_of_the_answer_that_was_lost(one: OneRun) -> None:
    one.gateway.outcome = {"state": "running"}
    one.gateway.loses_answers = True
    await one.take(1)
    one.gateway.loses_answers = False
    await one.be_cancelled()
    for seq in (2, 3):
        assert (await one.take(seq))["state"] == "waiting"
    assert (await one.take(4))["state"] == "cancelled"
    assert one.gateway.asked == [
        "POST /backups",
        "POST /backups",
        f"POST /backups/{FOLLOWED}/cancel",
        f"GET /backups/{FOLLOWED}",
    ]


async def test_a_run_that_is_cancelled_and_whose_start_is_refused_is_over(one: OneRun) -> None:
    one.gateway.instead += [problem(503, "Not now."), problem(422, "No.")]
    await one.take(1)
    await one.be_cancelled()
    run = await one.take(2)
    assert (run["state"], run["announce_at"]) == ("cancelled", None)
    assert "422" in run["reason"]


async def test_a_cancel_that_is_not_answered_is_asked_again(one: OneRun) -> None:
    one.gateway.outcome = {"state": "running"}
    await one.take(1)
    await one.be_cancelled()
    one.gateway.instead.append(problem(503, "Not now."))
    await one.take(2)
    await one.take(3)
    assert (await one.take(4))["state"] == "cancelled"


@pytest.mark.parametrize(
    ("outcome", "state", "announced_by_us"),
    [
        ({"state": "stored"}, "succeeded", False),
        ({"state": "failed", "reason": "no space"}, "failed", True),
        ({"state": "failed", "reason": "no space", "announced": True}, "failed", False),
        ({"state": "cancelled", "announced": True}, "failed", False),
        ({"state": "queued"}, "waiting", False),
    ],
)
async def test_an_adopted_backup_is_followed_and_never_started(
    make: Make, outcome: dict[str, Any], state: str, announced_by_us: bool
) -> None:
    target = {"kind": "backup", "adopted": True}
    one = await make(trigger="adopted", schedule_id=None, target=target, backup_id="b-7")
    one.gateway.listed = [a_backup("b-7") | outcome]
    run = await one.take(1)
    assert (run["state"], run["announce_at"] is not None) == (state, announced_by_us)
    assert one.gateway.asked == ["GET /backups/b-7"]


async def test_an_adopted_backup_is_not_ended_by_our_time_limit(make: Make) -> None:
    target = {"kind": "backup", "adopted": True}
    one = await make(trigger="adopted", schedule_id=None, target=target, backup_id="b-7")
    one.gateway.outcome = {"state": "running"}
    await one.be_overdue()
    run = await one.take(1)
    assert (run["state"], run["announce_at"] is not None) == ("failed", True)
    assert run["reason"] == "The backup was still running at the run's deadline."
    assert one.gateway.asked == ["GET /backups/b-7"]


async def test_an_adopted_backup_can_be_cancelled(make: Make) -> None:
    target = {"kind": "backup", "adopted": True}
    one = await make(trigger="adopted", schedule_id=None, target=target, backup_id="b-7")
    one.gateway.outcome = {"state": "running"}
    await one.be_cancelled()
    await one.take(1)
    assert (await one.take(2))["state"] == "cancelled"
