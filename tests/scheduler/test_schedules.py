"""GET /v1/schedules, and running one now."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest

from tests.scheduler.chain import DAILY

NONE = "00000000-0000-7000-8000-00000000ffff"


async def test_every_installation_backs_up_daily_at_two(ops: httpx.AsyncClient) -> None:
    listed = (await ops.get("/v1/schedules")).json()
    assert listed == {
        "items": [(await ops.get(f"/v1/schedules/{DAILY}")).json()],
        "next_cursor": None,
        "has_more": False,
    }
    schedule = listed["items"][0]
    next_due_at = datetime.fromisoformat(schedule.pop("next_due_at"))
    assert (next_due_at.hour, next_due_at.minute, next_due_at.utcoffset()) == (2, 0, timedelta(0))
    assert timedelta(0) < next_due_at - datetime.now(UTC) <= timedelta(days=1)
    for moment in ("created_at", "updated_at", "anchor_at"):
        assert datetime.now(UTC) - datetime.fromisoformat(schedule.pop(moment)) < timedelta(hours=1)
    assert schedule == {
        "id": DAILY,
        "name": "daily-backup",
        "cron": "0 2 * * *",
        "every_seconds": None,
        "at": None,
        "timezone": "UTC",
        "start_at": None,
        "end_at": None,
        "target": {"kind": "backup"},
        "overlap": "skip",
        "catch_up": {"policy": "latest", "window_seconds": 86400, "max_runs": 1},
        "jitter_seconds": 0,
        "time_limit_seconds": 21600,
        "too_long_seconds": None,
        "retry": {"max_attempts": None, "min_seconds": 1, "max_seconds": 60},
        "overdue_grace_seconds": 300,
        "alarm_after_skips": 3,
        "state": "active",
        "paused": None,
        "revision": 1,
    }


async def test_pages_hold_every_schedule_once(ops: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
    await sql.execute("""
        insert into scheduler.schedules (name, cron, timezone, target, next_due_at)
        select 'extra ' || n, '0 3 * * *', 'UTC', '{"kind": "backup"}', now() + interval '1 day'
        from generate_series(1, 4) as n
    """)
    seen, cursor = [], None
    while True:
        page = (await ops.get("/v1/schedules", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [schedule["name"] for schedule in page["items"]]
        cursor = page["next_cursor"]
        assert page["has_more"] == (cursor is not None)
        if cursor is None:
            break
    assert seen == ["daily-backup", "extra 1", "extra 2", "extra 3", "extra 4"]


async def test_a_trigger_makes_a_run_and_leaves_the_schedule_alone(ops: httpx.AsyncClient) -> None:
    before = (await ops.get(f"/v1/schedules/{DAILY}")).json()
    response = await ops.post(f"/v1/schedules/{DAILY}/trigger")
    assert response.status_code == 201
    run = response.json()
    assert response.headers["Location"] == f"/v1/runs/{run['id']}"
    assert (await ops.get(response.headers["Location"])).json() == run
    assert (run["schedule_id"], run["trigger"], run["state"], run["reason"]) == (DAILY, "manual", "queued", None)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(run["due_at"])) < timedelta(minutes=1)
    assert (await ops.get(f"/v1/schedules/{DAILY}")).json() == before


@pytest.mark.parametrize(
    ("method", "path"), [("GET", f"/v1/schedules/{NONE}"), ("POST", f"/v1/schedules/{NONE}/trigger")]
)
async def test_an_unknown_schedule_is_said_to_be_unknown(ops: httpx.AsyncClient, method: str, path: str) -> None:
    response = await ops.request(method, path)
    assert (response.status_code, response.json()["type"]) == (404, "/problems/schedule-not-found")


@pytest.mark.parametrize(
    ("method", "path", "status", "parameter"),
    [
        ("GET", "/v1/schedules?limt=5", 400, "limt"),
        ("GET", f"/v1/schedules/{DAILY}?x", 400, "x"),
        ("POST", f"/v1/schedules/{DAILY}/trigger?dry_run=1", 400, "dry_run"),
        ("GET", "/v1/schedules?limit=1&limit=2", 400, "limit"),
        ("GET", f"/v1/schedules/{DAILY}?x=1&x=1", 400, "x"),
        ("GET", "/v1/schedules?limit=0", 422, "limit"),
        ("GET", "/v1/schedules?limit=201", 422, "limit"),
        ("GET", "/v1/schedules?cursor=next", 422, "cursor"),
        ("GET", "/v1/schedules/first", 422, "schedule_id"),
    ],
)
async def test_a_wrong_parameter_is_named(
    ops: httpx.AsyncClient, method: str, path: str, status: int, parameter: str
) -> None:
    response = await ops.request(method, path)
    assert response.status_code == status
    assert [part["parameter"] for part in response.json()["errors"]] == [parameter]


@pytest.mark.parametrize("body", [b'{"label": "mine"}', b"{{{", b" "])
async def test_a_trigger_takes_no_body(ops: httpx.AsyncClient, body: bytes) -> None:
    response = await ops.post(f"/v1/schedules/{DAILY}/trigger", content=body)
    assert (response.status_code, response.json()["type"]) == (400, "/problems/malformed-request")
    assert response.json()["errors"] == [{"pointer": "#", "code": "body_not_taken", "detail": "Send no body."}]
    assert (await ops.get("/v1/runs")).json()["items"] == []


async def test_an_endless_body_is_refused_at_once(ops: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536
            await asyncio.sleep(0)

    async with asyncio.timeout(5):
        assert (await ops.post(f"/v1/schedules/{DAILY}/trigger", content=endless())).status_code == 400
