"""Steps on Redis, by arq: a bus that wakes workers up, never the store of truth. With `worker`, all that knows arq.

A job is the id of a run and the number of a step. It may be lost (the row comes again) and delivered twice (the second
claim gets nothing), so nothing that arq says about a job is read.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import serialize_job
from arq.utils import timestamp_ms
from arq.worker import Worker, func
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from scheduler.runs import Step

QUEUE = "scheduler:steps"
STEP_SECONDS = 45  # the gateway's 28, the database's share, and under the lease: one that hangs is cut, its run swept
DRAIN_SECONDS = 30
EXPIRE_MILLISECONDS = 3_600_000

log = logging.getLogger(__name__)


def connect(url: str) -> ArqRedis:
    """A pool that connects when it is first used. Close it with `aclose(close_connection_pool=True)`.

    Without time limits a half-open connection would hang the worker, and without retries an idle connection that the
    server closed would end it.
    """
    tls = {"ssl_check_hostname": True} if url.startswith("rediss:") else {}  # off by default in redis-py 5
    pool = ConnectionPool.from_url(
        url,
        socket_connect_timeout=2,
        socket_timeout=5,
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError],
        **tls,
    )
    return ArqRedis(pool, default_queue_name=QUEUE, expires_extra_ms=EXPIRE_MILLISECONDS, job_serializer=_to_json)


async def enqueue(redis: ArqRedis, steps: Sequence[Step]) -> None:
    """Put them on the queue, all at once; one that is there already stays as it is. Raises RedisError.

    What `enqueue_job` does for one: it takes five round trips, and hides from its caller that the connection dropped.
    """
    at = timestamp_ms()
    jobs = {f"run:{step.run_id}:{step.seq}": (str(step.run_id), step.seq) for step in steps}
    async with redis.pipeline(transaction=True) as pipe:
        for job_id, arguments in jobs.items():
            job = serialize_job("step", arguments, {}, None, at, serializer=_to_json)
            pipe.set(job_key_prefix + job_id, job, px=EXPIRE_MILLISECONDS)
        pipe.zadd(QUEUE, dict.fromkeys(jobs, at), nx=True)
        await pipe.execute()


async def work(redis: ArqRedis, take: Callable[[Step], Awaitable[None]], stop: asyncio.Event) -> None:
    """Take steps from the queue until `stop`, then let those in hand end. Raises RedisError when Redis goes away."""
    worker = _worker(redis, take)
    running = asyncio.create_task(worker.async_run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        worker.allow_pick_jobs = False
        if stop.is_set():
            log.info("it stops, with so many steps in hand: %d", sum(not step.done() for step in worker.tasks.values()))
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    while in_hand := [step for step in worker.tasks.values() if not step.done()]:
                        await asyncio.wait(in_hand)
    finally:
        stopping.cancel()
        while not running.done():  # a cancel is lost where it meets a connection that is being made
            running.cancel()
            await asyncio.wait({running}, timeout=0.5)
        for step in worker.tasks.values():
            step.cancel()
        await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
    if not running.cancelled():
        running.result()


def _worker(redis: ArqRedis, take: Callable[[Step], Awaitable[None]]) -> Worker:
    async def step(ctx: dict[Any, Any], *job: Any, **_: Any) -> None:
        run_id, seq = job
        await take(Step(UUID(run_id), seq))

    return Worker(
        # arq keeps a job to itself for the longest time-out of all functions and 10 s, whoever died with it.
        [func(step, name="step", timeout=STEP_SECONDS, max_tries=20, keep_result=0)],
        redis_pool=redis,
        queue_name=QUEUE,
        max_jobs=20,
        queue_read_limit=1000,  # jobs that run stay in the queue, and would hide those behind them
        poll_delay=0.25,
        handle_signals=False,
        job_serializer=_to_json,
        job_deserializer=json.loads,
        expires_extra_ms=EXPIRE_MILLISECONDS,
        log_results=False,
    )


def _to_json(job: dict[str, Any]) -> bytes:
    """Not pickle, arq's default, by which whoever writes to Redis runs code here."""
    return json.dumps(job).encode()
