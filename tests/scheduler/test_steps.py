"""A step of a run, from the claim to what is written: on a real database, against a gateway that does as it is told."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.responses import JSONResponse, Response

from scheduler import backups, db, runs, steps, worker
from scheduler.backups import Backups
from scheduler.runs import Step
from tests.scheduler.chain import DAILY, until
from tests.scheduler.gateway import Gateway, problem


@dataclass(frozen=True)
class OneRun:
    """A run that was just triggered, and what its steps need."""

    id: UUID
    engine: AsyncEngine
    api: Backups
    gateway: Gateway
    sql: asyncpg.Connection

    async def take(self, seq: int) -> None:
        await steps.take(self.engine, self.api, Step(self.id, seq))

    async def row(self) -> asyncpg.Record:
        found = await self.sql.fetchrow("select *, wake_at - now() as wakes_in from scheduler.runs")
        assert found is not None
        return found

    async def be_overdue(self) -> None:
        await self.sql.execute("update scheduler.runs set deadline_at = now()")


@pytest.fixture
async def one(
    engine: AsyncEngine, gateway: Gateway, sql: asyncpg.Connection, aws_env: dict[str, str]
) -> AsyncIterator[OneRun]:
    async with db.transaction(engine) as session:
        run = await runs.trigger(session, UUID(DAILY))
    async with backups.connect(gateway.url) as api:
        yield OneRun(run.id, engine, api, gateway, sql)


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
    assert timedelta(seconds=5) < run["wakes_in"] <= timedelta(seconds=steps.NOTICE_SECONDS)

    moments_ago = datetime.now(UTC) - run["wakes_in"] - timedelta(seconds=1)
    one.gateway.outcome |= {"announced": announced, "ended_at": moments_ago.isoformat()}
    await one.take(3)
    run = await one.row()
    assert (run["state"], run["announce_at"] is None) == ("failed", announced)


async def test_the_moment_to_announce_begins_with_the_end_of_the_proof(one: OneRun) -> None:
    """Which may come hours after the rows were stored."""
    now = datetime.now(UTC)
    ended = {"ended_at": (now - timedelta(hours=1)).isoformat(), "proof": {"ended_at": now.isoformat()}}
    one.gateway.outcome = {"state": "broken", "reason": "block 3"} | ended
    await one.take(1)
    await one.take(2)
    run = await one.row()
    assert (run["state"], run["announce_at"]) == ("waiting", None)
    one.gateway.outcome |= {"announced": True}
    await one.take(3)
    run = await one.row()
    assert (run["state"], run["announce_at"]) == ("failed", None)


async def test_a_backup_that_the_api_answers_with_at_once_is_enough(one: OneRun) -> None:
    one.gateway.instead.append(JSONResponse({"id": "b-1", "state": "stored"}, 200))
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
        JSONResponse({"state": "queued"}, 202),
        JSONResponse({"id": "../../etc", "state": "queued"}, 202),
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
    assert timedelta(seconds=0.4) < waits[0] <= timedelta(seconds=1)
    assert timedelta(seconds=0.9) < waits[1] <= timedelta(seconds=2)

    await one.take(3)
    run = await one.row()
    assert (run["state"], run["attempts"], run["reason"]) == ("waiting", 0, None)
    assert one.gateway.keys == [str(one.id)] * 3


async def test_nobody_at_the_gateway_is_waited_out(one: OneRun) -> None:
    async with backups.connect("http://127.0.0.1:9/v1") as nobody:
        await steps.take(one.engine, nobody, Step(one.id, 1))
    run = await one.row()
    assert run["state"] == "waiting"
    assert run["reason"] == "The backup API does not answer (ConnectError). It will be asked again."


@pytest.mark.parametrize("status", [429, 503])
async def test_the_gateway_says_when_to_ask_again(one: OneRun, status: int) -> None:
    one.gateway.instead.append(problem(status, "Slow down.", **{"Retry-After": "120"}))
    await one.take(1)
    assert timedelta(seconds=115) < (await one.row())["wakes_in"] <= timedelta(seconds=120)


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
    one.gateway.instead.append(JSONResponse({"id": one.gateway.backups[str(one.id)], "state": "stored"}, 202))
    await one.take(2)
    run = await one.row()
    assert (run["state"], run["backup_id"]) == ("succeeded", one.gateway.backups[str(one.id)])


async def test_the_queue_gets_five_minutes_to_bring_the_last_step(one: OneRun) -> None:
    for minutes, calls in ((4, 0), (6, 1)):
        await one.sql.execute(
            "update scheduler.runs set seq = 2, deadline_at = now() - $1 * interval '1 minute'", minutes
        )
        await worker.overdue(one.engine, one.api)
        assert len(one.gateway.calls) == calls
    assert (await one.row())["ended_at"] is not None


async def test_a_backup_that_never_ends_fails_the_run_at_its_deadline(one: OneRun) -> None:
    one.gateway.outcome = {"state": "running"}
    await one.take(1)
    await one.be_overdue()
    await one.take(2)
    run = await one.row()
    assert (run["state"], run["reason"]) == ("failed", "The backup was still running at the run's deadline.")
    assert run["announce_at"] is not None


async def test_a_backup_that_ended_in_time_counts_though_it_is_seen_late(one: OneRun) -> None:
    await one.take(1)
    await one.be_overdue()
    await one.take(2)
    assert (await one.row())["state"] == "succeeded"


async def test_an_answer_that_is_lost_costs_no_second_backup(one: OneRun) -> None:
    one.gateway.loses_answers = True
    await one.take(1)
    one.gateway.loses_answers = False
    await one.take(2)
    assert list(one.gateway.backups) == [str(one.id)]
    assert (await one.row())["backup_id"] == one.gateway.backups[str(one.id)]


async def test_a_step_that_is_delivered_twice_is_done_once(one: OneRun) -> None:
    await asyncio.gather(*(one.take(1) for _ in range(5)))
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
        await runs.record(session, claim, runs.Ended("succeeded", "b-1"))
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
