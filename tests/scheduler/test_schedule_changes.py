"""Schedules are made, edited, paused, resumed and deleted, and no due time is lost or made up by it."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import db, due, ledger, runs, schedules, worker
from scheduler.outside import Outside
from tests.scheduler.chain import DAILY

HOOK = {"kind": "proof"}
# Half an hour from now, so that nothing is due while a test runs.
HOURLY = {"name": "hourly", "cron": f"{(datetime.now(UTC).minute + 30) % 60} * * * *", "target": HOOK}
ANY_VERSION = {"If-Match": "*", "Content-Type": "application/merge-patch+json"}
Make = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def make(ops: httpx.AsyncClient) -> Make:
    async def make(**changes: Any) -> dict[str, Any]:
        wanted = {name: value for name, value in (HOURLY | changes).items() if value is not None}
        response = await ops.post("/v1/schedules", json=wanted)
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        assert response.headers["Location"] == f"/v1/schedules/{made['id']}"
        assert response.headers["ETag"] == '"1"'
        return made

    return make


async def fire(engine: AsyncEngine) -> int:
    async with db.transaction(engine) as session:
        return await due.fire(session)


async def back_date(sql: asyncpg.Connection, schedule_id: str, hours: float) -> None:
    """As if the schedule had been made and last looked at so many hours earlier."""
    await sql.execute(
        """
        update scheduler.schedules set next_due_at = (
                select min(next_due_at) from scheduler.schedules where name = 'hourly'
            ) - $2 * interval '1 hour',
            created_at = now() - $2 * interval '1 hour', accounted_from = now() - $2 * interval '1 hour',
            audited_until = now() - $2 * interval '1 hour'
        where id = $1
        """,
        schedule_id,
        hours,
    )
    await sql.execute(
        "update scheduler.schedule_revisions set since = now() - $2 * interval '1 hour' where schedule_id = $1",
        schedule_id,
        hours,
    )


async def states(sql: asyncpg.Connection, schedule_id: str) -> list[str]:
    rows = await sql.fetch("select state from scheduler.runs where schedule_id = $1 order by due_at", schedule_id)
    return [row["state"] for row in rows]


async def test_a_schedule_is_made_read_and_found_by_its_name(ops: httpx.AsyncClient, make: Make) -> None:
    made = await make(cron=" 0   *  * * * ", timezone="Europe/Ljubljana", jitter_seconds=30)
    assert (made["cron"], made["state"], made["revision"]) == ("0 * * * *", "active", 1)
    assert (await ops.get(f"/v1/schedules/{made['id']}")).json() == made
    assert (await ops.get("/v1/schedules", params={"name": "hourly"})).json()["items"] == [made]


async def test_a_name_is_taken_once(ops: httpx.AsyncClient, make: Make) -> None:
    made = await make()
    again = await ops.post("/v1/schedules", json=HOURLY)
    assert (again.status_code, again.json()["type"]) == (409, "/problems/name-taken")
    edited = await ops.patch(
        f"/v1/schedules/{DAILY}",
        json={"name": "hourly"},
        headers={"If-Match": "*", "Content-Type": "application/merge-patch+json"},
    )
    assert (edited.status_code, edited.json()["type"]) == (409, "/problems/name-taken")
    await ops.delete(f"/v1/schedules/{made['id']}", headers={"If-Match": '"1"'})
    assert (await make())["id"] != made["id"], "of one that was deleted it is free again"


async def edit(
    ops: httpx.AsyncClient, schedule_id: str, change: dict[str, Any], if_match: str | None
) -> httpx.Response:
    headers = {"Content-Type": "application/merge-patch+json"} | ({"If-Match": if_match} if if_match else {})
    return await ops.patch(f"/v1/schedules/{schedule_id}", json=change, headers=headers)


async def test_an_edit_must_name_the_version_that_it_changes(ops: httpx.AsyncClient, make: Make) -> None:
    made = await make()
    for if_match, status in (
        (None, 428),
        ('"2"', 412),
        ('W/"1"', 412),
        ("1", 412),
        ('"1"', 200),
        ('"1"', 412),
        ("*", 200),
    ):
        response = await edit(ops, made["id"], {"jitter_seconds": 5}, if_match)
        assert response.status_code == status, (if_match, response.text)
        if status == 412 and if_match == '"1"':
            assert response.headers["ETag"] == '"2"'


async def test_an_edit_is_a_merge_patch(ops: httpx.AsyncClient, make: Make) -> None:
    made = await make(target={"kind": "backup", "label": "x", "tables": ["notes.notes"]}, retry={"max_attempts": 3})
    change = {"target": {"label": None}, "retry": {"max_seconds": 90}, "cron": None, "every_seconds": 7200}
    edited = (await edit(ops, made["id"], change, '"1"')).json()
    assert edited["target"] == {"kind": "backup", "tables": ["notes.notes"]}
    assert edited["retry"] == {"max_attempts": 3, "min_seconds": 1, "max_seconds": 90}
    assert (edited["cron"], edited["every_seconds"], edited["revision"]) == (None, 7200, 2)
    wrong = await edit(ops, made["id"], {"retry": {"max_seconds": 0.5}}, '"2"')
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "#/retry/max_seconds")


async def test_another_kind_of_target_takes_the_place_of_one(ops: httpx.AsyncClient) -> None:
    patch = '{"target": {"kind": "proof", "label": null}}'
    response = await ops.patch(f"/v1/schedules/{DAILY}", content=patch, headers=ANY_VERSION)
    assert (response.status_code, response.json().get("target")) == (200, {"kind": "proof"}), response.text


async def test_a_zone_that_has_gone_stops_nobody_else_and_can_be_mended(
    ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    made, other = await make(), await make(name="other")
    path = f"/v1/schedules/{made['id']}"
    for each in (made, other):
        until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        assert (await ops.post(f"/v1/schedules/{each['id']}/pause", json={"until": until})).status_code == 200
    await sql.execute(
        "update scheduler.schedules set paused_until = now() where paused_at is not null;"
        "update scheduler.schedules set timezone = 'Gone/Zone' where name = 'hourly';"
        'update scheduler.schedule_revisions set definition = definition || \'{"timezone": "Gone/Zone"}\''
        " where schedule_id in (select id from scheduler.schedules where name = 'hourly')"
    )
    await worker.look(engine)
    assert (await ops.get(f"/v1/schedules/{other['id']}")).json()["state"] == "active"
    await fire(engine)
    assert await states(sql, made["id"]) == ["failed"]
    for asked in ("preview", "ledger"):
        told = await ops.get(f"{path}/{asked}")
        assert (told.status_code, told.json()["type"]) == (409, "/problems/never-due"), told.text
        assert "Gone/Zone" in told.json()["detail"]
    refused = await ops.patch(path, content='{"name": "another"}', headers=ANY_VERSION)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/timezone")
    mended = await ops.patch(path, content='{"timezone": "UTC"}', headers=ANY_VERSION)
    assert (mended.status_code, mended.json()["next_due_at"]) == (200, made["next_due_at"]), mended.text


async def test_one_that_is_over_can_be_renamed_and_set_to_another_time(
    ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    made = await make(cron=None, at=at.isoformat())
    await sql.execute(
        "update scheduler.schedules set at = at - interval '2 hours', next_due_at = now() where cron is null"
    )
    await fire(engine)
    assert await states(sql, made["id"]) == ["queued"]
    renamed = (await edit(ops, made["id"], {"name": "once"}, '"1"')).json()
    assert (renamed["name"], renamed["state"], renamed["next_due_at"]) == ("once", "over", None)
    past = await edit(ops, made["id"], {"at": "2026-01-01T00:00:00Z"}, '"2"')
    assert (past.status_code, past.json()["errors"][0]["pointer"]) == (422, "#/at")
    again = (await edit(ops, made["id"], {"at": at.isoformat()}, '"2"')).json()
    assert (again["state"], datetime.fromisoformat(again["next_due_at"])) == ("active", at)


async def test_an_edit_first_settles_what_was_due(ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection) -> None:
    made = await make(catch_up={"policy": "none"})
    await back_date(sql, made["id"], 5)
    edited = (await edit(ops, made["id"], {"cron": "30 12 1 1 *"}, '"1"')).json()
    assert await states(sql, made["id"]) == ["missed"] * 5
    assert datetime.fromisoformat(edited["next_due_at"]) > datetime.now(UTC)
    ledger = (await ops.get(f"/v1/schedules/{made['id']}/ledger")).json()
    assert (ledger["complete"], ledger["counts"]) == (True, {"missed": 5})


async def test_a_paused_schedule_is_not_due_and_goes_on_from_when_it_is_resumed(
    ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    made = await make()
    path = f"/v1/schedules/{made['id']}"
    paused = (await ops.post(f"{path}/pause", json={"note": "moving house"})).json()
    assert (paused["state"], paused["next_due_at"], paused["revision"]) == ("paused", None, 2)
    assert paused["paused"]["note"] == "moving house"
    assert await fire(engine) == 0
    resumed = (await ops.post(f"{path}/resume")).json()
    assert (resumed["state"], resumed["next_due_at"], resumed["paused"]) == ("active", made["next_due_at"], None)
    again = await ops.post(f"{path}/resume")
    assert (again.status_code, again.json()["type"]) == (409, "/problems/not-paused")
    ledger = (await ops.get(f"{path}/ledger")).json()
    assert ledger["complete"]
    assert [each["note"] for each in ledger["paused"]] == ["moving house"]


async def test_a_pause_may_end_by_itself_and_nothing_after_it_is_lost(
    ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    made = await make(catch_up={"policy": "none"})
    path = f"/v1/schedules/{made['id']}"
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert (await ops.post(f"{path}/pause", json={"until": until})).json()["paused"]["until"]
    past = await ops.post(f"{path}/pause", json={"until": "2026-01-01T00:00:00Z"})
    assert (past.status_code, past.json()["errors"][0]["pointer"]) == (422, "#/until")
    await worker.look(engine)
    assert (await ops.get(path)).json()["state"] == "paused"
    await back_date(sql, made["id"], 5)
    await sql.execute(
        "update scheduler.schedules set next_due_at = null, paused_until = now() - interval '3 hours',"
        " updated_at = now() - interval '5 hours' where paused_at is not null"
    )
    await sql.execute(
        "update scheduler.schedule_revisions set until = since + interval '1 minute' where change = 'created';"
        "update scheduler.schedule_revisions set since = since + interval '1 minute' where change = 'paused'"
    )
    await worker.look(engine)
    assert (await ops.get(path)).json()["state"] == "active"
    await fire(engine)
    assert await states(sql, made["id"]) == ["missed"] * 3
    ledger = (await ops.get(f"{path}/ledger")).json()
    assert (ledger["complete"], ledger["counts"]) == (True, {"missed": 3}), ledger


async def test_pauses_that_end_together_all_end(make: Make, sql: asyncpg.Connection, engine: AsyncEngine) -> None:
    made = await make(cron=None, every_seconds=3600)
    await sql.execute(
        """
        insert into scheduler.schedules (name, every_seconds, timezone, target, paused_at, paused_until)
        select 'paused ' || n, 3600, 'UTC', '{"kind": "proof"}', now() - interval '1 day', now()
        from generate_series(1, 2 * $1::int) n
        """,
        schedules.RESUMED_AT_ONCE,
    )
    await worker.look(engine)
    assert await sql.fetchval("select count(*) from scheduler.schedules where paused_at is not null") == 0
    assert await sql.fetchval("select next_due_at from scheduler.schedules where id = $1", made["id"])


async def test_what_is_deleted_is_gone_and_its_runs_stay(
    ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    made = await make()
    path = f"/v1/schedules/{made['id']}"
    run = (await ops.post(f"{path}/trigger")).json()
    assert (await ops.delete(path, headers={"If-Match": '"9"'})).status_code == 412
    assert (await ops.delete(path, headers={"If-Match": '"1"'})).status_code == 204
    assert (await ops.get(path)).status_code == 404
    assert (await ops.post(f"{path}/trigger")).status_code == 404
    assert (await ops.delete(path, headers={"If-Match": '"2"'})).status_code == 404
    kept = (await ops.get(f"/v1/runs/{run['id']}")).json()
    assert (kept["state"], kept["reason"]) == ("cancelled", "Its schedule was deleted.")
    assert (await ops.post(f"/v1/runs/{run['id']}/again")).status_code == 404
    assert await fire(engine) == 0


async def test_who_changed_what_is_kept(ops: httpx.AsyncClient, make: Make) -> None:
    made = await make()
    await edit(ops, made["id"], {"name": "hourly proofs"}, '"1"')
    await ops.post(f"/v1/schedules/{made['id']}/pause", json={"note": "why"})
    first = (await ops.get(f"/v1/schedules/{made['id']}/revisions", params={"limit": 2})).json()
    rest = (
        await ops.get(f"/v1/schedules/{made['id']}/revisions", params={"limit": 2, "cursor": first["next_cursor"]})
    ).json()
    told = [(r["revision"], r["change"], r["definition"]["name"], r["note"]) for r in first["items"] + rest["items"]]
    assert told == [
        (3, "paused", "hourly proofs", "why"),
        (2, "edited", "hourly proofs", None),
        (1, "created", "hourly", None),
    ]
    assert {r["changed_by"] for r in first["items"]} == {"test"}
    assert [r["until"] for r in rest["items"]] == [first["items"][1]["since"]]


async def test_a_double_click_makes_one_run(ops: httpx.AsyncClient, make: Make) -> None:
    path = f"/v1/schedules/{(await make())['id']}/trigger"
    first, second = [(await ops.post(path, headers={"Idempotency-Key": "a"})).json() for _ in range(2)]
    assert first == second
    other = await ops.post(path, headers={"Idempotency-Key": "b"})
    assert (other.status_code, other.json()["type"]) == (409, "/problems/run-active")
    assert first["id"] in other.json()["detail"]


async def test_a_run_is_made_again_with_the_target_it_had(
    ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection
) -> None:
    made = await make(target={"kind": "backup", "label": "before"})
    run = (await ops.post(f"/v1/schedules/{made['id']}/trigger")).json()
    assert (await ops.post(f"/v1/runs/{run['id']}/again")).status_code == 409
    await sql.execute("update scheduler.runs set state = 'failed', ended_at = now()")
    await edit(ops, made["id"], {"target": {"label": "after"}}, '"1"')
    again = await ops.post(f"/v1/runs/{run['id']}/again")
    assert again.status_code == 201
    assert (again.json()["target"]["label"], again.json()["again_of"]) == ("before", run["id"])


async def test_a_key_belongs_to_one_request(ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection) -> None:
    path = f"/v1/schedules/{(await make())['id']}/trigger"
    key = {"Idempotency-Key": "a"}
    ids = []
    for _ in range(2):
        ids.append((await ops.post(path)).json()["id"])
        await sql.execute("update scheduler.runs set state = 'failed', ended_at = now()")
    made = (await ops.post(f"/v1/runs/{ids[0]}/again", headers=key)).json()
    assert (await ops.post(f"/v1/runs/{ids[0]}/again", headers=key)).json() == made
    for other in (f"/v1/runs/{ids[1]}/again", path):
        refused = await ops.post(other, headers=key)
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/key-taken")
        assert made["id"] in refused.json()["detail"]


async def test_an_interval_may_end_before_it_would_begin_anew(
    ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection
) -> None:
    made = await make(cron=None, every_seconds=3600)
    await sql.execute("""
        update scheduler.schedules set
            anchor_at = anchor_at - interval '50 minutes', next_due_at = next_due_at - interval '50 minutes'
        where name = 'hourly'
    """)
    end_at = (datetime.now(UTC) + timedelta(minutes=20)).isoformat()
    response = await edit(ops, made["id"], {"end_at": end_at}, '"1"')
    assert (response.status_code, response.json().get("state")) == (200, "active"), response.text


async def test_nobody_waits_while_a_name_is_looked_up(
    ops: httpx.AsyncClient, make: Make, app: FastAPI, engine: AsyncEngine, sql: asyncpg.Connection
) -> None:
    async def fired_meanwhile(*_: Any) -> list[str]:
        assert await fire(engine) == 1
        return ["93.184.215.14"]

    app.state.outside = Outside(["https://hooks.example/"], resolve=fired_meanwhile)
    made = await make()
    await sql.execute("update scheduler.schedules set next_due_at = now() where name = 'hourly'")
    change = {"target": {"kind": "http", "url": "https://hooks.example/x"}}
    response = await edit(ops, made["id"], change, '"1"')
    assert response.status_code == 200, response.text
    assert await states(sql, made["id"]) == ["queued"]


async def test_a_run_that_nobody_has_begun_is_cancelled_at_once(
    ops: httpx.AsyncClient, make: Make, engine: AsyncEngine
) -> None:
    run = (await ops.post(f"/v1/schedules/{(await make())['id']}/trigger")).json()
    cancelled = await ops.post(f"/v1/runs/{run['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert cancelled.json()["reason"] == "Cancelled by test."
    assert [event["event"] for event in cancelled.json()["events"]] == ["recorded", "cancelled"]
    again = await ops.post(f"/v1/runs/{run['id']}/cancel")
    assert (again.status_code, again.json()["type"]) == (409, "/problems/run-ended")
    async with db.transaction(engine) as session:
        assert await runs.awake(session) == []


@pytest.mark.parametrize("policy", ["none", "latest", "all"])
async def test_what_was_missed_is_caught_up_by_the_policy(
    make: Make, sql: asyncpg.Connection, engine: AsyncEngine, policy: str
) -> None:
    made = await make(catch_up={"policy": policy, "max_runs": 3}, overlap="allow")
    await back_date(sql, made["id"], 8)
    await fire(engine)
    wanted = {"none": 0, "latest": 1, "all": 3}[policy]
    assert await states(sql, made["id"]) == ["missed"] * (8 - wanted) + ["queued"] * wanted


async def test_no_catching_up_goes_beyond_its_window(make: Make, sql: asyncpg.Connection, engine: AsyncEngine) -> None:
    made = await make(catch_up={"policy": "all", "max_runs": 100, "window_seconds": 2 * 3600}, overlap="allow")
    await back_date(sql, made["id"], 8)
    await fire(engine)
    assert await states(sql, made["id"]) == ["missed"] * 6 + ["queued"] * 2


async def test_what_is_caught_up_goes_one_after_the_other(
    make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    made = await make(catch_up={"policy": "all", "max_runs": 3})
    await back_date(sql, made["id"], 3)
    await fire(engine)
    for left in (3, 2, 1):
        active = await sql.fetch("select id, held from scheduler.runs where state = 'queued' order by due_at")
        assert [row["held"] for row in active] == [False] + [True] * (left - 1)
        await sql.execute(
            "update scheduler.runs set state = 'succeeded', ended_at = now() where id = $1", active[0]["id"]
        )
        async with db.transaction(engine) as session:
            assert len(await runs.release(session)) == min(left - 1, 1)


async def test_what_waits_for_long_holds_up_nobody_else(
    make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    await sql.execute("""
        with busy as (
            insert into scheduler.schedules (name, every_seconds, timezone, target)
            select 'busy ' || n, 3600, 'UTC', '{"kind": "proof"}' from generate_series(1, 150) n
            returning id
        )
        insert into scheduler.runs (schedule_id, trigger, due_at, target, exclusive, held, deadline_at)
        select id, 'schedule', now() - held::int * interval '1 hour', '{"kind": "proof"}', true, held, now()
        from busy, (values (true), (false)) as v (held)
    """)
    made = await make()
    await sql.execute(
        """
        insert into scheduler.runs (schedule_id, trigger, due_at, target, exclusive, held, deadline_at)
        values ($1, 'schedule', now(), '{"kind": "proof"}', true, true, now())
        """,
        made["id"],
    )
    async with db.transaction(engine) as session:
        assert len(await runs.release(session)) == 1


async def test_a_due_time_is_skipped_while_the_run_before_goes_on(
    make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    made = await make(alarm_after_skips=2)
    for _ in range(3):
        await sql.execute("update scheduler.schedules set next_due_at = now() where name = 'hourly'")
        await fire(engine)
    rows = await sql.fetch("select state, reason from scheduler.runs order by due_at")
    assert [row["state"] for row in rows] == ["queued", "skipped", "skipped"]
    assert rows[1]["reason"].endswith("had not ended.")
    assert await sql.fetchval("select kind from scheduler.alarms where schedule_id = $1", made["id"]) == "skipped"

    await sql.execute("update scheduler.alarms set closed_at = now(), closed_by = 'ops'")
    await sql.execute("update scheduler.schedules set next_due_at = now() where name = 'hourly'")
    await fire(engine)
    assert await sql.fetchval("select count(*) from scheduler.alarms where closed_at is null") == 1, "it still holds"


async def test_the_run_before_is_cancelled_and_the_newest_takes_its_place(
    ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    await make(overlap="cancel_previous")
    for expected in (["queued"], ["running", "queued"], ["running", "skipped", "queued"]):
        await sql.execute("update scheduler.schedules set next_due_at = now() where name = 'hourly'")
        await fire(engine)
        rows = await sql.fetch("select state, held, cancel_requested_at from scheduler.runs order by due_at")
        assert [row["state"] for row in rows] == expected
        await sql.execute(
            "update scheduler.runs set state = 'running', started_at = now(), lease_until = now() + interval '1 minute'"
            " where state = 'queued' and not held"
        )
    assert rows[0]["cancel_requested_at"]
    assert rows[-1]["held"]
    await sql.execute("update scheduler.runs set state = 'cancelled', ended_at = now() where state = 'running'")
    async with db.transaction(engine) as session:
        assert len(await runs.release(session)) == 1


async def test_jitter_is_the_same_wherever_it_is_computed(
    make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    made = await make(jitter_seconds=3000, overlap="allow", catch_up={"policy": "all", "max_runs": 20})
    await back_date(sql, made["id"], 8)
    await fire(engine)
    rows = await sql.fetch("select due_at, jitter_seconds from scheduler.runs order by due_at")
    found = [row["jitter_seconds"] for row in rows]
    assert len(set(found)) > 4
    assert all(0 <= jitter <= 3000 for jitter in found)
    await sql.execute("delete from scheduler.runs")
    await back_date(sql, made["id"], 8)
    await fire(engine)
    assert [row["jitter_seconds"] for row in await sql.fetch("select * from scheduler.runs order by due_at")] == found


async def test_a_missed_time_is_run_after_all_by_a_backfill(
    ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    made = await make(catch_up={"policy": "none"})
    await back_date(sql, made["id"], 4)
    await fire(engine)
    path, span = f"/v1/schedules/{made['id']}", {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
    plan = (await ops.post(f"{path}/backfills/preview", json=span)).json()
    assert (plan["count"], len(plan["due"])) == (4, 4)
    refused = await ops.post(f"{path}/backfills", json=span | {"count": 3})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/backfill-refused")
    assert (await ops.post(f"{path}/backfills", json=span | {"count": 4})).json() == {"count": 4}
    assert (await ops.post(f"{path}/backfills/preview", json=span)).json()["count"] == 0, "they are under way"
    async with db.transaction(engine) as session:
        assert len(await runs.release(session)) == 1
    await sql.execute("update scheduler.runs set state = 'succeeded', ended_at = now() where trigger = 'backfill'")
    ledger = (await ops.get(f"{path}/ledger")).json()
    assert (ledger["counts"], ledger["complete"]) == ({"succeeded": 4}, True)

    again = span | {"which": "all", "count": 4}
    assert (await ops.post(f"{path}/backfills", json=again)).status_code == 202
    assert (await ops.post(f"{path}/backfills", json=again)).status_code == 409, "they are under way"
    await sql.execute("update scheduler.runs set state = 'failed', reason = 'no', ended_at = now()"
                      " where trigger = 'backfill' and ended_at is null")  # fmt: skip
    items = (await ops.get(f"{path}/ledger")).json()["items"]
    assert [(each["outcome"], each["reason"]) for each in items] == [("succeeded", None)] * 4


async def test_a_ledger_knows_every_due_time_however_many_backfills_it_had(
    ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make(catch_up={"policy": "none"})
    await back_date(sql, made["id"], 4)
    await fire(engine)
    await sql.execute("""
        insert into scheduler.runs (schedule_id, trigger, due_at, target, state, reason, ended_at, deadline_at)
        select schedule_id, 'backfill', due_at, target, v.state, v.state, now(), now()
        from scheduler.runs, generate_series(1, 30), (values ('failed'), ('succeeded'), ('failed')) v (state)
    """)
    async with db.transaction(engine) as session:
        schedule = await schedules.get(session, UUID(made["id"]))
        account = await ledger.account(session, schedule, schedule.created_at, datetime.now(UTC), most=4)
    assert (account.complete, dict(account.counts)) == (True, {"succeeded": 4})


async def test_a_backup_has_no_backfill(ops: httpx.AsyncClient) -> None:
    span = {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
    refused = await ops.post(f"/v1/schedules/{DAILY}/backfills/preview", json=span)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/backfill-refused")


async def test_a_ledger_tells_a_gap_and_a_run_at_no_due_time(
    ops: httpx.AsyncClient, make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    made = await make(catch_up={"policy": "none"})
    path = f"/v1/schedules/{made['id']}/ledger"
    await back_date(sql, made["id"], 30)
    await fire(engine)
    whole = (await ops.get(path, params={"from": "2020-01-01T00:00:00Z"})).json()
    assert (whole["complete"], whole["counts"], len(whole["items"])) == (True, {"missed": 30}, 30)
    assert whole["says"] == "Of 30 due times, every one is accounted for: 30 missed."
    assert len((await ops.get(path)).json()["items"]) == 24, "of the last day, if nothing is said"

    due_at = await sql.fetchval("delete from scheduler.runs where id = (select min(id::text)::uuid from scheduler.runs)"
                                " returning due_at")  # fmt: skip
    await sql.execute("update scheduler.runs set due_at = due_at + interval '7 minutes' where id ="
                      " (select max(id::text)::uuid from scheduler.runs)")  # fmt: skip
    broken = (await ops.get(path, params={"from": "2020-01-01T00:00:00Z"})).json()
    assert not broken["complete"]
    assert datetime.fromisoformat(broken["unaccounted"][0]) == due_at
    assert (len(broken["unaccounted"]), len(broken["unexpected"])) == (2, 1)

    await worker.audit(engine)
    alarm = (await ops.get("/v1/alarms", params={"open": True})).json()["items"]
    assert [each["kind"] for each in alarm if each["kind"] != "overdue"] == ["unaccounted"]


async def test_an_audit_goes_on_past_a_schedule_that_it_cannot_account_for(
    make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    made = await make()
    await back_date(sql, made["id"], 30)
    await sql.execute(
        "update scheduler.schedules set next_due_at = null where name = 'hourly';"
        'update scheduler.schedule_revisions set definition = definition || \'{"timezone": "Mars/Olympus"}\''
    )
    await worker.audit(engine)
    kind, detail = await sql.fetchrow("select kind, detail from scheduler.alarms") or ("", "")
    assert (kind, "Mars/Olympus" in detail) == ("unaccounted", True)
    assert await sql.fetchval("select audited_until > now() - interval '12 hours' from scheduler.schedules"
                              " where name = 'hourly'")  # fmt: skip


async def test_a_day_is_audited_when_all_of_it_is_recorded(
    make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    made = await make(catch_up={"policy": "none"})
    await back_date(sql, made["id"], 30)
    audited = "select audited_until - created_at from scheduler.schedules where id = $1"
    await worker.audit(engine)
    assert await sql.fetchval(audited, made["id"]) == timedelta(), "the tick has not been there"
    await fire(engine)
    await sql.execute("delete from scheduler.runs where due_at > now() - interval '8 hours'")
    await worker.audit(engine)
    assert await sql.fetchval(audited, made["id"]) == timedelta(days=1)
    assert await sql.fetchval("select count(*) from scheduler.alarms where kind = 'unaccounted'") == 1


async def test_a_long_outage_of_a_minutely_schedule_comes_in_parts(
    make: Make, sql: asyncpg.Connection, engine: AsyncEngine
) -> None:
    made = await make(cron="* * * * *")
    await sql.execute(
        "update scheduler.schedules set next_due_at = date_trunc('minute', now()) - interval '40 hours' where id = $1",
        made["id"],
    )
    rounds = 0
    while await fire(engine):
        rounds += 1
        assert await sql.fetchval("select count(*) from scheduler.runs") <= rounds * due.DUE_TIMES_AT_ONCE
    assert rounds == 3
    counted = await sql.fetchrow(
        "select count(*), count(distinct due_at), max(due_at) - min(due_at) from scheduler.runs"
    )
    assert counted
    assert counted[0] == counted[1] == counted[2] // timedelta(minutes=1) + 1
    assert await sql.fetchval("select count(*) from scheduler.runs where state = 'queued'") >= 1
