"""What the fault matrix shares: one event loop, its clients, a gate in front of AWS, and a source that is only read.

Each fault has its own bucket, topic and queue. A test that leaves no outcome behind has failed, and the outcomes are
counted at the end of the run.
"""

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import aioboto3
import asyncpg
import pytest
import pytest_asyncio
from botocore.config import Config

pytest.register_assert_rewrite("tests.backup_lambda.faults.matrix")

from backup_lambda import aws as our_aws  # noqa: E402
from backup_lambda.notices import Topic  # noqa: E402
from backup_lambda.store import S3Store  # noqa: E402
from backup_lambda.worker import Worker  # noqa: E402
from tests.backup_lambda.faults.clients import Clients  # noqa: E402
from tests.backup_lambda.faults.gate import Gate, gate_to  # noqa: E402
from tests.backup_lambda.faults.matrix import End, Record, summary  # noqa: E402
from tests.backup_lambda.faults.own import Own, own_server  # noqa: E402
from tests.backup_lambda.faults.source import SOURCE, digests  # noqa: E402
from tests.backup_lambda.world import Connection, World, a_world_of, worker_for  # noqa: E402
from tests.servers import Aws, Cluster  # noqa: E402

READ_SECONDS = 2  # until an answer that does not come is given up
RECORDS = pytest.StashKey[list[Record]]()
ENDS = pytest.StashKey[End]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(title): one or more faults of the matrix; an id completes the title")
    config.stash[RECORDS] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/backup_lambda/faults/" in item.path.as_posix():
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    result = yield
    end = pyfuncitem.stash.get(ENDS, None)
    if pyfuncitem.get_closest_marker("fault") and not (end and end.recorded):
        pytest.fail("this fault has no outcome")
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if records := config.stash[RECORDS]:
        terminalreporter.section("faults")
        if config.get_verbosity() > 0:
            for each in records:
                why = f" ({each.reason})" if each.reason else ""
                terminalreporter.write_line(f"{each.outcome}: {each.title}: {each.state}{why}")
        terminalreporter.write_line(summary(records))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def session_gate(aws: Aws) -> AsyncIterator[Gate]:
    async with gate_to(aws.endpoint_url) as gate:
        yield gate


@pytest.fixture
def gate(session_gate: Gate) -> Iterator[Gate]:
    session_gate.mend()
    yield session_gate
    session_gate.mend()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def clients(aws: Aws, session_gate: Gate) -> AsyncIterator[Clients]:
    account = {
        "region_name": aws.region,
        "aws_access_key_id": aws.access_key,
        "aws_secret_access_key": aws.secret_key,
    }
    session = aioboto3.Session(**account)
    once = Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=2,
        read_timeout=READ_SECONDS,
        signature_version="v4",
    )
    async with AsyncExitStack() as stack:

        async def client(service: str, url: str, config: Config) -> Any:
            return await stack.enter_async_context(session.client(service, endpoint_url=url, config=config))

        yield Clients(
            s3=await client("s3", aws.endpoint_url, our_aws.CONFIG),
            sns=await client("sns", aws.endpoint_url, our_aws.CONFIG),
            sqs=await client("sqs", aws.endpoint_url, our_aws.CONFIG),
            secrets=await client("secretsmanager", aws.endpoint_url, our_aws.CONFIG),
            gated_s3=await client("s3", session_gate.url, once),
            gated_sns=await client("sns", session_gate.url, once),
        )


@pytest_asyncio.fixture(loop_scope="session")
async def world(clients: Clients) -> World:
    return await a_world_of(clients.s3, clients.sns, clients.sqs)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few rows make several parts."""
    monkeypatch.setattr("backup_lambda.multipart.PART_BYTES", 256 * 1024)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def source(cluster: Cluster) -> AsyncIterator[str]:
    """A database that is only read."""
    with cluster.database() as name:
        owner = await asyncpg.connect(cluster.url("postgres", name))
        await owner.execute(SOURCE)
        await owner.close()
        yield name


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def truth(cluster: Cluster, source: str) -> dict[str, str]:
    owner = await asyncpg.connect(cluster.url("postgres", source))
    try:
        return await digests(owner)
    finally:
        await owner.close()


@pytest_asyncio.fixture(loop_scope="session")
async def owner(cluster: Cluster, database: str) -> AsyncIterator[Connection]:
    """The superuser, in a database of the test's own."""
    connection = await asyncpg.connect(cluster.url("postgres", database))
    await connection.execute(SOURCE)
    yield connection
    await connection.close()


@pytest.fixture
def source_url(cluster: Cluster, source: str) -> str:
    return cluster.url("notes_backup", source)


@pytest.fixture
def proof_url(cluster: Cluster) -> str:
    return cluster.url("notes_proof", "postgres")


@pytest.fixture
def worker(world: World, clients: Clients, source_url: str, proof_url: str) -> Worker:
    """It reads `source`, and whatever it asks of AWS passes the gate."""
    return gated(world, clients, source_url, proof_url)


@pytest.fixture
def gated_worker(world: World, clients: Clients) -> Callable[[str, str], Worker]:
    return lambda url, proof_url: gated(world, clients, url, proof_url)


def gated(world: World, clients: Clients, url: str, proof_url: str) -> Worker:
    worker = worker_for(world, url, proof_url, store=S3Store(clients.gated_s3, world.bucket))
    return replace(worker, topic=Topic(clients.gated_sns, world.topic.arn))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def superuser(cluster: Cluster) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(cluster.url("postgres", "postgres"))
    yield connection
    await connection.close()


@pytest.fixture
def ends(
    request: pytest.FixtureRequest,
    world: World,
    cluster: Cluster,
    source: str,
    superuser: Connection,
    truth: dict[str, str],
) -> End:
    """What the test ends in."""
    node = request.node
    marker = node.get_closest_marker("fault")
    params = f": {node.callspec.id}" if hasattr(node, "callspec") else ""
    healthy = worker_for(world, cluster.url("notes_backup", source), cluster.url("notes_proof", "postgres"))
    end = End(f"{marker.args[0]}{params}", world, [superuser], healthy, truth, request.config.stash[RECORDS])
    node.stash[ENDS] = end
    return end


@pytest.fixture(scope="session")
def session_own() -> Iterator[Own]:
    with own_server() as own:
        yield own


@pytest.fixture
def own(session_own: Own) -> Own:
    session_own.start()
    return session_own
