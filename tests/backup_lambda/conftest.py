"""A bucket, a topic with a queue that hears it, and a database, new for each test."""

import functools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import certifi
import httpx
import pytest
from botocore.loaders import JSONFileLoader, Loader

from backup_lambda.worker import Worker
from tests.backup_lambda.world import Connection, World, a_world, client_of, worker_for
from tests.servers import Aws, Cluster


@pytest.fixture(scope="session", autouse=True)
def descriptions_are_read_once() -> Iterator[None]:
    """Otherwise every test's clients read what botocore knows of AWS anew, which takes longer than most tests."""
    files = JSONFileLoader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "load_file", functools.cache(files.load_file))
        patch.setattr(Loader, "FILE_LOADER_CLASS", lambda _: files)
        yield


@pytest.fixture(scope="session")
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing here speaks TLS, and all the authorities of the world take each client 20 ms."""
    end = "-----END CERTIFICATE-----\n"
    bundle = tmp_path_factory.mktemp("authorities") / "one.pem"
    bundle.write_text(Path(certifi.where()).read_text().partition(end)[0] + end)
    return bundle


@pytest.fixture
def aws_environment(aws: Aws, one_authority: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that botocore reads, set for this process too."""
    environment = {**aws.variables, "AWS_CA_BUNDLE": str(one_authority)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
async def world(aws_environment: dict[str, str]) -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as name:
        yield name


@pytest.fixture
async def owner(cluster: Cluster, database: str) -> AsyncIterator[Connection]:
    """The superuser, in the test's database."""
    connection = await asyncpg.connect(cluster.url("postgres", database))
    # So that what a test makes is readable, as what the migrations make is.
    await connection.execute(
        "alter default privileges in schema notes, scheduler grant select on tables to notes_backup;"
        "alter default privileges in schema notes, scheduler grant select on sequences to notes_backup"
    )
    yield connection
    await connection.close()


@pytest.fixture
def worker(world: World, cluster: Cluster, database: str) -> Worker:
    """It proves what it stores."""
    return worker_for(world, cluster.url("notes_backup", database), cluster.url("notes_proof", "postgres"))


@pytest.fixture
async def api(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(world, world.start_worker) as client:
        yield client
