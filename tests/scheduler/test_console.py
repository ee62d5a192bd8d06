"""The console's pages and forms of schedules and runs, and what they show when others are away."""

import re
import sys
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event

from scheduler import tokens
from scheduler.app import create_app
from scheduler.settings import Settings
from tests.scheduler.visitor import Visitor, visitor

DAILY = "00000000-0000-7000-8000-000000000001"
EVIL = '<script>alert(1)</script>"onload="x'
NIGHTLY = {"name": "nightly", "kind": "proof", "when": "cron", "cron": "30 2 * * *", "timezone": "Europe/Ljubljana"}


@pytest.fixture
async def ada(app: FastAPI) -> AsyncIterator[Visitor]:
    async with visitor(app, tokens.SCOPES) as one:
        yield one


async def of(ops: httpx.AsyncClient, path: str) -> dict[str, Any]:
    found: dict[str, Any] = (await ops.get(f"/v1{path}")).json()
    return found


async def added(ada: Visitor, **fields: str) -> str:
    answer = await ada.submit("/schedules/new", **(NIGHTLY | fields))
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"].rpartition("/")[2]


async def test_a_schedule_is_made_and_changed(ada: Visitor, ops: httpx.AsyncClient) -> None:
    made = await added(ada, jitter_seconds="5", policy="none")
    schedule = await of(ops, f"/schedules/{made}")
    assert (schedule["name"], schedule["cron"], schedule["timezone"]) == ("nightly", "30 2 * * *", "Europe/Ljubljana")
    assert (schedule["jitter_seconds"], schedule["catch_up"]["policy"]) == (5, "none")
    shown = await ada.page(f"/schedules/{made}/edit")
    assert 'value="30 2 * * *"' in shown
    changed = NIGHTLY | {"when": "every", "every": "2", "unit": "hours", "revision": "1", "of": made}
    assert (await ada.submit(f"/schedules/{made}/edit", **changed)).status_code == 303
    schedule = await of(ops, f"/schedules/{made}")
    assert (schedule["cron"], schedule["every_seconds"], schedule["revision"]) == (None, 7200, 2)
    assert "edited</strong> by ada" in await ada.page(f"/schedules/{made}")


async def test_a_stale_edit_is_refused_and_keeps_what_was_typed(ada: Visitor, ops: httpx.AsyncClient) -> None:
    made = await added(ada)
    await ada.submit(f"/schedules/{made}/edit", **NIGHTLY, cron_="", revision="1")
    answer = await ada.submit(f"/schedules/{made}/edit", **(NIGHTLY | {"cron": "1 1 * * *"}), revision="1")
    assert answer.status_code == 412
    assert 'value="1 1 * * *"' in answer.text
    assert "As it is now" in answer.text
    assert (await of(ops, f"/schedules/{made}"))["cron"] == "30 2 * * *"
    again = await ada.submit(f"/schedules/{made}/edit", **(NIGHTLY | {"cron": "1 1 * * *"}), revision="2")
    assert again.status_code == 303


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"name": ""}, "name", "may not be empty"),
        ({"cron": "x"}, "cron", "Give five fields"),
        ({"cron": "0 0 31 2 *"}, "cron", "there is no such time"),
        ({"timezone": "Mars/Base"}, "timezone", "no zone"),
        ({"when": "every", "every": "x"}, "every", "whole number"),
        ({"when": "every", "every": "10", "unit": "seconds"}, "every", "greater than or equal to 60"),
        ({"when": "at", "at": ""}, "at", "Give a date"),
        ({"when": "at", "at": "2020-01-01T00:00"}, "at", "past"),
        ({"kind": "http", "url": "http://else.test/"}, "url", "not among those that are allowed"),
        ({"kind": "http", "url": "https://x/", "body": "{"}, "body", "no JSON"),
        ({"jitter_seconds": "x"}, "jitter_seconds", "whole number"),
        ({"max_seconds": "0.5", "min_seconds": "3"}, "max_seconds", "may not be less"),
        ({"name": "daily-backup"}, "name", "Choose another name"),
    ],
)
async def test_wrong_input_is_said_beside_its_field(
    ada: Visitor, fields: dict[str, str], field: str, said: str
) -> None:
    answer = await ada.submit("/schedules/new", **(NIGHTLY | fields))
    assert answer.status_code in {409, 422}
    found = re.search(rf'id="{field}-wrong">([^<]*)<', answer.text)
    assert found, answer.text
    assert said in found[1]


async def test_a_preview_says_when_and_what_clocks_do(ada: Visitor) -> None:
    shown = (await ada.submit("/schedules/preview", **(NIGHTLY | {"name": ""}))).text
    assert shown.count("02:30</span>") >= 4
    assert "UTC" in shown
    assert "clocks in Europe/Ljubljana" in shown
    assert "Give five fields" in (await ada.submit("/schedules/preview", cron="x", kind="proof", when="cron")).text
    made = await added(ada)
    edit = NIGHTLY | {"cron": "30 3 * * *", "of": made}
    assert "Not due any more" in (await ada.submit("/schedules/preview", **edit)).text


async def test_paused_resumed_run_and_deleted(ada: Visitor, ops: httpx.AsyncClient) -> None:
    wrong = await ada.submit(f"/schedules/{DAILY}/pause", until="2020-01-01T00:00")
    assert 'id="until-wrong">It lies in the past.' in wrong.text
    await ada.submit(f"/schedules/{DAILY}/pause", note="moving house", until="2099-01-01T00:00")
    paused = (await of(ops, f"/schedules/{DAILY}"))["paused"]
    assert (paused["note"], paused["until"]) == ("moving house", "2099-01-01T00:00:00Z")
    assert "moving house" in await ada.page("/schedules")
    await ada.submit(f"/schedules/{DAILY}/resume")
    assert (await of(ops, f"/schedules/{DAILY}"))["paused"] is None
    run = (await ada.submit(f"/schedules/{DAILY}/run")).headers["Location"]
    assert "a person wished it" in await ada.page(run.removeprefix("/ops"))
    assert (await ada.submit(f"/schedules/{DAILY}/run")).status_code == 409, "one at a time"
    await ada.submit(f"{run.removeprefix('/ops')}/cancel")
    shown = await ada.page(run.removeprefix("/ops"))
    assert "Cancelled by ada." in shown
    again = (await ada.submit(f"{run.removeprefix('/ops')}/again")).headers["Location"]
    assert again != run
    await ada.submit(f"/schedules/{DAILY}/delete")
    assert "There is no schedule." in await ada.page("/schedules")
    audit = await ada.page("/audit")
    for action in ("paused", "resumed", "ran", "deleted"):
        assert f"{action} a schedule" in audit
    assert "cancelled a run" in audit


async def test_a_backfill_says_its_count_first(ada: Visitor, ops: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
    made = await added(ada, when="every", every="1", unit="hours")
    await sql.execute(
        "update scheduler.schedules set accounted_from = now() - interval '1 day',"
        " anchor_at = now() - interval '1 day', next_due_at = now() + interval '2 hours' where id = $1",
        made,
    )
    await sql.execute(
        "update scheduler.schedule_revisions set since = now() - interval '1 day', definition = definition ||"
        " jsonb_build_object('anchor_at', now() - interval '1 day') where schedule_id = $1",
        made,
    )
    span = {"from": "2020-01-01T00:00", "to": "2099-01-01T00:00"}
    planned = await ada.submit(f"/schedules/{made}/backfill", **span)
    assert planned.status_code == 200
    found = re.search(r"It would have (\d+) runs", planned.text)
    assert found
    wrong = await ada.submit(f"/schedules/{made}/backfill", **span, count="1")
    assert wrong.status_code == 409
    assert (await ada.submit(f"/schedules/{made}/backfill", **span, count=found[1])).status_code == 303
    assert len((await of(ops, "/runs?trigger=backfill&limit=200"))["items"]) == int(found[1])


async def test_nothing_that_people_write_runs(ada: Visitor) -> None:
    made = await added(ada, name=EVIL)
    await ada.submit(f"/schedules/{made}/pause", note=EVIL)
    for path in ("/", "/schedules", f"/schedules/{made}", f"/schedules/{made}/edit", "/runs", "/audit"):
        shown = await ada.page(path)
        assert "<script>" not in shown, path
        assert '"onload="' not in shown, path


async def test_without_a_backup_api_the_rest_is_shown(ada: Visitor) -> None:
    assert "set HOLDFAST_BACKUPS_URL" in await ada.page("/backups")
    for path in ("/backups/x", "/rows?key=1", "/retention", "/subscriptions", "/restores/x", "/backups/x/diff"):
        answer = await ada.get(f"/ops{path}")
        assert answer.status_code in {422, 503}, path
        assert "set HOLDFAST_BACKUPS_URL" in answer.text
    assert "Running now" in await ada.page("/")


async def test_a_backup_api_that_is_away_leaves_what_was_seen(
    database_url: str, sql: asyncpg.Connection, aws_env: dict[str, str]
) -> None:
    await sql.execute(
        "insert into scheduler.backups (id, state, created_at, seconds, rows, bytes)"
        " values ('seen', 'proven', now() - interval '2 hours', 1.5, 42, 1000);"
        " update scheduler.watch set seen_at = now() - interval '1 hour'"
    )
    env = {"HOLDFAST_DATABASE_URL": database_url, "HOLDFAST_BACKUPS_URL": "http://127.0.0.1:9/v1"}
    app = create_app(Settings.from_env(env))
    async with app.router.lifespan_context(app), visitor(app, tokens.SCOPES) as ada:
        shown = await ada.page("/backups")
        assert "does not answer" in shown
        assert "What you see is of" in shown
        assert "/ops/backups/seen" in shown
        away = await ada.get("/ops/backups/seen")
        assert away.status_code == 503
        assert "The backup API is away" in away.text
        asked = await ada.submit("/backups/new", label="now")
        assert asked.status_code == 503
        assert "asked for a backup" in await ada.page("/audit"), "it may have been done"


RUNS = 20_000  # of which `make bench` has a million


async def test_the_overview_takes_few_queries_and_little_weight(
    app: FastAPI, ada: Visitor, sql: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    await filled(sql, RUNS)
    statements: list[str] = []
    engine = app.state.engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    started = perf_counter()
    shown = await ada.page("/")
    took = perf_counter() - started
    asked = [each for each in statements if not each.lstrip().lower().startswith(("begin", "commit"))]
    with capsys.disabled():
        weight = len(shown) / 1024
        sys.stdout.write(f"\noverview of {RUNS} runs: {len(asked)} queries, {1000 * took:.0f} ms, {weight:.0f} KiB\n")
    assert len(asked) < 10
    assert len(shown.encode()) < 100 * 1024  # beside which 150 KB of style and script are fetched once


async def filled(sql: asyncpg.Connection, runs: int) -> None:
    """A thousand backups, a hundred schedules and these runs, of the last 90 days."""
    await sql.execute(
        """
        insert into scheduler.backups (id, state, created_at, seconds, rows, bytes)
        select 'b' || n, (array['proven', 'proven', 'stored', 'failed'])[1 + n % 4], now() - n * interval '2 hours',
            10 + n % 7, 1000000 + 100 * n, 100000000 + 1000 * n
        from generate_series(1, 1000) as n
        """
    )
    await sql.execute(
        """
        insert into scheduler.schedules (name, cron, timezone, target, next_due_at)
        select 'schedule ' || n, '0 2 * * *', 'UTC', '{"kind": "backup"}', now() + n * interval '1 minute'
        from generate_series(1, 100) as n
        """
    )
    await sql.execute(
        """
        insert into scheduler.runs (id, schedule_id, trigger, due_at, target, state, deadline_at, created_at, ended_at,
            reason)
        select uuidv7(-age), s.id, 'manual', now() - age, '{"kind": "backup"}',
            case when n % 50 = 0 then 'failed' when n % 51 = 0 then 'missed' else 'succeeded' end,
            now(), now() - age, now() - age, 'because'
        from generate_series(1, $1) as n
        cross join lateral (select n * (interval '90 days' / $1) as age) as aged
        join (select id, row_number() over () - 1 as number from scheduler.schedules) as s on s.number = n % 100
        """,
        runs,
    )
    await sql.execute("vacuum analyze scheduler.runs")
