"""Retention: the plan is applied until nothing of it is left, and the run says what was done."""

import pytest
from starlette.responses import JSONResponse

from tests.scheduler.gateway import problem
from tests.scheduler.one_run import Make, OneRun


@pytest.fixture
async def upkeep(make: Make) -> OneRun:
    one = await make(target={"kind": "retention"})
    one.gateway.to_expire = ["b-1", "b-2", "b-3"]
    one.gateway.to_clean = ["b-0"]
    return one


async def test_the_plan_is_applied(upkeep: OneRun) -> None:
    upkeep.gateway.left = {"b-9": "it is being proven"}
    run = await upkeep.take(1)
    assert (run["state"], run["accepted_at"] is not None) == ("waiting", True)
    run = await upkeep.take(2)
    assert run["state"] == "succeeded"
    said = "The plan is applied. Expired: 3, cleaned: 1. Left: 1: b-9 (it is being proven)"
    assert run["reason"] == said
    assert upkeep.gateway.asked == ["GET /retention", "POST /retention"]


async def test_where_there_is_nothing_to_do_nothing_is_done(upkeep: OneRun) -> None:
    upkeep.gateway.to_expire, upkeep.gateway.to_clean = [], []
    run = await upkeep.take(1)
    assert (run["state"], run["reason"]) == ("succeeded", "There is nothing to remove: 3 are kept.")
    assert upkeep.gateway.asked == ["GET /retention"]


async def test_a_plan_that_cannot_be_true_is_asked_for_again(upkeep: OneRun) -> None:
    upkeep.gateway.instead.append(JSONResponse({"digest": "d", "keep": 1, "expire": 3, "clean": -3}))
    run = await upkeep.take(1)
    assert (run["state"], run["attempts"]) == ("waiting", 1)
    upkeep.gateway.instead.append(JSONResponse({"digest": "a\x00b", "keep": 1, "expire": 3, "clean": 0}))
    assert (await upkeep.take(2))["attempts"] == 2


async def test_another_plan_by_now_is_applied_in_its_place(upkeep: OneRun) -> None:
    await upkeep.take(1)
    upkeep.gateway.to_expire = ["b-1"]
    run = await upkeep.take(2)
    assert (run["state"], run["reason"]) == ("waiting", "The plan is another one by now.")
    await upkeep.take(3)
    run = await upkeep.take(4)
    assert (run["state"], run["reason"]) == ("succeeded", "The plan is applied. Expired: 1, cleaned: 1.")


async def test_what_does_not_fit_into_one_request_takes_several(upkeep: OneRun) -> None:
    upkeep.gateway.applied_at_once = 2
    await upkeep.take(1)
    run = await upkeep.take(2)
    assert (run["state"], run["reason"]) == ("waiting", "There is more to do than fits into one request.")
    await upkeep.take(3)
    run = await upkeep.take(4)
    assert (run["state"], run["reason"]) == ("succeeded", "The plan is applied. Expired: 3, cleaned: 1.")


async def test_an_answer_that_was_lost_is_told(upkeep: OneRun) -> None:
    """What it did is done; the plan is another one when it is asked for again."""
    await upkeep.take(1)
    upkeep.gateway.loses_answers = True
    assert (await upkeep.take(2))["state"] == "waiting"
    upkeep.gateway.loses_answers = False
    await upkeep.take(3)
    run = await upkeep.take(4)
    assert run["state"] == "succeeded"
    lost = "An answer was lost, and what it would have told is not counted."
    assert run["reason"] == f"There is nothing to remove: 3 are kept. {lost}"


async def test_a_refusal_fails_the_run(upkeep: OneRun) -> None:
    await upkeep.take(1)
    upkeep.gateway.instead.append(problem(403, "Forbidden."))
    run = await upkeep.take(2)
    assert (run["state"], run["announce_at"] is not None) == ("failed", True)


async def test_a_cancelled_one_says_how_far_it_came(upkeep: OneRun) -> None:
    upkeep.gateway.applied_at_once = 2
    await upkeep.take(1)
    await upkeep.take(2)
    await upkeep.be_cancelled()
    run = await upkeep.take(3)
    assert (run["state"], run["reason"]) == ("cancelled", "It was cancelled. Expired: 2, cleaned: 0.")


async def test_it_has_a_time_limit(upkeep: OneRun) -> None:
    await upkeep.take(1)
    await upkeep.be_overdue()
    run = await upkeep.take(2)
    assert (run["state"], run["reason"]) == ("failed", "It had not ended at its deadline.")
    assert run["announce_at"] is not None
    assert upkeep.gateway.asked == ["GET /retention"]


async def test_one_that_was_left_is_named_and_of_many_a_few(upkeep: OneRun) -> None:
    upkeep.gateway.left = {f"b-{number}": "it was proven meanwhile" for number in range(50)}
    await upkeep.take(1)
    reason = (await upkeep.take(2))["reason"]
    assert "Left: 50: b-0 (it was proven meanwhile); " in reason
    assert len(reason) <= 500
