"""A migrated database per test, the API and the worker on it, and what the worker talks to."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import asyncpg
import httpx
import pytest
from arq.connections import ArqRedis
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import backups, db, following, jobs, tokens
from scheduler.app import create_app
from scheduler.outside import Outside
from scheduler.settings import Settings
from scheduler.steps import Reach
from tests.scheduler import gateway as stand_in
from tests.scheduler.chain import PACE, Chain
from tests.scheduler.gateway import Gateway
from tests.scheduler.one_run import Make, OneRun, made
from tests.servers import Aws, Cluster

SERVICES = Path(__file__).parents[2] / "services"
NOBODY_LISTENS = "http://127.0.0.1:9"
NO_TOPIC = "arn:aws:sns:eu-central-1:000000000000:none"


class Command(Protocol):
    def __call__(self, module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]: ...


class Client(Protocol):
    def __call__(self, *scopes: str) -> AbstractAsyncContextManager[httpx.AsyncClient]: ...


@pytest.fixture(scope="session")
def process_env() -> dict[str, str]:
    """All that a process of the service sees of our environment."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(SERVICES), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="session")
def run(process_env: dict[str, str]) -> Command:
    """A command of the service, run to its end."""

    def run(module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"scheduler.{module}", *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=process_env | env, timeout=60)

    return run


@pytest.fixture(scope="session")
def template(cluster: Cluster, run: Command) -> Iterator[str]:
    with cluster.database(name="scheduler_template") as name:
        done = run("migrate", HOLDFAST_DATABASE_URL=cluster.url("scheduler_owner", name))
        assert done.returncode == 0, done.stderr
        yield name


@pytest.fixture
def database(cluster: Cluster, template: str) -> Iterator[str]:
    with cluster.database(template) as name:
        yield name


@pytest.fixture
def database_url(cluster: Cluster, database: str) -> str:
    return cluster.url("scheduler_app", database)


@pytest.fixture
async def sql(cluster: Cluster, database: str) -> AsyncIterator[asyncpg.Connection]:
    """The database as its superuser sees it: tests move time by moving what the rows say."""
    connection = await asyncpg.connect(cluster.url("postgres", database))
    yield connection
    await connection.close()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = db.create_engine(Settings.from_env({"HOLDFAST_DATABASE_URL": database_url}))
    yield engine
    await engine.dispose()


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[FastAPI]:
    app = create_app(Settings.from_env({"HOLDFAST_DATABASE_URL": database_url}))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
def client(app: FastAPI) -> Client:
    """For `async with`: somebody with a token of the scopes that are given, or without one."""

    @asynccontextmanager
    async def client(*scopes: str) -> AsyncIterator[httpx.AsyncClient]:
        headers = {}
        if scopes:
            async with db.transaction(app.state.engine) as session:
                token = await tokens.create(session, "test", scopes, expires_at=None)
            headers["Authorization"] = f"Bearer {token}"
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://scheduler.test", headers=headers) as one:
            yield one

    return client


@pytest.fixture
async def ops(client: Client) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who may do everything."""
    async with client(*tokens.SCOPES) as one:
        yield one


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[ArqRedis]:
    redis = jobs.connect(redis_url)
    await redis.flushall()
    yield redis
    await redis.aclose(close_connection_pool=True)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with stand_in.serving() as gateway:
        yield gateway


@pytest.fixture
def aws_env(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Credentials that nobody checks, and no AWS at all."""
    env = {
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": NOBODY_LISTENS,
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


@pytest.fixture
def emulator_env(aws: Aws, aws_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    env = {
        "AWS_ACCESS_KEY_ID": aws.access_key,
        "AWS_SECRET_ACCESS_KEY": aws.secret_key,
        "AWS_DEFAULT_REGION": aws.region,
        "AWS_ENDPOINT_URL": aws.endpoint_url,
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


@pytest.fixture
async def reach(gateway: Gateway, aws_env: dict[str, str]) -> AsyncIterator[Reach]:
    async with backups.connect(gateway.url) as api:
        yield Reach(api, Outside([]))


@pytest.fixture
def make(engine: AsyncEngine, reach: Reach, gateway: Gateway, sql: asyncpg.Connection) -> Make:
    return partial(made, engine, reach, gateway, sql)


@pytest.fixture
async def one(make: Make) -> OneRun:
    """A run that makes a backup."""
    return await make()


@pytest.fixture
def worker_env(database_url: str, redis_url: str, redis: ArqRedis, gateway: Gateway) -> dict[str, str]:
    """The worker's settings; its queue is empty."""
    return {
        "HOLDFAST_DATABASE_URL": database_url,
        "HOLDFAST_REDIS_URL": redis_url,
        "HOLDFAST_BACKUPS_URL": gateway.url,
        "HOLDFAST_TOPIC_ARN": NO_TOPIC,
    }


@pytest.fixture
async def chain(
    ops: httpx.AsyncClient,
    sql: asyncpg.Connection,
    engine: AsyncEngine,
    redis: ArqRedis,
    gateway: Gateway,
    worker_env: dict[str, str],
    aws_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Chain:
    monkeypatch.setattr(following, "MIN_POLL_SECONDS", 1.0 / PACE)
    await sql.execute("update scheduler.schedules set overlap = 'allow'")  # so that one can be triggered several times
    await sql.execute("update scheduler.watch set looked_at = now()")  # as if another worker had just asked for a list
    return Chain(ops, sql, engine, redis, gateway, worker_env)
