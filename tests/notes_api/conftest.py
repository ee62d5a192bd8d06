"""A migrated database per test, the API on it, and three people: Ada, Bob, and Eve, whose token has no scope."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import FastAPI

from tests.notes_api.doors import client, new_token, run, serving
from tests.servers import Cluster


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> Iterator[str]:
    with cluster.database(name="notes_template") as name:
        done = run("migrate", HOLDFAST_DATABASE_URL=cluster.url("notes_owner", name))
        assert done.returncode == 0, done.stderr
        yield name


@pytest.fixture
def database(cluster: Cluster, template: str) -> Iterator[str]:
    with cluster.database(template) as name:
        yield name


@pytest.fixture
async def app(cluster: Cluster, database: str) -> AsyncIterator[FastAPI]:
    async with serving(cluster.url("notes_app", database)) as app:
        yield app


@pytest.fixture
async def anybody(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app) as somebody:
        yield somebody


@pytest.fixture
async def ada(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app, await new_token(app, "notes:read", "notes:write")) as somebody:
        yield somebody


@pytest.fixture
async def bob(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app, await new_token(app, "notes:read", "notes:write")) as somebody:
        yield somebody


@pytest.fixture
async def eve(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app, await new_token(app)) as somebody:
        yield somebody
