"""Three workers and an API in one process, on clocks that a test moves, each of which may stop or die anywhere.

The service's statements ask for `now()`; here that is a function of its own, by who asks. What moves with the clocks is
all of PostgreSQL's time but the ids.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg
import httpx
from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from redis.exceptions import RedisError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from scheduler import backfills, db, history, jobs, ledger, schedules, steps, worker
from scheduler.backups import Backups
from scheduler.definitions import ScheduleIn
from scheduler.errors import SchedulerError
from scheduler.metrics import WorkMetrics
from scheduler.models import Revision, Schedule
from scheduler.outside import Outside
from scheduler.runs import Step
from scheduler.settings import Settings
from scheduler.status import Status
from scheduler.steps import Reach
from tests.scheduler import gateway, oracle
from tests.scheduler.interrupted import Fault, Interrupted
from tests.servers import Cluster

WORKERS, API = ("worker-1", "worker-2", "worker-3"), "api"
BLOCKED_SECONDS = 0.3  # then it waits for somebody who is paused
ROUNDS, ROUND = 600, timedelta(seconds=20)
OVER = {"succeeded", "failed", "cancelled", "skipped", "missed"}
CLOCK = """
    create schema clock;
    create table clock.hands (name text primary key, at timestamptz not null);
    create function clock.now() returns timestamptz stable language sql
        as $$ select at from clock.hands where name = pg_catalog.current_setting('application_name') $$;
    grant usage on schema clock to scheduler_app;
    grant select on clock.hands to scheduler_app;
"""

Wish = Callable[[AsyncSession], Awaitable[Any]]


@dataclass(frozen=True)
class Actor:
    """A process, were it not for its clock."""

    name: str
    engine: AsyncEngine
    redis: ArqRedis


class World:
    def __init__(self, sql: asyncpg.Connection, redis: ArqRedis, stand_in: gateway.Gateway, reach: Reach) -> None:
        self.sql, self.redis, self.gateway, self.reach = sql, redis, stand_in, reach
        self.actors: dict[str, Actor] = {}
        self._paused: dict[str, tuple[asyncio.Task[Any], asyncio.Event]] = {}
        self.begun = False

    # Its time

    async def begin(self, now: datetime) -> None:
        """Nothing is left of what was before."""
        for name in list(self._paused):
            await self.go_on(name)
        await self.sql.execute("truncate scheduler.schedules, scheduler.runs, scheduler.alarms cascade")
        await self.redis.flushall()
        self.gateway.calls.clear()
        self.gateway.backups.clear()
        self._mend()
        self._over: dict[Any, Any] = {}
        self._pauses_end: dict[tuple[Any, int], datetime | None] = {}
        self.now = self.latest = now
        await self._show()
        self.begun = True

    def _mend(self) -> None:
        self.gateway.instead.clear()
        self.gateway.loses_answers, self.gateway.outcome = False, {"state": "stored"}

    async def move(self, by: timedelta) -> None:
        """The clocks of all that are not paused. They may be set back."""
        self.now += by
        self.latest = max(self.now, self.latest)
        await self._show()

    async def _show(self) -> None:
        names = [name for name in (*WORKERS, API) if name not in self._paused]
        statement = "insert into clock.hands select unnest($1::text[]), $2 on conflict (name) do update set at = $2"
        await self.sql.execute(statement, names, self.now)

    async def redis_forgets(self) -> None:
        await self.redis.flushall()

    # What is done in it

    async def act(self, name: str, work: Coroutine[Any, Any, Any], fault: Fault | None = None) -> Any:
        """Its result; None where it failed as it may, or died, or is paused. One that is paused goes on first."""
        await self.go_on(name)
        paused, resumed = asyncio.Event(), asyncio.Event()

        async def happens() -> None:
            if fault and fault.kind == "dies":
                task.cancel()
            elif fault and fault.kind == "pauses":
                paused.set()
                await resumed.wait()
            elif fault and fault.kind == "loses_redis":
                await self.redis.client_kill_filter(_type="normal", skipme=True)
            else:
                ours = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1"
                await self.sql.execute(ours, name)

        async def done() -> Any:
            return await (Interrupted(work, fault.number, happens) if fault else work)

        task = asyncio.create_task(done())
        stops = asyncio.create_task(paused.wait())
        while not (task.done() or stops.done()):
            await asyncio.wait({task, stops}, timeout=BLOCKED_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not (task.done() or stops.done()) and self._paused:
                await self.go_on(next(iter(self._paused)))
        stops.cancel()
        if not task.done():
            self._paused[name] = task, resumed
            return None
        return await _result(task)

    async def go_on(self, name: str) -> None:
        """If it was paused: it still has the clock of then."""
        if name in self._paused:
            task, resumed = self._paused.pop(name)
            resumed.set()
            while not task.done():
                await asyncio.wait({task}, timeout=BLOCKED_SECONDS)
                if not task.done() and self._paused:
                    await self.go_on(next(iter(self._paused)))
            await _result(task)
            await self._show()

    async def ask(self, wish: Wish, fault: Fault | None = None) -> Any:
        """Of the API."""

        async def in_transaction() -> Any:
            async with db.transaction(self.actors[API].engine) as session:
                return await wish(session)

        return await self.act(API, in_transaction(), fault)

    async def tick(self, name: str, fault: Fault | None = None) -> None:
        actor = self.actors[name]
        await self.act(name, worker.tick(actor.engine, actor.redis, Status(self.reach.metrics)), fault)

    async def dispatch(self, name: str, fault: Fault | None = None) -> None:
        actor = self.actors[name]
        await self.act(name, worker.dispatch(actor.engine, actor.redis, self.reach.metrics), fault)

    async def deliver(self, name: str, which: int = 0, fault: Fault | None = None, again: bool = False) -> bool:
        """A job of the queue, as arq brings it; it stays there for `again`, or when its worker dies."""
        queued = [job.decode() for job in await self.redis.zrange(jobs.QUEUE, 0, -1)]
        if not queued:
            return False
        job = queued[which % len(queued)]
        _, run_id, seq = job.split(":")
        await self.act(name, steps.take(self.actors[name].engine, self.reach, Step(UUID(run_id), int(seq))), fault)
        if not (again or fault):
            await self.redis.zrem(jobs.QUEUE, job)
            await self.redis.delete(job_key_prefix + job)
        return True

    async def look(self, name: str, fault: Fault | None = None) -> None:
        engine = self.actors[name].engine
        await self.act(name, worker.sweep(engine), fault)
        await self.act(name, worker.left_behind(engine, self.reach, asyncio.Event()))
        await self.act(name, worker.look(engine))

    async def add(self, **definition: Any) -> UUID | None:
        wanted = ScheduleIn.model_validate(definition)
        made: Schedule | None = await self.ask(lambda session: schedules.create(session, wanted, "ops"))
        return made.id if made else None

    async def change(self, schedule_id: Any, wish: Callable[..., Awaitable[Any]], fault: Fault | None = None) -> Any:
        """`wish` gets a session and the schedule, locked."""

        async def locked(session: AsyncSession) -> Any:
            return await wish(session, await schedules.locked(session, schedule_id))

        pauses_end = [end for (paused, _), end in self._pauses_end.items() if paused == schedule_id and end]
        began = min([self.now, *pauses_end])  # from when one that was paused goes on
        made = await self.ask(locked, fault)
        if isinstance(made, Schedule):
            assert began <= made.updated_at <= self.latest, "a change of the past"
        return made

    async def edit(self, schedule_id: Any, fault: Fault | None = None, **changes: Any) -> None:
        async def edit(session: AsyncSession, schedule: Schedule) -> Any:
            before = schedules.definition(schedule).model_dump()
            return await schedules.edit(session, schedule, ScheduleIn.model_validate(before | changes), "ops")

        await self.change(schedule_id, edit, fault)

    async def pause(self, schedule_id: Any, until: datetime | None = None, fault: Fault | None = None) -> None:
        wish = partial(schedules.pause, note=None, until=until, by="ops")
        if isinstance(paused := await self.change(schedule_id, wish, fault), Schedule):
            self._pauses_end[schedule_id, paused.revision] = until

    async def resume(self, schedule_id: Any, fault: Fault | None = None) -> None:
        await self.change(schedule_id, partial(schedules.resume, by="ops"), fault)

    async def delete(self, schedule_id: Any, fault: Fault | None = None) -> None:
        await self.change(schedule_id, partial(schedules.delete, by="ops"), fault)

    async def trigger(self, schedule_id: Any, key: str | None, fault: Fault | None = None) -> Any:
        return await self.change(schedule_id, partial(schedules.trigger, key=key), fault)

    async def backfill(self, schedule_id: Any, hours: int, fault: Fault | None = None) -> None:
        async def start(session: AsyncSession, schedule: Schedule) -> Any:
            since = self.now - timedelta(hours=hours)
            found = (await backfills.plan(session, schedule, since, self.now, "failed"))[:5]
            return await backfills.start(session, schedule, found, len(found))

        await self.change(schedule_id, start, fault)

    async def cancel(self, which: int, fault: Fault | None = None) -> None:
        """One of those that have not ended."""
        found = await self.sql.fetch("select id from scheduler.runs where ended_at is null order by id")
        if found:
            run_id = found[which % len(found)]["id"]
            await self.ask(lambda session: history.cancel(session, run_id, "ops"), fault)

    # What holds

    async def check(self) -> None:
        """At every moment."""
        found = await self.sql.fetch("select * from scheduler.runs")
        fired = Counter((run["schedule_id"], run["due_at"]) for run in found if run["trigger"] == "schedule")
        assert fired.total() == len(fired), "a due time has two runs"
        active = Counter(
            run["schedule_id"] for run in found if run["exclusive"] and not run["held"] and run["state"] not in OVER
        )
        assert active.total() == len(active), "two runs of a schedule that wants one at a time"
        keys = [run["request_key"] for run in found if run["request_key"]]
        assert len(keys) == len(set(keys)), "a request has two runs"
        for run in found:
            self._check(run)
        ids = {str(run["id"]): run["backup_id"] for run in found}
        for key, backup in self.gateway.backups.items():
            assert key in ids, "a backup that no run has asked for"
            assert ids[key] in {backup, None}, "a run follows a backup that is not its own"

    def _check(self, run: asyncpg.Record) -> None:
        begins = run["due_at"] + timedelta(seconds=run["jitter_seconds"])
        assert run["due_at"] <= self.latest, "recorded before it is due"
        assert run["started_at"] is None or begins <= self.latest, "started before it is due"
        assert (run["ended_at"] is not None) == (run["state"] in OVER)
        assert run["reason"] or run["state"] in {"queued", "running", "waiting", "succeeded"}, "nobody knows why"
        if run["state"] in OVER:
            last = {name: run[name] for name in ("state", "reason", "ended_at", "events", "seq", "backup_id")}
            assert self._over.setdefault(run["id"], last) == last, "something was written after its end"
        else:
            assert run["id"] not in self._over, "it had ended"

    async def end(self) -> None:
        """Faults stop; all runs end, and every due time has its row."""
        for name in list(self._paused):
            await self.go_on(name)
        self._mend()
        await self.move(self.latest - self.now)
        for schedule in await self.sql.fetch("select id from scheduler.schedules where deleted_at is null"):
            await self.pause(schedule["id"])
        for _ in range(ROUNDS):
            if not await self.sql.fetchval("select exists (select from scheduler.runs where ended_at is null)"):
                break
            for name in WORKERS:
                await self.tick(name)
                await self.dispatch(name)
                while await self.deliver(name):
                    pass
                await self.look(name)
            await self.move(ROUND)
        else:
            raise AssertionError("a run does not end")
        await self.check()
        await self._check_due_times()
        await self._check_alarms()

    async def _check_due_times(self) -> None:
        async with db.transaction(self.actors[API].engine) as session:
            for schedule in await session.scalars(select(Schedule)):
                revisions = list(
                    await session.scalars(
                        select(Revision).where(Revision.schedule_id == schedule.id).order_by(Revision.revision)
                    )
                )
                for one, following in pairwise(revisions):
                    assert one.until == following.since >= one.since, "a schedule that was two things at a time"
                self._check_pauses(revisions)
                live = [(one.definition, one.since, one.until or self.now) for one in revisions if one.live]
                wanted = [due_at for one in live for due_at in oracle.expected(*one)]
                rows = await self.sql.fetch(
                    "select due_at from scheduler.runs where schedule_id = $1 and trigger = 'schedule'", schedule.id
                )
                assert sorted(row["due_at"] for row in rows) == wanted, "rows are not what was due"
                account = await ledger.account(session, schedule, schedule.created_at, self.now)
                assert account.complete
                assert [each.due_at for each in account.due] == wanted, "the ledger is not what was due"

    def _check_pauses(self, revisions: list[Revision]) -> None:
        """Whatever is done to a schedule that is paused until some time, it is not paused any longer."""
        ends = None
        for one in revisions:
            if one.live or one.change == "paused":
                ends = self._pauses_end.get((one.schedule_id, one.revision))
            if ends and not one.live:
                assert (one.until or self.now) <= max(ends, one.since), "a pause that had ended"

    async def _check_alarms(self) -> None:
        found = await self.sql.fetch("""
            select s.id, s.deleted_at is not null as deleted,
                   count(*) filter (where r.state = 'succeeded') as succeeded,
                   count(*) filter (where r.state = 'failed') as failed,
                   exists (
                       select from scheduler.alarms a
                       where a.kind = 'failing' and a.subject = s.id::text and a.closed_at is null
                   ) as alarm
            from scheduler.schedules s left join scheduler.runs r on r.schedule_id = s.id
            group by s.id
        """)
        for schedule in found:
            if not schedule["failed"] or schedule["deleted"]:
                assert not schedule["alarm"], "an alarm of what has not failed"
            elif not schedule["succeeded"]:
                assert schedule["alarm"], "nobody is told that it fails"
        left = await self.sql.fetchval("""
            select count(*) from scheduler.alarms where kind = 'too_long' and closed_at is null
        """)
        assert not left, "an alarm of a run that has ended"


async def _result(task: asyncio.Task[Any]) -> Any:
    with suppress(asyncio.CancelledError, SchedulerError, RedisError):
        return await task
    return None


async def create(stack: AsyncExitStack, cluster: Cluster, database: str, redis_url: str) -> World:
    sql = await asyncpg.connect(cluster.url("postgres", database))
    stack.push_async_callback(sql.close)
    await sql.execute(CLOCK)
    await sql.execute(f'alter role scheduler_app in database "{database}" set search_path = clock, pg_catalog')
    stand_in = await stack.enter_async_context(gateway.serving())
    http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
    redis = _redis(stack, redis_url)
    world = World(sql, redis, stand_in, Reach(Backups(http, stand_in.url), Outside([]), WorkMetrics()))
    settings = Settings.from_env({"HOLDFAST_DATABASE_URL": cluster.url("scheduler_app", database)})
    for name in (*WORKERS, API):
        engine = db.create_engine(settings, application_name=name)
        stack.push_async_callback(engine.dispose)
        world.actors[name] = Actor(name, engine, _redis(stack, redis_url))
    return world


def _redis(stack: AsyncExitStack, url: str) -> ArqRedis:
    redis = jobs.connect(url)
    stack.push_async_callback(redis.aclose, close_connection_pool=True)
    return redis
