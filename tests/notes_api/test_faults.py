"""What is promised when a process is killed, told to end, or has no database: with real processes and real signals."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from deploy.local.postgres import UNPRIVILEGED_USER
from notes_api import db
from tests.notes_api.doors import new_token, run
from tests.notes_api.processes import ENDED, Served, served
from tests.servers import Cluster, free_port, postgres, private_directory

WAIT_SECONDS = 15
OPEN = "select count(*) from pg_stat_activity where usename = 'notes_app' and state like 'idle in transaction%'"
# What an export ends with whose session has ended: half of it is not to look like all.
CUT = "RuntimeError: Caught handled exception, but response already started."


@pytest.fixture
async def token(app: FastAPI) -> str:
    return await new_token(app, "notes:read", "notes:write")


async def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


@asynccontextmanager
async def connected_to(cluster: Cluster, database: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    connection = await asyncpg.connect(cluster.url("postgres", database))
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def notes_locked(cluster: Cluster, database: str) -> AsyncIterator[None]:
    owner = await asyncpg.connect(cluster.url("notes_owner", database))
    try:
        async with owner.transaction():
            await owner.execute("lock table notes.notes")
            yield
    finally:
        await owner.close()


def waiting(cluster: Cluster, database: str) -> int:
    count = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return int(cluster.server.psql(database, [count]))


async def test_killed_amid_writes_it_keeps_what_it_acknowledged_and_makes_nothing_twice(
    cluster: Cluster, database: str, token: str, tmp_path: Path
) -> None:
    answered: dict[str, str] = {}

    async def write(ada: httpx.AsyncClient, key: str) -> None:
        while True:
            made = await ada.post("/v1/notes", json={"title": key}, headers={"Idempotency-Key": key})
            if made.status_code != 409:  # the connection of the killed process may take a moment to end
                break
        assert made.status_code == 201, made.text
        assert answered.setdefault(key, made.json()["id"]) == made.json()["id"]

    async def write_all(process: Served, keys: list[str], kill_after: int = 0) -> None:
        left = iter(keys)

        async def some() -> None:
            for key in left:
                try:
                    await write(ada, key)
                except httpx.TransportError:
                    return
                if len(answered) == kill_after:
                    process.process.kill()

        async with process.client(token) as ada:
            await asyncio.gather(*(some() for _ in range(16)))

    keys = [f"note {number}" for number in range(200)]
    url = cluster.url("notes_app", database)
    with served(tmp_path / "log", url) as process:
        await write_all(process, keys, kill_after=60)
        assert process.process.wait(WAIT_SECONDS) == -signal.SIGKILL
    acknowledged = dict(answered)
    assert 60 <= len(acknowledged) < len(keys)

    with served(tmp_path / "log", url) as process:
        async with process.client(token) as ada:
            for note_id in acknowledged.values():
                assert (await ada.get(f"/v1/notes/{note_id}")).status_code == 200
        await write_all(process, keys)  # those that were answered, too
        assert process.end() in ENDED
    assert answered.keys() == set(keys)
    counted = cluster.server.psql(database, ["select count(*), count(distinct title) from notes.notes"])
    assert counted.strip() == f"{len(keys)}|{len(keys)}"


async def test_told_to_end_it_answers_all_that_it_was_asked(
    cluster: Cluster, database: str, token: str, tmp_path: Path
) -> None:
    with served(tmp_path / "log", cluster.url("notes_app", database)) as process:
        async with process.client(token) as ada:
            async with notes_locked(cluster, database):
                asked = [asyncio.create_task(ada.post("/v1/notes", json={"title": "x"})) for _ in range(8)]
                await until(lambda: waiting(cluster, database) == 8, "all of them wait for the lock")
                process.process.terminate()
                await until(lambda: refuses(process), "it takes no more requests")
                assert not any(task.done() for task in asked)
            answers = await asyncio.gather(*asked)
        assert [answer.status_code for answer in answers] == [201] * 8
        assert process.process.wait(WAIT_SECONDS) in ENDED
        assert process.lines()[-1]["message"].startswith("Finished server process")
    assert cluster.server.psql(database, ["select count(*) from notes.notes"]).strip() == "8"


async def test_told_to_end_amid_requests_it_fails_none(
    cluster: Cluster, database: str, token: str, tmp_path: Path
) -> None:
    """Each is answered, or refused before it was sent, over connections that are kept alive."""
    answered = 0

    async def write(ada: httpx.AsyncClient) -> None:
        nonlocal answered
        with suppress(httpx.ConnectError):
            while True:
                assert (await ada.post("/v1/notes", json={"title": "x"})).status_code == 201
                answered += 1

    for turn in range(3):
        with served(tmp_path / f"log{turn}", cluster.url("notes_app", database)) as process:
            async with AsyncExitStack() as clients, asyncio.TaskGroup() as writing:
                for _ in range(16):
                    writing.create_task(write(await clients.enter_async_context(process.client(token))))
                await asyncio.sleep(0.7)
                process.process.terminate()
            assert process.process.wait(WAIT_SECONDS) in ENDED
    assert cluster.server.psql(database, ["select count(*) from notes.notes"]).strip() == str(answered)


def refuses(process: Served) -> bool:
    try:
        httpx.get(f"{process.url}/livez")
    except httpx.TransportError as error:  # another than that: it was accepted at the last moment
        return isinstance(error, httpx.ConnectError)
    return False


async def test_with_all_connections_in_use_requests_are_told_to_come_back(
    cluster: Cluster, database: str, token: str, tmp_path: Path
) -> None:
    with served(tmp_path / "log", cluster.url("notes_app", database)) as process:
        async with process.client(token) as ada:
            note = (await ada.post("/v1/notes", json={"title": "x"})).headers["Location"]
            async with notes_locked(cluster, database):
                asked = [asyncio.create_task(ada.get(note)) for _ in range(3 * db.CONNECTIONS)]
                await until(lambda: waiting(cluster, database) == db.CONNECTIONS, "the pool is exhausted")
                assert (await ada.get("/livez")).status_code == 200
                answers = await asyncio.gather(*asked)
            assert {answer.status_code for answer in answers} == {503}
            assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
            assert (await ada.get(note)).status_code == 200


async def test_a_database_that_is_restarted_is_found_again(tmp_path: Path) -> None:
    with ExitStack() as leaving:
        home, port = leaving.enter_context(private_directory(owner=UNPRIVILEGED_USER)), free_port()
        create = ("create", "--name", "Ada", "--scope", "notes:read", "--scope", "notes:write")
        with postgres(port, home) as server:
            run("migrate", HOLDFAST_DATABASE_URL=server.url("notes_owner", "holdfast"))
            url = server.url("notes_app", "holdfast")
            token = run("tokens", *create, HOLDFAST_DATABASE_URL=url).stdout.strip()
            process = leaving.enter_context(served(tmp_path / "log", url))
            async with process.client(token) as ada:
                note = (await ada.post("/v1/notes", json={"title": "kept"})).headers["Location"]
        async with process.client(token) as ada:
            for answer in [await ada.get(note), await ada.post("/v1/notes", json={"title": "x"})]:
                assert answer.status_code == 503
                assert int(answer.headers["Retry-After"]) > 0
            assert (await ada.get("/readyz")).status_code == 503
            assert (await ada.get("/livez")).status_code == 200
            with postgres(port, home):
                assert (await ada.get("/readyz")).status_code == 200
                assert (await ada.get(note)).json()["title"] == "kept"
                assert process.process.poll() is None
                assert process.end() in ENDED


async def test_sessions_that_end_and_clients_that_leave_cost_nobody_else_anything(
    cluster: Cluster, database: str, token: str, tmp_path: Path
) -> None:
    """An answer is of what was done, or 503; and nothing stays open, for whatever reason a request ended."""
    acknowledged: dict[str, str] = {}
    until_then = time.monotonic() + 6

    async def write(ada: httpx.AsyncClient) -> None:
        while time.monotonic() < until_then:
            key = str(uuid4())
            made = await ada.post("/v1/notes", json={"title": key}, headers={"Idempotency-Key": key})
            assert made.status_code in {201, 503}, made.text
            if made.status_code == 201:
                acknowledged[key] = made.json()["id"]

    async def leave(process: Served, target: str) -> None:
        while time.monotonic() < until_then:
            _, writer = await asyncio.open_connection("127.0.0.1", process.port)
            writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            await asyncio.sleep(random.random() / 20)
            writer.transport.abort()

    async def end_sessions(server: "asyncpg.Connection[asyncpg.Record]") -> None:
        while time.monotonic() < until_then:
            await asyncio.sleep(random.random() / 2)
            await server.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and"
                " usename = 'notes_app' order by random() limit 3"
            )

    url = cluster.url("notes_app", database)
    with served(tmp_path / "log", url, HOLDFAST_REQUESTS_PER_MINUTE="1000000") as process:
        async with (
            process.client(token) as ada,
            connected_to(cluster, database) as server,
            asyncio.TaskGroup() as doing,
        ):
            doing.create_task(end_sessions(server))
            for _ in range(8):
                doing.create_task(write(ada))
            for target in ("/v1/notes:export", "/v1/notes?tag=x", "/v1/search?q=x", "/v1/changes/stream") * 3:
                doing.create_task(leave(process, target))
        await until(lambda: cluster.server.psql(database, [OPEN]).strip() == "0", "a transaction is still open")
        async with process.client(token) as ada:
            for key, id_ in list(acknowledged.items())[:50]:
                again = await ada.post("/v1/notes", json={"title": key}, headers={"Idempotency-Key": key})
                assert (again.json()["id"], again.headers["Idempotent-Replayed"]) == (id_, "true")
        failed = {line["exception"].splitlines()[-1] for line in process.lines() if line["level"] == "error"}
        assert failed <= {CUT}, failed
    async with connected_to(cluster, database) as server:
        titles = [row["title"] for row in await server.fetch("select title from notes.notes")]
    assert len(titles) == len(set(titles))
    assert acknowledged.keys() <= set(titles)
