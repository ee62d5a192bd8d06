"""The worker: `python -m scheduler.worker`, any number of them. With `--check` it tells whether one on this host works.

It ticks, puts steps on the queue, takes steps from it, takes over runs of workers that died, ends runs that the queue
has left behind, opens alarms and tells them, watches backups, audits ledgers and prunes: loops side by side, none of
them an arq job, so that long steps never hold up a tick. PostgreSQL and Redis may go away for as long as they like: a
loop says what it waits for, and waits a little longer each time.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from functools import partial

from arq.connections import ArqRedis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import (
    alarms,
    backups,
    db,
    due,
    jobs,
    ledger,
    logs,
    notices,
    outside,
    ping,
    pruning,
    runs,
    schedules,
    status,
    steps,
    watch,
)
from scheduler.answers import AnswerError
from scheduler.errors import DatabaseUnavailable
from scheduler.metrics import WorkMetrics
from scheduler.notices import Notice, NoticeNotSent, Topic
from scheduler.settings import WorkerSettings
from scheduler.status import Status
from scheduler.steps import Reach
from scheduler.traces import Traces

MAX_PAUSE_SECONDS = 8.0
HEARTBEAT_SECONDS = 20
DISPATCHED_AT_ONCE = 500

log = logging.getLogger("scheduler.worker")


async def serve(settings: WorkerSettings, stop: asyncio.Event, pace: float = 1.0) -> None:
    """Work until `stop`, then end what is in hand. A `pace` of 10 looks ten times as often."""
    async with AsyncExitStack() as stack:
        engine = db.create_engine(settings, application_name="scheduler.worker")
        stack.push_async_callback(engine.dispose)
        redis = jobs.connect(settings.redis_url.get_secret_value())
        stack.push_async_callback(redis.aclose, close_connection_pool=True)
        client = await stack.enter_async_context(backups.connect(settings.backups_url))
        traces, counted = Traces(settings.otlp_endpoint, "scheduler_worker"), WorkMetrics()
        await stack.enter_async_context(traces.kept())
        reach = Reach(client, outside.connect(settings.http_targets), counted, traces)
        topic = await stack.enter_async_context(notices.connect(settings.topic_arn))
        switch = await stack.enter_async_context(ping.connect(settings.ping_url))
        shown = Status(counted)
        await stack.enter_async_context(status.serving(settings.status_address, shown))
        async with asyncio.TaskGroup() as group:
            for name, seconds, action in (
                ("tick", 1.0, partial(tick, engine, redis, shown)),
                ("ping", 1.0, partial(ping_after_ticks, switch, shown)),
                ("dispatch", 1.0, partial(dispatch, engine, redis, counted)),
                ("sweep", 5.0, partial(sweep, engine)),
                ("left behind", 5.0, partial(left_behind, engine, reach, stop)),
                ("alarms", 5.0, partial(look, engine)),
                ("announce", 1.0, partial(announce, engine, topic, stop)),
                ("watch", 15.0, partial(watch.look, engine, client, timedelta(hours=settings.proven_within_hours))),
                ("audit", 60.0, partial(audit, engine)),
                ("prune", 3600.0, partial(pruning.prune, engine, timedelta(days=settings.runs_kept_days))),
                ("work", 1.0, partial(jobs.work, redis, partial(steps.take, engine, reach), stop)),
            ):
                group.create_task(repeat(name, seconds / pace, action, stop))
        log.info("stopped")


async def tick(engine: AsyncEngine, redis: ArqRedis, shown: Status) -> None:
    """As long as much is due, without a pause."""
    fired = due.SCHEDULES_AT_ONCE
    while fired == due.SCHEDULES_AT_ONCE:
        with shown.metrics.ticks.time():
            async with db.transaction(engine) as session:
                if fired := await due.fire(session):
                    log.info("due: %d", fired)
    shown.ticked()
    # Last: while Redis is away nothing can be dispatched, but what is due is recorded.
    await redis.set(_heartbeat(), b"ticked", ex=HEARTBEAT_SECONDS)
    shown.reached_redis()


async def ping_after_ticks(switch: ping.Switch, shown: Status) -> None:
    """Beside the ticks, which wait for nobody outside."""
    if shown.ticks:
        await switch.ping()


async def dispatch(engine: AsyncEngine, redis: ArqRedis, counted: WorkMetrics) -> None:
    """Steps are on the queue before their rows say so: if that fails, they are simply put there again."""
    async with db.transaction(engine) as session:
        await runs.release(session)
    awake = DISPATCHED_AT_ONCE
    while awake == DISPATCHED_AT_ONCE:
        async with db.transaction(engine) as session:
            woken = await runs.awake(session, DISPATCHED_AT_ONCE)
            if awake := len(woken):
                await jobs.enqueue(redis, [step for step, _ in woken])
        for _, late_seconds in woken:
            counted.late("dispatched", late_seconds)


async def sweep(engine: AsyncEngine) -> None:
    async with db.transaction(engine) as session:
        for run_id in await runs.sweep(session):
            log.warning("run %s was left by its worker", run_id)


async def left_behind(engine: AsyncEngine, reach: Reach, stop: asyncio.Event) -> None:
    """Redis may be away for longer than a run may take: past its deadline a run ends without the queue."""
    async with db.transaction(engine) as session:
        found = await runs.left_behind(session)
    for step in found:
        if not stop.is_set():
            await steps.take(engine, reach, step)


async def look(engine: AsyncEngine) -> None:
    async with db.transaction(engine) as session:
        await alarms.look(session)
    resumed = schedules.RESUMED_AT_ONCE
    while resumed == schedules.RESUMED_AT_ONCE:
        async with db.transaction(engine) as session:
            resumed = await schedules.resume_those_due(session)


async def audit(engine: AsyncEngine) -> None:
    async with db.transaction(engine) as session:
        if gaps := await ledger.audit(session):
            log.error("due times are not accounted for, of %d schedules", gaps)


async def announce(engine: AsyncEngine, topic: Topic, stop: asyncio.Event) -> None:
    """Of runs that failed and of alarms in turns, one at a time, as long as there is one and the topic takes it."""
    sent = True
    while sent and not stop.is_set():
        sent = await announce_failure(engine, topic)
        sent = await announce_alarm(engine, topic) or sent


async def announce_failure(engine: AsyncEngine, topic: Topic) -> bool:
    """Whether one was sent."""
    async with db.transaction(engine) as session:
        failed = await alarms.unannounced(session)
    if failed is None or not await _sent(topic, notices.failed(*failed)):
        return False
    async with db.transaction(engine) as session:
        await alarms.announced(session, failed[0])
    return True


async def announce_alarm(engine: AsyncEngine, topic: Topic) -> bool:
    """Whether its beginning or its end was sent."""
    async with db.transaction(engine) as session:
        alarm = await alarms.untold(session)
        name = await alarms.name_of(session, alarm.schedule_id) if alarm else None
    if alarm is None:
        return False
    notice = (notices.opened if alarm.tell_opened_at else notices.closed)(alarm, name)
    if not await _sent(topic, notice):
        return False
    async with db.transaction(engine) as session:
        await alarms.told(session, alarm)
    return True


async def _sent(topic: Topic, notice: Notice) -> bool:
    try:
        await topic.publish(notice)
    except NoticeNotSent as error:
        log.warning("notice %s waits for the topic: %s", notice.event["id"], error)
        return False
    return True


async def repeat(name: str, seconds: float, action: Callable[[], Awaitable[object]], stop: asyncio.Event) -> None:
    """Every `seconds` until `stop`; after failures in a row, up to MAX_PAUSE_SECONDS later."""
    failures = 0
    while not stop.is_set():
        try:
            await action()
            failures = 0
        except (DatabaseUnavailable, RedisError, AnswerError, OSError) as error:
            failures += 1
            log.warning("%s waits: %s", name, error.__doc__ if isinstance(error, DatabaseUnavailable) else error)
        except Exception:
            failures += 1
            log.exception("%s failed, and goes on", name)  # an error in one loop must not end the others
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds * 2 ** min(failures, 10), max(seconds, MAX_PAUSE_SECONDS))):
                await stop.wait()


async def check(settings: WorkerSettings) -> bool:
    """Whether a worker on this host (in its own container, that is) has ticked lately, and reaches Redis."""
    redis = jobs.connect(settings.redis_url.get_secret_value())
    try:
        return bool(await redis.exists(_heartbeat()))
    finally:
        await redis.aclose(close_connection_pool=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scheduler.worker", description="Makes the runs happen.")
    parser.add_argument("--check", action="store_true", help="exit code 0 if a worker on this host has ticked lately")
    checking = parser.parse_args().check
    settings = WorkerSettings.from_env(os.environ)
    if checking:
        try:
            sys.exit(None if asyncio.run(check(settings)) else "no worker on this host has ticked lately")
        except RedisError as error:
            sys.exit(f"Redis: {error}")
    logs.to_stdout()
    asyncio.run(_until_signal(settings))


async def _until_signal(settings: WorkerSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, stop)


def _heartbeat() -> str:
    return f"scheduler:worker:{socket.gethostname()}"


if __name__ == "__main__":
    main()
