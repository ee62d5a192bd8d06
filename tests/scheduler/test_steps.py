"""A step of a run, from the claim to what is written: on a real database, against a gateway that does as it is told."""

import asyncio
import json
from datetime import timedelta

import pytest
from starlette.responses import JSONResponse, Response

from scheduler import backups, db, runs, steps
from scheduler.outside import Outside
from scheduler.runs import Step
from scheduler.steps import Reach
from tests.scheduler.chain import until
from tests.scheduler.gateway import NOW, problem
from tests.scheduler.one_run import BACKUP, Make, OneRun


async def test_a_backup_that_the_api_answers_with_at_once_is_enough(one: OneRun) -> None:
    one.gateway.instead.append(JSONResponse({"id": "b-1", "state": "stored", "created_at": NOW}, 200))
    await one.take(1)
    assert ((await one.row())["state"], (await one.row())["backup_id"]) == ("succeeded", "b-1")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (problem(409, "One is running already."), "409 Conflict: One is running already."),
        (problem(422, "The key belongs to another request."), "422 Unprocessable Entity: The key belongs"),
        (JSONResponse({"message": "Forbidden"}, 403), "403 Forbidden: Forbidden"),
        (JSONResponse(["detail"], 400), "400 Bad Request"),
        (JSONResponse("no detail", 400), "400 Bad Request"),
        (Response("<html>", 404), "404 Not Found"),
        (Response(status_code=301, headers={"Location": "/elsewhere"}), "301 Moved Permanently"),
    ],
)
async def test_a_refusal_fails_the_run_at_once_and_is_announced(
    one: OneRun,
    answer: Response,
    said: str,
) -> None:
    one.gateway.instead.append(answer)
    await one.take(1)
    run = await one.row()
    assert run["state"] == "failed"
    assert run["reason"].startswith(f"The backup API refused: {said}")
    assert run["announce_at"] is not None


async def test_a_backup_that_is_gone_fails_the_run_and_is_announced(one: OneRun) -> None:
    await one.take(1)
    one.gateway.instead.append(problem(404, "There is no such backup."))
    await one.take(2)
    run = await one.row()
    assert (run["state"], run["backup_id"]) == ("failed", "20261122T020000Z-00000000")
    assert run["reason"] == "The backup API refused: 404 Not Found: There is no such backup."
    assert run["announce_at"] is not None


@pytest.mark.parametrize(
    "answer",
    [
        problem(500, "Something went wrong."),
        problem(503, "Not now."),
        problem(408, "Too slow."),
        Response("<html>", 502),
        Response("not JSON", 202),
        Response("[" * 200_000, 503, media_type="application/json"),
        JSONResponse({"state": "queued", "created_at": NOW}, 202),
        JSONResponse({"id": "../../etc", "state": "queued", "created_at": NOW}, 202),
    ],
)
async def test_trouble_is_waited_out_and_the_same_key_is_sent_again(one: OneRun, answer: Response) -> None:
    one.gateway.instead += [answer, answer]
    waits = []
    for seq in (1, 2):
        await one.take(seq)
        run = await one.row()
        assert (run["state"], run["attempts"], run["announce_at"]) == ("waiting", seq, None)
        assert run["reason"].startswith("The backup API answered ")
        waits.append(run["wakes_in"])
    assert timedelta(seconds=0.9) < waits[0] <= timedelta(seconds=2)
    assert timedelta(seconds=0.9) < waits[1] <= timedelta(seconds=4)

    await one.take(3)
    run = await one.row()
    assert (run["state"], run["attempts"], run["reason"]) == ("waiting", 0, None)
    assert one.gateway.keys == [str(one.id)] * 3


async def test_nobody_at_the_gateway_is_waited_out(one: OneRun) -> None:
    async with backups.connect("http://127.0.0.1:9/v1") as nobody:
        await steps.take(one.engine, Reach(nobody, Outside([])), Step(one.id, 1))
    run = await one.row()
    assert run["state"] == "waiting"
    assert run["reason"] == "The backup API does not answer (ConnectError). It will be asked again."


@pytest.mark.parametrize("status", [429, 503])
async def test_the_gateway_says_when_to_ask_again(one: OneRun, status: int) -> None:
    one.gateway.instead.append(problem(status, "Slow down.", **{"Retry-After": "120"}))
    await one.take(1)
    assert timedelta(seconds=115) < (await one.row())["wakes_in"] <= timedelta(seconds=120)


async def test_nobody_is_asked_again_sooner_than_the_schedule_says(make: Make) -> None:
    one = await make(retry={"min_seconds": 50})
    one.gateway.instead.append(problem(503, "Not now.", **{"Retry-After": "0"}))
    assert timedelta(seconds=45) < (await one.take(1))["wakes_in"] <= timedelta(seconds=50)


async def test_a_long_run_keeps_its_first_events_and_its_last(one: OneRun) -> None:
    many = json.dumps([{"at": "2026-11-22T02:00:00Z", "event": f"event {number}"} for number in range(100)])
    await one.sql.execute("update scheduler.runs set events = $1", many)
    await one.be_overdue()
    run = await one.take(1)
    events = [each["event"] for each in json.loads(run["events"])]
    assert (len(events), events[98], events[99]) == (100, "event 98", "failed")


async def test_no_wait_goes_beyond_the_deadline(one: OneRun) -> None:
    await one.sql.execute("update scheduler.runs set deadline_at = now() + interval '10 seconds'")
    one.gateway.instead.append(problem(429, "Slow down.", **{"Retry-After": "120"}))
    await one.take(1)
    assert timedelta(seconds=5) < (await one.row())["wakes_in"] <= timedelta(seconds=10)


async def test_trouble_until_the_deadline_fails_the_run_and_is_announced(one: OneRun) -> None:
    one.gateway.instead += [problem(500, "Something went wrong.")] * 2
    await one.take(1)
    await one.be_overdue()
    await one.take(2)
    run = await one.row()
    assert run["state"] == "failed"
    said = (
        "The backup API answered 500 Internal Server Error: Something went wrong. So it was until the run's deadline."
    )
    assert run["reason"] == said
    assert run["announce_at"] is not None


async def test_no_backup_is_started_after_the_deadline(one: OneRun) -> None:
    await one.be_overdue()
    await one.take(1)
    run = await one.row()
    assert (run["state"], one.gateway.calls) == ("failed", [])
    assert run["reason"].startswith("It was not started before its deadline")
    assert run["announce_at"] is not None


async def test_a_backup_whose_start_was_not_answered_is_asked_for_after_the_deadline_too(one: OneRun) -> None:
    """By a worker that died with the answer, say: it may exist, and be what the run needs."""
    one.gateway.loses_answers = True
    await one.take(1)
    one.gateway.loses_answers = False
    await one.be_overdue()
    one.gateway.instead.append(
        JSONResponse({"id": one.gateway.backups[str(one.id)], "state": "stored", "created_at": NOW}, 202)
    )
    await one.take(2)
    run = await one.row()
    assert (run["state"], run["backup_id"]) == ("succeeded", one.gateway.backups[str(one.id)])


async def test_the_queue_gets_five_minutes_to_bring_the_last_step(one: OneRun) -> None:
    for minutes, left_behind in ((4, []), (6, [Step(one.id, 1)])):
        await one.sql.execute("update scheduler.runs set deadline_at = now() - $1 * interval '1 minute'", minutes)
        async with db.transaction(one.engine) as session:
            assert await runs.left_behind(session) == left_behind


async def test_an_answer_that_is_lost_costs_no_second_backup(one: OneRun) -> None:
    one.gateway.loses_answers = True
    await one.take(1)
    one.gateway.loses_answers = False
    await one.take(2)
    assert list(one.gateway.backups) == [str(one.id)]
    assert (await one.row())["backup_id"] == one.gateway.backups[str(one.id)]


async def test_a_step_that_is_delivered_twice_is_done_once(one: OneRun) -> None:
    await asyncio.gather(*(steps.take(one.engine, one.reach, Step(one.id, 1)) for _ in range(5)))
    assert len(one.gateway.calls) == 1
    before = await one.row()
    await one.take(1)
    after = await one.row()
    assert len(one.gateway.calls) == 1
    assert (before["seq"], before["wake_at"]) == (after["seq"], after["wake_at"])


async def test_what_has_ended_stays_as_it_is(one: OneRun) -> None:
    await one.take(1)
    await one.take(2)
    ended = dict(await one.row()) | {"wakes_in": None}
    for seq in (1, 2, 3):
        await one.take(seq)
    assert dict(await one.row()) | {"wakes_in": None} == ended
    assert len(one.gateway.calls) == 2


async def test_a_worker_that_lost_its_lease_cannot_write(one: OneRun) -> None:
    """It hangs in the gateway, the run is taken over and ends; then the gateway answers it, and that it was refused."""

    async def called() -> bool:
        return len(one.gateway.calls) == 1

    one.gateway.open.clear()
    hanging = asyncio.create_task(one.take(1))
    await until(called)
    for _ in range(2):  # its lease holds: nothing is swept, and nobody else gets the run
        async with db.transaction(one.engine) as session:
            assert await runs.sweep(session) == []
            assert await runs.claim(session, Step(one.id, 1)) is None

    await one.sql.execute("update scheduler.runs set lease_until = now()")
    async with db.transaction(one.engine) as session:
        assert await runs.sweep(session) == [one.id]
    swept = await one.row()
    assert (swept["state"], swept["seq"]) == ("waiting", 2)
    async with db.transaction(one.engine) as session:
        claim = await runs.claim(session, Step(one.id, 2))
    assert claim is not None
    assert claim.seq == 2

    one.gateway.instead.append(problem(422, "Too late."))
    one.gateway.open.set()
    await hanging
    held = await one.row()
    assert (held["state"], held["seq"], held["reason"]) == ("running", 2, swept["reason"])

    async with db.transaction(one.engine) as session:
        await runs.note(session, claim, runs.Ended("succeeded", "b-1"))
    assert (await one.row())["state"] == "succeeded"


async def test_a_run_that_ends_every_worker_fails_at_its_deadline(one: OneRun) -> None:
    await one.sql.execute("""
        update scheduler.runs
        set state = 'running', started_at = now(), lease_until = now() - interval '1 second', deadline_at = now()
    """)
    async with db.transaction(one.engine) as session:
        assert await runs.sweep(session) == [one.id]
        assert await runs.sweep(session) == []
    run = await one.row()
    assert (run["state"], run["reason"]) == ("failed", "The worker that held it had gone at the run's deadline.")
    assert run["ended_at"] is not None
    assert run["announce_at"] is not None


async def test_a_request_is_made_as_often_as_the_schedule_says(make: Make) -> None:
    one = await make(retry={"max_attempts": 2, "min_seconds": 5, "max_seconds": 6})
    one.gateway.instead += [problem(503, "Not now.")] * 2
    run = await one.take(1)
    assert (run["state"], timedelta(seconds=4) < run["wakes_in"] <= timedelta(seconds=6)) == ("waiting", True)
    run = await one.take(2)
    assert (run["state"], run["announce_at"] is not None) == ("failed", True)
    said = "The backup API answered 503 Service Unavailable: Not now. It was asked 2 times, and is not asked again."
    assert run["reason"] == said


async def test_what_was_answered_between_is_no_failure_in_a_row(make: Make) -> None:
    one = await make(retry={"max_attempts": 2})
    one.gateway.outcome = {"state": "running"}
    for seq, trouble in enumerate([True, False, True, False], 1):
        one.gateway.instead += [problem(503, "Not now.")] * trouble
        assert (await one.take(seq))["state"] == "waiting"


async def test_waits_are_spread_and_have_a_most(make: Make) -> None:
    one = await make(retry={"min_seconds": 1, "max_seconds": 60})
    one.gateway.instead += [problem(503, "Not now.")] * 12
    waits = [(await one.take(seq))["wakes_in"].total_seconds() for seq in range(1, 13)]
    assert all(0.5 < wait <= min(60, 2 ** (number + 1)) for number, wait in enumerate(waits))
    assert len({round(wait) for wait in waits[6:]}) > 1


async def test_a_step_carries_the_trace_of_its_run(one: OneRun) -> None:
    await one.take(1)
    await one.take(2)
    first, second = (call.headers["traceparent"].split("-") for call in one.gateway.calls)
    assert first[:2] == second[:2] == ["00", one.id.hex]
    assert (len(first[2]), first[2] != second[2], first[3]) == (16, True, "01")


async def test_what_this_release_does_not_know_fails_aloud(make: Make) -> None:
    run = await (await make(target=BACKUP | {"kind": "teleport"})).take(1)
    assert (run["state"], run["reason"]) == ("failed", "This release does not know what a 'teleport' is.")
    assert run["announce_at"] is not None
