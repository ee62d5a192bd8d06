"""All that a worker stands between, and somebody at the scheduler's door."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
from arq.connections import ArqRedis
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import worker
from scheduler.settings import WorkerSettings
from tests.scheduler.gateway import Gateway
from tests.servers import Cluster

PACE = 10  # of the worker's loops, so that tests need not wait for a second look
DAILY = "00000000-0000-7000-8000-000000000001"


@dataclass(frozen=True)
class Chain:
    ops: httpx.AsyncClient  # may do everything
    sql: asyncpg.Connection  # the superuser: tests move time by moving what the rows say
    engine: AsyncEngine
    redis: ArqRedis
    gateway: Gateway
    env: dict[str, str]  # the worker's settings

    @asynccontextmanager
    async def work(self, **changes: str) -> AsyncIterator[None]:
        """A worker in this process, drained at the end. `changes` are to its settings."""
        stop = asyncio.Event()
        running = asyncio.create_task(worker.serve(WorkerSettings.from_env(self.env | changes), stop, PACE))
        try:
            yield
        finally:
            stop.set()
            await running

    async def trigger(self) -> str:
        """The path of the new run."""
        response = await self.ops.post(f"/v1/schedules/{DAILY}/trigger")
        assert response.status_code == 201
        return response.headers["Location"]

    async def ended(self, path: str) -> dict[str, Any]:
        """The run at `path`, when it has ended."""

        async def look() -> dict[str, Any] | None:
            run: dict[str, Any] = (await self.ops.get(path)).json()
            return run if run["ended_at"] else None

        run: dict[str, Any] = await until(look)
        return run

    async def called(self) -> None:
        """Return once the gateway was asked for a backup."""

        async def look() -> bool:
            return bool(self.gateway.keys)

        await until(look)


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """What `condition` says once that is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.05)
    return found


def allow_connections(cluster: Cluster, database: str, allowed: bool) -> None:
    """Stop PostgreSQL, as far as this database goes: nobody gets in, and who is in is thrown out. Or start it again."""
    ours = f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'"  # noqa: S608 - a test's name
    cluster.server.psql("postgres", [f"alter database {database} allow_connections {allowed}", ours])
