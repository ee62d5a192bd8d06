"""The rota of proofs: which backup is proven, and what becomes of the run."""

from datetime import timedelta

import pytest
from starlette.responses import JSONResponse

from scheduler import proofs
from tests.scheduler.gateway import NOW, a_backup, problem, proof
from tests.scheduler.one_run import Make, OneRun

FOUR = [
    a_backup("b-9", proven_at="2026-11-20T00:00:00Z"),
    a_backup("b-8", proven_at="2026-11-02T00:00:00Z", number=4),
    a_backup("b-7", "suspect", proven_at="2026-11-03T00:00:00+01:00"),
    a_backup("b-6", "expired", proven_at="2026-10-01T00:00:00Z"),
]


@pytest.fixture
async def rota(make: Make) -> OneRun:
    one = await make(target={"kind": "proof"})
    one.gateway.listed = [dict(each) for each in FOUR]
    return one


async def asked_for(one: OneRun, backup_id: str) -> int:
    """The next step, when the proof of this backup has been asked for and no other was."""
    await one.take(1)
    await one.take(2)
    assert one.gateway.asked == ["GET /backups", f"POST /backups/{backup_id}/proofs"]
    return 3


async def test_the_one_that_was_proven_longest_ago_is_proven_and_followed(rota: OneRun) -> None:
    run = await rota.take(1)
    assert (run["state"], run["backup_id"], run["accepted_at"]) == ("waiting", "b-8", None)
    run = await rota.take(2)
    assert (run["state"], run["accepted_at"] is not None) == ("waiting", True)
    assert rota.gateway.calls[1].body == {}
    run = await rota.take(3)
    assert (run["state"], '"stage": "restoring"' in run["progress"]) == ("waiting", True)
    rota.gateway.proved("b-8")
    run = await rota.take(4)
    assert (run["state"], run["reason"], run["backup_id"], run["announce_at"]) == ("succeeded", None, "b-8", None)


async def test_one_that_was_never_proven_comes_first_and_of_those_the_oldest(rota: OneRun) -> None:
    rota.gateway.listed = [a_backup("b-11", "stored"), a_backup("b-10", "stored"), *rota.gateway.listed]
    await asked_for(rota, "b-10")


async def test_a_proof_that_was_not_finished_counts_too_or_it_would_be_the_next_for_ever(rota: OneRun) -> None:
    rota.gateway.listed[1]["unfinished_proof"] = proof(5, "unfinished", "2026-11-21T00:00:00Z", "no room")
    await asked_for(rota, "b-7")


async def test_what_is_being_proven_is_left(rota: OneRun) -> None:
    rota.gateway.listed[1]["progress"] = {"stage": "restoring"}
    await asked_for(rota, "b-7")


@pytest.mark.parametrize("state", ["broken", "expired", "failed", "cancelled", "queued", "running"])
async def test_what_has_no_rows_or_is_known_to_be_broken_is_left(rota: OneRun, state: str) -> None:
    rota.gateway.listed[1]["state"] = state
    await asked_for(rota, "b-7")


async def test_all_pages_are_looked_through(rota: OneRun) -> None:
    rota.gateway.page = 1
    for seq in range(1, 5):
        await rota.take(seq)
    await rota.take(5)
    pages = ["GET /backups", *(f"GET /backups/before/b-{number}" for number in (9, 8, 7))]
    assert rota.gateway.asked == [*pages, "POST /backups/b-8/proofs"]


@pytest.mark.parametrize("listed", [[], [a_backup("b-6", "expired")]])
async def test_no_backup_to_prove_is_told(rota: OneRun, listed: list[dict[str, object]]) -> None:
    rota.gateway.listed = listed
    run = await rota.take(1)
    assert (run["state"], run["reason"]) == ("failed", "There is no backup to prove.")
    assert run["announce_at"] is not None


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [("broken", "The backup is broken: block 3"), ("unfinished", "The proof was not finished: block 3")],
)
async def test_any_other_verdict_fails_the_run(rota: OneRun, verdict: str, reason: str) -> None:
    seq = await asked_for(rota, "b-8")
    rota.gateway.proved("b-8", verdict, "block 3")
    run = await rota.take(seq)
    assert (run["state"], run["reason"], run["announce_at"]) == ("failed", reason, None)


async def test_a_verdict_that_nobody_told_is_announced(rota: OneRun) -> None:
    seq = await asked_for(rota, "b-8")
    rota.gateway.proved("b-8", "broken", "block 3")
    rota.gateway.listed[1]["announced"] = False
    assert (await rota.take(seq))["announce_at"] is not None


async def test_a_suspect_backup_that_is_proven_stays_suspect_and_the_run_says_so(rota: OneRun) -> None:
    rota.gateway.listed = [rota.gateway.listed[2]]
    seq = await asked_for(rota, "b-7")
    rota.gateway.proved("b-7")
    rota.gateway.listed[0] |= {"state": "suspect", "reason": "no rows"}
    run = await rota.take(seq)
    assert (run["state"], run["reason"]) == ("succeeded", "The backup is proven, and suspect: no rows")


async def test_a_proof_that_has_a_higher_number_will_do(rota: OneRun) -> None:
    seq = await asked_for(rota, "b-8")
    rota.gateway.listed[1] |= {"progress": None, "proof": proof(9, "proven", NOW)}
    assert (await rota.take(seq))["state"] == "succeeded"


async def test_somebody_elses_proof_that_ended_before_ours_was_asked_for_is_not_ours(rota: OneRun) -> None:
    await rota.take(1)
    rota.gateway.proved("b-8", "proven")
    await rota.take(2)
    assert (await rota.take(3))["state"] == "waiting"


@pytest.mark.parametrize("number", [0, 1])
async def test_a_proof_that_ended_before_it_was_asked_for_is_not_taken_for_it(rota: OneRun, number: int) -> None:
    """Whatever number is answered."""
    await rota.take(1)
    rota.gateway.instead.append(JSONResponse({"backup_id": "b-8", "number": number}, 202))
    for seq in (2, 3, 4):
        assert (await rota.take(seq))["state"] == "waiting"


@pytest.mark.parametrize("status", [404, 410])
async def test_a_backup_that_retention_removed_is_replaced(rota: OneRun, status: int) -> None:
    await rota.take(1)
    rota.gateway.instead.append(problem(status, "Gone."))
    run = await rota.take(2)
    assert (run["state"], run["backup_id"]) == ("waiting", None)
    rota.gateway.listed[1]["state"] = "expired"
    assert (await rota.take(3))["backup_id"] == "b-7"


async def test_a_backup_that_retention_removes_while_it_is_proven_is_replaced(rota: OneRun) -> None:
    seq = await asked_for(rota, "b-8")
    rota.gateway.listed[1]["state"] = "expired"
    run = await rota.take(seq)
    assert (run["state"], run["backup_id"]) == ("waiting", None)
    assert run["reason"] == "The backup that was to be proven is expired; another one is chosen."


async def test_a_proof_whose_answer_was_lost_is_followed(rota: OneRun) -> None:
    """When it is asked for again, it is being made."""
    await rota.take(1)
    rota.gateway.loses_answers = True
    await rota.take(2)
    rota.gateway.loses_answers = False
    assert (await rota.take(3))["reason"] is None
    assert (await rota.take(4))["state"] == "waiting"
    rota.gateway.proved("b-8")
    assert (await rota.take(5))["state"] == "succeeded"


async def test_a_proof_that_nobody_makes_is_asked_for_again(rota: OneRun, monkeypatch: pytest.MonkeyPatch) -> None:
    seq = await asked_for(rota, "b-8")
    rota.gateway.listed[1]["progress"] = None
    assert (await rota.take(seq))["reason"] is None
    monkeypatch.setattr(proofs, "ASK_AGAIN_SECONDS", 0.0)
    assert (await rota.take(seq + 1))["reason"] == "Nobody makes the proof; it is asked for again."
    await rota.take(seq + 2)
    assert rota.gateway.asked.count("POST /backups/b-8/proofs") == 2


async def test_a_refusal_fails_the_run(rota: OneRun) -> None:
    await rota.take(1)
    rota.gateway.instead.append(JSONResponse({"message": "Forbidden"}, 403))
    run = await rota.take(2)
    assert (run["state"], run["announce_at"] is not None) == ("failed", True)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (1, "It was not asked for before its deadline."),
        (2, "The proof had not ended at the run's deadline."),
    ],
)
async def test_a_proof_has_a_time_limit(rota: OneRun, steps: int, reason: str) -> None:
    for seq in range(1, steps + 1):
        await rota.take(seq)
    await rota.be_overdue()
    run = await rota.take(steps + 1)
    assert (run["state"], run["reason"], run["announce_at"] is not None) == ("failed", reason, True)


async def test_a_proof_that_ended_in_time_counts_though_it_is_seen_late(rota: OneRun) -> None:
    seq = await asked_for(rota, "b-8")
    rota.gateway.proved("b-8")
    await rota.be_overdue()
    assert (await rota.take(seq))["state"] == "succeeded"


async def test_a_run_that_is_cancelled_asks_nothing_more(rota: OneRun) -> None:
    seq = await asked_for(rota, "b-8")
    await rota.be_cancelled()
    run = await rota.take(seq)
    assert (run["state"], len(rota.gateway.calls)) == ("cancelled", 2)
    assert run["reason"] == "It was cancelled. A proof of b-8 that has begun goes on."


async def test_it_is_looked_at_every_ten_seconds(rota: OneRun) -> None:
    seq = await asked_for(rota, "b-8")
    assert timedelta(seconds=5) < (await rota.take(seq))["wakes_in"] <= timedelta(seconds=10)
