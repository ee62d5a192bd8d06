"""GET /v1/runs."""

from typing import Any

import asyncpg
import httpx
import pytest

from tests.scheduler.chain import DAILY


def listed(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As a list has them, which leaves their events out."""
    return [{name: value for name, value in run.items() if name != "events"} for run in runs]


@pytest.fixture
async def _many_at_a_time(sql: asyncpg.Connection) -> None:
    await sql.execute("update scheduler.schedules set overlap = 'allow'")


@pytest.mark.usefixtures("_many_at_a_time")
async def test_pages_hold_every_run_once_newest_first(ops: httpx.AsyncClient) -> None:
    made = [(await ops.post(f"/v1/schedules/{DAILY}/trigger")).json() for _ in range(5)]
    seen, cursor = [], ""
    for expected in (2, 2, 1):
        page = (await ops.get(f"/v1/runs?limit=2{cursor}")).json()
        assert len(page["items"]) == expected
        seen += page["items"]
        cursor = f"&cursor={page['next_cursor']}"
    assert (page["next_cursor"], page["has_more"]) == (None, False)
    assert seen == listed(made[::-1])


@pytest.mark.usefixtures("_many_at_a_time")
async def test_a_run_made_while_a_client_pages_disturbs_nothing(ops: httpx.AsyncClient) -> None:
    made = [(await ops.post(f"/v1/schedules/{DAILY}/trigger")).json() for _ in range(3)]
    first = (await ops.get("/v1/runs?limit=2")).json()
    await ops.post(f"/v1/schedules/{DAILY}/trigger")
    second = (await ops.get(f"/v1/runs?limit=2&cursor={first['next_cursor']}")).json()
    assert first["items"] + second["items"] == listed(made[::-1])


async def test_a_failure_is_shown_with_its_reason(ops: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
    made = (await ops.post(f"/v1/schedules/{DAILY}/trigger")).json()
    await sql.execute("update scheduler.runs set state = 'failed', reason = 'Refused.', ended_at = now()")
    run = (await ops.get(f"/v1/runs/{made['id']}")).json()
    assert (run["state"], run["reason"], run["backup_id"]) == ("failed", "Refused.", None)
    assert run["ended_at"].endswith("Z")


async def test_a_list_may_be_empty(ops: httpx.AsyncClient) -> None:
    assert (await ops.get("/v1/runs")).json() == {"items": [], "next_cursor": None, "has_more": False}


async def test_an_unknown_run_is_said_to_be_unknown(ops: httpx.AsyncClient) -> None:
    response = await ops.get(f"/v1/runs/{DAILY}")
    assert (response.status_code, response.json()["type"]) == (404, "/problems/run-not-found")


@pytest.mark.parametrize("path", ["/v1/runs?status=failed", f"/v1/runs/{DAILY}?x=1"])
async def test_an_unknown_parameter_is_refused(ops: httpx.AsyncClient, path: str) -> None:
    assert (await ops.get(path)).status_code == 400
