"""The worker, with PostgreSQL, Redis and the gateway beside it, each of which goes away and comes back."""

import asyncio
import logging
import time
from collections.abc import Iterator
from uuid import UUID

import pytest

from deploy.local import valkey
from deploy.local.process import Program
from scheduler import backups, jobs, steps, worker
from scheduler.metrics import WorkMetrics
from scheduler.outside import Outside
from scheduler.runs import Step
from scheduler.settings import WorkerSettings
from scheduler.steps import Reach
from tests.scheduler.chain import Chain, allow_connections, until
from tests.servers import Cluster, free_port, private_directory, running


async def test_a_triggered_run_starts_in_seconds_and_succeeds(chain: Chain) -> None:
    async with chain.work():
        asked = time.monotonic()
        path = await chain.trigger()
        await chain.called()
        assert time.monotonic() - asked < 3
        run = await chain.ended(path)
    assert (run["state"], run["reason"], run["backup_id"]) == ("succeeded", None, "20261122T020000Z-00000000")
    assert path.endswith(chain.gateway.keys[0])


async def test_three_workers_make_one_run_of_a_due_time_and_one_backup_of_it(chain: Chain) -> None:
    async def succeeded() -> object:
        return await chain.sql.fetchval("select id from scheduler.runs where state = 'succeeded'")

    await chain.sql.execute("update scheduler.schedules set next_due_at = now()")
    async with chain.work(), chain.work(), chain.work():
        await until(succeeded)
    assert await chain.sql.fetchval("select count(*) from scheduler.runs") == 1
    assert len(chain.gateway.keys) == 1


async def test_a_wiped_queue_costs_half_a_minute_and_loses_nothing(chain: Chain) -> None:
    path = await chain.trigger()
    await worker.dispatch(chain.engine, chain.redis, WorkMetrics())
    assert await chain.redis.zcard(jobs.QUEUE) == 1
    await chain.redis.flushall()
    again_in = await chain.sql.fetchval("select wake_at - now() from scheduler.runs")
    assert 0 < again_in.total_seconds() <= 30
    await chain.sql.execute("update scheduler.runs set wake_at = now()")  # half a minute later
    async with chain.work():
        assert (await chain.ended(path))["state"] == "succeeded"


async def test_a_queue_that_is_wiped_again_and_again_loses_nothing(chain: Chain) -> None:
    async def wipe() -> None:
        while True:
            await chain.redis.flushall()
            await chain.sql.execute("update scheduler.runs set wake_at = now() where state in ('queued', 'waiting')")
            await asyncio.sleep(0.4)

    paths = [await chain.trigger() for _ in range(5)]
    async with chain.work():
        wiping = asyncio.create_task(wipe())
        assert [(await chain.ended(path))["state"] for path in paths] == ["succeeded"] * 5
        wiping.cancel()
        await asyncio.gather(wiping, return_exceptions=True)
    assert len(chain.gateway.backups) == 5


async def test_a_step_that_is_on_the_queue_many_times_is_done_once(chain: Chain) -> None:
    path = await chain.trigger()
    run_id = await chain.sql.fetchval("select id from scheduler.runs")
    for n in range(5):
        await chain.redis.enqueue_job("step", str(run_id), 1, _job_id=f"copy-{n}")
    await jobs.enqueue(chain.redis, [Step(run_id, 99)])
    async with chain.work():
        assert (await chain.ended(path))["state"] == "succeeded"
    assert len(chain.gateway.keys) == 1


@pytest.fixture
def another_redis() -> Iterator[tuple[str, Program]]:
    """The address of a server of the test's own, and how to start it, again and again."""
    with private_directory() as home:
        port = free_port()
        yield valkey.url(port, "secret"), valkey.program(home, port, "secret")


async def test_redis_may_restart_under_the_worker(
    chain: Chain, another_redis: tuple[str, Program], caplog: pytest.LogCaptureFixture
) -> None:
    async def said() -> bool:
        return all(f"{loop} waits" in caplog.text for loop in ("tick", "dispatch", "work"))

    url, program = another_redis
    with running(program, program.cwd) as first:
        async with chain.work(HOLDFAST_REDIS_URL=url):
            await chain.ended(await chain.trigger())
            first.kill()
            path = await chain.trigger()
            await until(said)
            with running(program, program.cwd):
                assert (await chain.ended(path))["state"] == "succeeded"
    assert len(caplog.records) < 100, "it does not spin"


async def test_the_database_may_go_away_under_the_worker(
    chain: Chain, cluster: Cluster, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def said() -> bool:
        return all(f"{loop} waits" in caplog.text for loop in ("tick", "dispatch", "sweep", "announce"))

    async with chain.work():
        await chain.ended(await chain.trigger())
        path = await chain.trigger()
        allow_connections(cluster, database, False)
        await until(said)
        allow_connections(cluster, database, True)
        assert (await chain.ended(path))["state"] == "succeeded"
    assert len(caplog.records) < 200, "it does not spin"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR and "arq" not in record.name]


async def test_a_run_whose_worker_died_is_taken_over(chain: Chain) -> None:
    path = await chain.trigger()
    await chain.sql.execute("""
        update scheduler.runs
        set state = 'running', started_at = now(), lease_until = now() - interval '1 second'
    """)
    async with chain.work():
        assert (await chain.ended(path))["state"] == "succeeded"
    assert await chain.sql.fetchval("select seq from scheduler.runs") == 3, "the dead one's, the start, and the end"
    assert len(chain.gateway.keys) == 1


async def test_a_run_ends_though_the_queue_stays_away(chain: Chain) -> None:
    never_asked, started = await chain.trigger(), await chain.trigger()
    async with backups.connect(chain.gateway.url) as api:
        await steps.take(chain.engine, Reach(api, Outside(())), Step(UUID(started.rpartition("/")[2]), 1))
    await chain.sql.execute("update scheduler.runs set deadline_at = now() - interval '6 minutes'")
    async with chain.work(HOLDFAST_REDIS_URL="redis://127.0.0.1:9/0"):
        failed, succeeded = await chain.ended(never_asked), await chain.ended(started)
    assert (failed["state"], succeeded["state"]) == ("failed", "succeeded")
    assert failed["reason"].startswith("It was not started before its deadline")
    assert len(chain.gateway.keys) == 1, "no backup is started after the deadline"
    announced = await chain.sql.fetch("select id from scheduler.runs where announce_at is not null")
    assert [f"/v1/runs/{run['id']}" for run in announced] == [never_asked]


async def test_one_that_is_told_to_stop_while_it_starts_stops(chain: Chain) -> None:
    for milliseconds in range(0, 40, 4):
        async with asyncio.timeout(20), chain.work():
            await asyncio.sleep(milliseconds / 1000)


async def test_an_error_in_one_loop_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    stop, calls = asyncio.Event(), 0

    async def action() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyError("a bug")
        stop.set()

    await worker.repeat("looks", 0.01, action, stop)
    assert calls == 2
    assert "looks failed, and goes on" in caplog.text
    assert "KeyError: 'a bug'" in caplog.text


async def test_check_tells_whether_a_worker_ticks(chain: Chain) -> None:
    settings = WorkerSettings.from_env(chain.env)
    assert not await worker.check(settings)
    async with chain.work():
        await until(lambda: worker.check(settings))
        [key] = await chain.redis.keys("scheduler:worker:*")
        assert 0 < await chain.redis.ttl(key) <= worker.HEARTBEAT_SECONDS, "it ends by itself when nobody ticks"


async def test_redis_holds_ids_and_nothing_else(chain: Chain) -> None:
    await chain.trigger()
    await worker.dispatch(chain.engine, chain.redis, WorkMetrics())
    run_id = await chain.sql.fetchval("select id from scheduler.runs")
    job = await chain.redis.get(f"arq:job:run:{run_id}:1")
    assert f'"f": "step", "a": ["{run_id}", 1], "k": {{}}'.encode() in job
