"""The worker: `python -m scheduler.worker`, any number of them. With `--check` it tells whether one on this host works.

It ticks, puts steps on the queue, takes steps from the queue, takes over runs of workers that died, ends runs that the
queue has left behind, and sends alarms: six loops side by side, none of them an arq job, so that long steps never hold
up a tick. PostgreSQL and Redis may go away for as long as they like: a loop says what it waits for, and waits a little
longer each time.
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
from functools import partial

from arq.connections import ArqRedis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import alarms, backups, db, due, jobs, runs, steps
from scheduler.alarms import AlarmNotSent, Topic
from scheduler.backups import Backups
from scheduler.errors import DatabaseUnavailable
from scheduler.settings import WorkerSettings

MAX_PAUSE_SECONDS = 8.0
HEARTBEAT_SECONDS = 20

log = logging.getLogger("scheduler.worker")


async def serve(settings: WorkerSettings, stop: asyncio.Event, pace: float = 1.0) -> None:
    """Work until `stop`, then end what is in hand. A `pace` of 10 looks ten times as often."""
    async with AsyncExitStack() as stack:
        engine = db.create_engine(settings, application_name="scheduler.worker")
        stack.push_async_callback(engine.dispose)
        redis = jobs.connect(settings.redis_url.get_secret_value())
        stack.push_async_callback(redis.aclose, close_connection_pool=True)
        client = await stack.enter_async_context(backups.connect(settings.backups_url))
        topic = await stack.enter_async_context(alarms.connect(settings.topic_arn))
        async with asyncio.TaskGroup() as group:
            for name, seconds, action in (
                ("tick", 1.0, partial(tick, engine, redis)),
                ("dispatch", 1.0, partial(dispatch, engine, redis)),
                ("sweep", 5.0, partial(sweep, engine)),
                ("overdue", 5.0, partial(overdue, engine, client)),
                ("announce", 1.0, partial(announce, engine, topic)),
                ("work", 1.0, partial(jobs.work, redis, partial(steps.take, engine, client), stop)),
            ):
                group.create_task(repeat(name, seconds / pace, action, stop))
        log.info("stopped")


async def tick(engine: AsyncEngine, redis: ArqRedis) -> None:
    async with db.transaction(engine) as session:
        if fired := await due.fire(session):
            log.info("due: %d", fired)
    # Last: while Redis is away nothing can be dispatched, but what is due is recorded.
    await redis.set(_heartbeat(), b"ticked", ex=HEARTBEAT_SECONDS)


async def dispatch(engine: AsyncEngine, redis: ArqRedis) -> None:
    """A step is on the queue before the row says so: if that fails, it is simply put there again."""
    async with db.transaction(engine) as session:
        for step in await runs.awake(session):
            await jobs.enqueue(redis, step)


async def sweep(engine: AsyncEngine) -> None:
    async with db.transaction(engine) as session:
        for run_id in await runs.sweep(session):
            log.warning("run %s was left by its worker", run_id)


async def overdue(engine: AsyncEngine, client: Backups) -> None:
    """Redis may be away for longer than a run may take: past its deadline a run ends without the queue."""
    async with db.transaction(engine) as session:
        left_behind = await runs.overdue(session)
    for step in left_behind:
        await steps.take(engine, client, step)


async def announce(engine: AsyncEngine, topic: Topic) -> None:
    async with db.transaction(engine) as session:
        unsent = await runs.unsent(session)
    if unsent is None:
        return
    run, schedule = unsent
    try:
        await topic.publish(alarms.failed(run, schedule))
    except AlarmNotSent as error:
        log.warning("the alarm of run %s waits for the topic: %s", run.id, error)
        return
    async with db.transaction(engine) as session:
        await runs.sent(session, run)


async def repeat(name: str, seconds: float, action: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    """Every `seconds` until `stop`; after failures in a row, up to MAX_PAUSE_SECONDS later."""
    failures = 0
    while not stop.is_set():
        try:
            await action()
            failures = 0
        except (DatabaseUnavailable, RedisError, OSError) as error:
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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    for chatty in ("httpx", "botocore", "aiobotocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
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
