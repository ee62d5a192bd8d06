"""The scheduler beside its budgets: `python -m tests.bench.scheduling SCHEDULES RUNS`.

Lateness and the idle tick are of so many schedules, what a long history costs is of so many runs: there the budgets are
ratios to the same with few.
"""

import asyncio
import secrets
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import event, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from deploy.local import valkey
from deploy.local.postgres import Postgres
from scheduler import db, due, history, ledger, pruning, tokens
from scheduler.app import create_app
from scheduler.models import Schedule
from scheduler.schemas import RunsQuery
from scheduler.settings import Settings
from tests.bench.long_history import EVERY_MINUTE, SCHEDULES, fill
from tests.scheduler import gateway, replicas
from tests.scheduler.visitor import visitor
from tests.servers import free_port, postgres, private_directory, running

WORKERS = 2
LEAD_SECONDS = 10  # for the workers to start
LATE_SECONDS = 5.0
IDLE_MILLISECONDS = 2.0
SAME = 1.5  # times as long with a long history
ROUNDS = 31
DAY = timedelta(days=1)
ELSEWHERE = """\
measured elsewhere, on 2 cores:
  django-celery-beat fires 1,000 schedules a minute with p99 5.9 s late, loses 8,900 of 10,000, and doubles every fire
  with two beats; APScheduler 3 with its defaults misses 35 to 58 % of 1,000 and loses all while it is down"""
LINE = "{:28} {:>9} {:>9} {:>9}  {:22} {:>9} {:>9}  {}".format

_SCHEDULES = """
    insert into scheduler.schedules (name, cron, timezone, target, next_due_at)
    select 'schedule ' || n, n % 60 || ' 3 * * *', 'Europe/Ljubljana', '{"kind": "backup"}', $2
    from generate_series(1, $1) as n
"""
_BACKUPS = """
    insert into scheduler.backups (id, state, created_at, seconds, rows, bytes)
    select 'b' || n, (array['proven', 'proven', 'stored', 'failed'])[1 + n % 4], now() - n * interval '2 hours',
        10 + n % 7, 1000000 + 100 * n, 100000000 + 1000 * n
    from generate_series(1, 1000) as n
"""
_LATE = """
    select percentile_disc(array[0.5, 0.99, 1]) within group (order by extract(epoch from {} - due_at)::float)
    from scheduler.runs
"""
_MOMENTS = {
    "recorded": "created_at",
    "dispatched": "dispatched_at",
    "claimed": "started_at",
    "accepted": "accepted_at",
    "ended": "ended_at",
}


@dataclass(frozen=True)
class Bench:
    server: Postgres
    home: Path
    schedules: int
    runs: int

    async def measure(self) -> None:
        await self.lateness()
        await self.idle_tick()
        await self.long_history()

    async def lateness(self) -> None:
        """All are due at one moment, and the stand-in has every backup stored when it is asked for it."""
        async with gateway.serving() as taking, self._database("late") as (connection, _):
            with ExitStack() as leaving:
                password, port = secrets.token_urlsafe(16), free_port()
                leaving.enter_context(running(valkey.program(self.home, port, password), self.home))
                urls = (self.server.url("scheduler_app", "late"), valkey.url(port, password), taking.url)
                for number in range(WORKERS):
                    leaving.enter_context(running(replicas.worker(f"worker-{number}", *urls), self.home))
                now = await connection.fetchval("select now()")
                await connection.execute(_SCHEDULES, self.schedules, now + timedelta(seconds=LEAD_SECONDS))
                async with asyncio.timeout(LEAD_SECONDS + 60 + self.schedules / 20):
                    ended = "select count(*) from scheduler.runs where ended_at is not null"
                    while await connection.fetchval(ended) < self.schedules:  # noqa: ASYNC110 - processes set no event
                        await asyncio.sleep(1)
            say(f"{self.schedules:,} schedules due at once, {WORKERS} workers")
            say(LINE("seconds late", "p50", "p99", "max", "budget", "measured", "at most", ""))
            for what, column in _MOMENTS.items():
                late = await connection.fetchval(_LATE.format(column))
                budget = judged("p99", late[1], LATE_SECONDS, "{:.2f} s") if what in {"recorded", "dispatched"} else ()
                say(line(f"due to {what}", late, "{:.2f}", budget))
            rows = await connection.fetchval("select count(*) from scheduler.runs")
            fired = await connection.fetchval("select count(distinct schedule_id) from scheduler.runs")
            for what, count in (
                ("lost", self.schedules - fired),
                ("fired twice", rows - fired),
                ("backups too many", len(taking.backups) - self.schedules),
            ):
                say(line(what, (), "", judged("count", count, 0, "{:.0f}")))
            say(ELSEWHERE)

    async def idle_tick(self) -> None:
        async with self._database("idle") as (connection, engine):
            later = await connection.fetchval("select now() + interval '1 day'")
            await connection.execute(_SCHEDULES, self.schedules, later)
            await connection.execute("vacuum (analyze) scheduler.schedules")
            queries: list[str] = []
            event.listen(engine.sync_engine, "before_cursor_execute", lambda *given: queries.append(given[2]))
            times = sorted([1000 * await tick(engine, later) for _ in range(10 * ROUNDS)])
            plan = "\n".join(row[0] for row in await connection.fetch(f"explain {due._DUE.text}"))
            say(f"a tick while none of {self.schedules:,} schedules is due")
            say(LINE("milliseconds", "p50", "p99", "max", "budget", "measured", "at most", ""))
            quantiles = [times[len(times) // 2], times[len(times) * 99 // 100], times[-1]]
            say(line("idle tick", quantiles, "{:.2f}", judged("p50", quantiles[0], IDLE_MILLISECONDS, "{:.2f} ms")))
            say(line("", (), "", judged("queries", len(queries) / len(times), 1, "{:g}")))
            by_index = "Index Scan using schedules_next_due_at_idx" in plan
            say(line("", (), "", judged("without an index", not by_index, 0, "{:.0f}")))

    async def long_history(self) -> None:
        few = min(10_000, self.runs // 10)
        async with self._database("few") as (_, small), self._database("many") as (connection, large):
            until = {
                engine: await fill(self.server.url("postgres", name), count)
                for engine, name, count in ((small, "few", few), (large, "many", self.runs))
            }
            say(f"{self.runs:,} runs of {SCHEDULES} schedules beside {few:,}: median of {ROUNDS} rounds")
            say(LINE("milliseconds", f"{few:,}", f"{self.runs:,}", "", "compared with", "measured", "at most", ""))
            for what, action in MEASURED.items():
                found: dict[AsyncEngine, list[float]] = {small: [], large: []}
                for number in range(ROUNDS + 1):
                    for engine, times in found.items():
                        seconds = await action(engine, until[engine])
                        if number:  # the first one warms up
                            times.append(1000 * seconds)
                medians = [statistics.median(times) for times in found.values()]
                say(line(what, medians, "{:.2f}", judged("time with few", medians[1] / medians[0], SAME, "{:.2f}x")))
            await self._overview(connection, self.server.url("scheduler_app", "many"))
            await self._prune(connection, large, until[large])

    async def _overview(self, connection: asyncpg.Connection, url: str) -> None:
        """The first page of the console, with a thousand backups as well."""
        await connection.execute(_BACKUPS)
        app = create_app(Settings.from_env({"HOLDFAST_DATABASE_URL": url}))
        statements: list[str] = []
        event.listen(app.state.engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        async with app.router.lifespan_context(app), visitor(app, tokens.SCOPES) as person:
            await person.page()
            statements.clear()
            times = []
            for _ in range(ROUNDS):
                begun = time.perf_counter()
                shown = await person.page()
                times.append(1000 * (time.perf_counter() - begun))
        queries = len(statements) / ROUNDS
        say(f"the overview, with 1,000 backups and {self.runs:,} runs")
        median = statistics.median(times)
        say(line("overview, whole page", [median], "{:.0f}", judged("milliseconds", median, 200, "{:.0f}")))
        say(line("", (), "", judged("queries", queries, 9, "{:g}")))
        say(line("", (), "", judged("KiB, without style and script", len(shown.encode()) / 1024, 150, "{:.0f}")))

    async def _prune(self, connection: asyncpg.Connection, engine: AsyncEngine, until: datetime) -> None:
        """A tenth of all runs, as the worker does it; then a tick, and the account of what is left."""
        old = "select ended_at from scheduler.runs where ended_at is not null order by ended_at offset $1 limit 1"
        old_until = await connection.fetchval(old, self.runs // 10)
        batches: list[float] = [time.perf_counter()]
        event.listen(engine.sync_engine, "commit", lambda _: batches.append(time.perf_counter()))
        removed = await pruning.prune(engine, await connection.fetchval("select now() - $1", old_until))
        seconds, times = batches[-1] - batches[0], [after - before for before, after in pairwise(batches)]
        say(f"{removed:,} old runs pruned: {seconds:.1f} s in {len(times)} batches, the longest {max(times):.2f} s")
        async with db.transaction(engine) as session:
            schedules = list(await session.scalars(select(Schedule)))
            for schedule in schedules:
                schedule.next_due_at = due.timing(schedule).next(until)
            await session.flush()
            now, fired = await session.scalar(text("select now()")), await due.fire(session)
            again = text("select count(*) from scheduler.runs where created_at = now() and due_at <= :until")
            doubled = await session.scalar(again, {"until": until})
            accounts = [await ledger.account(session, each, each.created_at, now) for each in schedules]
        say(line("fired by the next tick", (fired,), "{}", judged("for the second time", doubled, 0, "{}")))
        unaccounted = sum(len(each.unaccounted) + len(each.unexpected) for each in accounts)
        kept = sum(len(each.due) for each in accounts)
        say(line("due times in the ledgers", (kept,), "{}", judged("unaccounted for", unaccounted, 0, "{}")))

    @asynccontextmanager
    async def _database(self, name: str) -> AsyncIterator[tuple[asyncpg.Connection, AsyncEngine]]:
        """A connection of the superuser, and an engine as the worker has it."""
        await asyncio.to_thread(replicas.make_database, self.server, name)
        engine = db.create_engine(Settings.from_env({"HOLDFAST_DATABASE_URL": self.server.url("scheduler_app", name)}))
        connection = await asyncpg.connect(self.server.url("postgres", name))
        try:
            yield connection, engine
        finally:
            await connection.close()
            await engine.dispose()


async def tick(engine: AsyncEngine, _: datetime) -> float:
    """None is due."""
    begun = time.perf_counter()
    async with db.transaction(engine) as session:
        await due.fire(session)
    return time.perf_counter() - begun


async def tick_of_all(engine: AsyncEngine, _: datetime) -> float:
    """All are due, and it is rolled back."""
    async with AsyncSession(engine) as session:
        now = text("date_trunc('minute', now())")
        await session.execute(update(Schedule).values(next_due_at=now))
        begun = time.perf_counter()
        assert await due.fire(session) == SCHEDULES
        return time.perf_counter() - begun


async def page(engine: AsyncEngine, _: datetime, of_one: bool = False, **query: Any) -> float:
    async with db.transaction(engine) as session:
        if of_one:
            query["schedule_id"] = await session.scalar(select(Schedule.id).where(Schedule.name == EVERY_MINUTE))
        begun = time.perf_counter()
        await history.page(session, RunsQuery(**query))
        return time.perf_counter() - begun


async def ledger_of_a_day(engine: AsyncEngine, until: datetime) -> float:
    async with db.transaction(engine) as session:
        schedule = await session.scalar(select(Schedule).where(Schedule.name == EVERY_MINUTE))
        assert schedule is not None
        begun = time.perf_counter()
        account = await ledger.account(session, schedule, until - DAY, until)
        seconds = time.perf_counter() - begun
        assert account.complete
        return seconds


MEASURED: dict[str, Callable[[AsyncEngine, datetime], Awaitable[float]]] = {
    "idle tick": tick,
    f"tick, {SCHEDULES} are due": tick_of_all,
    "list": page,
    "list of a schedule": partial(page, of_one=True),
    "list of failed": partial(page, state="failed"),
    "list of a schedule's failed": partial(page, of_one=True, state="failed"),
    "list of running": partial(page, state="running"),
    "ledger of a day": ledger_of_a_day,
}


def judged(what: str, value: float, limit: float, form: str) -> tuple[str, str, str, str]:
    return what, form.format(value), form.format(limit), "met" if value <= limit else "MISSED"


def line(name: str, figures: Sequence[float], form: str, budget: Sequence[str]) -> str:
    shown = [*(form.format(each) for each in figures), "", "", ""][:3]
    return LINE(name, *shown, *(budget or ("", "", "", ""))).rstrip()


def say(what: str) -> None:
    sys.stdout.write(what.rstrip() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with postgres(durable=True) as server, private_directory() as home:
        asyncio.run(Bench(server, home, int(sys.argv[1]), int(sys.argv[2])).measure())
