"""How many requests a token may make in a minute, alone and over several processes."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from notes_api.limits import REDIS_AGAIN_SECONDS, WINDOW_SECONDS, Limits
from tests.notes_api.doors import client, new_token, serving
from tests.servers import Cluster

NOTE = f"/v1/notes/{uuid4()}"
REMAINING = re.compile(r'"default";r=(\d+);t=(\d+)')


@pytest.fixture
async def three_a_minute(cluster: Cluster, database: str) -> AsyncIterator[FastAPI]:
    async with serving(cluster.url("notes_app", database), HOLDFAST_REQUESTS_PER_MINUTE="3") as app:
        yield app


def remaining(response: httpx.Response) -> int:
    found = REMAINING.fullmatch(response.headers["RateLimit"])
    assert found
    assert 0 <= int(found[2]) <= WINDOW_SECONDS
    return int(found[1])


async def test_every_answer_under_v1_says_what_is_left(app: FastAPI, ada: httpx.AsyncClient) -> None:
    @app.get("/v1/boom")
    async def boom() -> None:
        raise RuntimeError

    json = {"Content-Type": "application/json"}
    answers = [
        await ada.get(NOTE),
        await ada.get(NOTE, headers={"Authorization": "Bearer hf_x"}),
        await ada.get("/v1/nowhere"),
        await ada.delete("/v1/notes"),
        await ada.post("/v1/notes", json={"title": "x"}),
        await ada.post("/v1/notes", json={}),
        await ada.post("/v1/notes", content=b" " * (2 * 1024 * 1024 + 1), headers=json),
        await ada.get(NOTE, params={"q": "x" * 9000}),
        await ada.get(NOTE, headers={"X-Much": "x" * 40_000}),
        await ada.get("/v1/boom"),
    ]
    assert [each.status_code for each in answers] == [404, 401, 404, 405, 201, 422, 413, 414, 431, 500]
    assert {each.headers["RateLimit-Policy"] for each in answers} == {'"default";q=6000;w=60'}
    assert [remaining(each) for each in answers if each.status_code != 401] == list(range(5999, 5990, -1))


async def test_what_is_for_whoever_runs_it_is_not_limited(three_a_minute: FastAPI) -> None:
    async with client(three_a_minute) as anybody:
        for _ in range(5):
            response = await anybody.get("/livez")
            assert response.status_code == 200
            assert "RateLimit" not in response.headers


async def test_over_the_limit_is_429_and_says_when_to_come_back(three_a_minute: FastAPI) -> None:
    async with client(three_a_minute, await new_token(three_a_minute, "notes:read")) as ada:
        assert [remaining(await ada.get(NOTE)) for _ in range(3)] == [2, 1, 0]
        refused = await ada.get(NOTE)
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/too-many-requests")
        assert refused.json()["request_id"] == refused.headers["X-Request-Id"]
        assert 1 <= int(refused.headers["Retry-After"]) <= 2 * WINDOW_SECONDS
        assert remaining(refused) == 0


async def test_another_token_has_its_own_limit_and_who_has_none_goes_by_address(three_a_minute: FastAPI) -> None:
    tokens = [await new_token(three_a_minute, "notes:read") for _ in range(2)]
    for token in (*tokens, ""):
        async with client(three_a_minute, token) as somebody:
            statuses = [(await somebody.get(NOTE)).status_code for _ in range(4)]
            assert statuses == [404 if token else 401] * 3 + [429]


@pytest.mark.parametrize("form", ["bearer {}", "Bearer  {}", "BEARER {} "])
async def test_the_token_counts_and_not_how_it_is_written(three_a_minute: FastAPI, form: str) -> None:
    token = await new_token(three_a_minute, "notes:read")
    async with client(three_a_minute, token) as ada:
        for _ in range(3):
            await ada.get(NOTE)
        assert (await ada.get(NOTE, headers={"Authorization": form.format(token)})).status_code == 429


async def test_who_makes_tokens_up_is_refused_by_address_and_a_token_that_was_right_is_not(
    three_a_minute: FastAPI,
) -> None:
    right, late = [await new_token(three_a_minute, "notes:read") for _ in range(2)]
    made_up = [f"hf_{number:043}" for number in range(5)]
    async with client(three_a_minute) as anybody:
        statuses = [
            (await anybody.get(NOTE, headers={"Authorization": f"Bearer {token}"})).status_code
            for token in (right, *made_up[:3], made_up[3], made_up[0], right, late)
        ]
    assert statuses == [404, 401, 401, 401, 429, 429, 404, 429]


async def test_wrong_tokens_are_counted_over_all_processes(cluster: Cluster, database: str, redis_url: str) -> None:
    url = cluster.url("notes_app", database)
    more = {"HOLDFAST_REDIS_URL": redis_url, "HOLDFAST_REQUESTS_PER_MINUTE": "4"}
    async with serving(url, **more) as one, serving(url, **more) as other:
        doors = [httpx.ASGITransport(app, client=(f"not yet seen {database}", 1)) for app in (one, other)]
        statuses = []
        for number in range(8):
            async with httpx.AsyncClient(transport=doors[number % 2], base_url="http://notes.test") as anybody:
                answer = await anybody.get(NOTE, headers={"Authorization": f"Bearer hf_{number:043}"})
                statuses.append(answer.status_code)
    assert statuses == [401] * 5 + [429] * 3, "each process hears with its next one what the others counted"


async def test_processes_with_one_redis_count_together(cluster: Cluster, database: str, redis_url: str) -> None:
    url = cluster.url("notes_app", database)
    more = {"HOLDFAST_REDIS_URL": redis_url, "HOLDFAST_REQUESTS_PER_MINUTE": "6"}
    async with serving(url, **more) as one, serving(url, **more) as other:
        token = await new_token(one, "notes:read")
        async with client(one, token) as here, client(other, token) as there:
            left = [remaining(await somebody.get(NOTE)) for somebody in (here, there) * 3]
            assert left == [5, 4, 3, 2, 1, 0]
            assert [(await somebody.get(NOTE)).status_code for somebody in (here, there)] == [429, 429]


@pytest.mark.parametrize("how", ["nobody listens", "silent"])
async def test_without_an_answer_of_redis_each_process_counts_for_itself(
    cluster: Cluster, database: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if how == "nobody listens":
            silent.close()
        more = {"HOLDFAST_REDIS_URL": f"redis://:s3cret@127.0.0.1:{port}/0", "HOLDFAST_REQUESTS_PER_MINUTE": "3"}
        with caplog.at_level(logging.WARNING):
            async with (
                serving(cluster.url("notes_app", database), **more) as app,
                client(app, await new_token(app, "notes:read")) as ada,
            ):
                assert [(await ada.get(NOTE)).status_code for _ in range(4)] == [404, 404, 404, 429]
    assert [r.message for r in caplog.records if "Redis" in r.message] == [caplog.messages[0]]
    assert "s3cret" not in caplog.text


async def test_redis_is_asked_again_when_it_is_back(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(1_000_000)
    key, port = uuid4().hex, int(redis_url.rsplit(":", 1)[1].partition("/")[0])
    forwarder = Forwarder(port)
    limits = Limits(10, re.sub(r":\d+/0$", f":{forwarder.port}/0", redis_url), clock)
    other = Limits(10, redis_url, clock)
    assert (await other.count(key)).remaining == 9
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert (await limits.count(key)).remaining >= 7
        await forwarder.start()
        assert (await limits.count(key)).remaining == 6, "it is left alone for a while"
        clock.time += REDIS_AGAIN_SECONDS
        assert (await limits.count(key)).remaining == 6, "what was counted here is not forgotten"
        assert (await other.count(key)).remaining == 7
    assert len(caplog.messages) == 2
    for each in (limits, other):
        await each.close()
    await forwarder.stop()


async def test_what_redis_says_late_counts_for_the_minute_that_was_asked_for(redis_url: str) -> None:
    clock, key = Clock(WINDOW_SECONDS * 1000 + 59.9), uuid4().hex
    limits = Limits(10, redis_url, clock)
    assert [(await limits.count(key)).remaining for _ in range(8)] == [9, 8, 7, 6, 5, 4, 3, 2]

    async def a_minute_later() -> int:
        clock.time += WINDOW_SECONDS
        return (await limits.count(key)).remaining

    late, remaining_then = await asyncio.gather(limits.count(key), a_minute_later())
    assert late.remaining == 1
    assert remaining_then == 8, "one, and next to nothing of those a minute ago"
    assert (await limits.count(key)).remaining == 7
    await limits.close()


class Clock:
    def __init__(self, at: float) -> None:
        self.time = at

    def __call__(self) -> float:
        return self.time


class Forwarder:
    """A port that is refused until it is started, and leads to another one then."""

    def __init__(self, to: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._to = to
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(_pump(reader, here), _pump(there, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(4096):
        sink.write(data)
        await sink.drain()
    sink.close()


@given(
    per_window=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 90, allow_nan=False), min_size=1, max_size=80),
    offset=st.floats(0, 59),
)
def test_no_window_has_much_more_than_the_limit_and_waiting_helps(
    per_window: int, gaps: list[float], offset: float
) -> None:
    """What slides is an estimate: in any sixty seconds at most twice the limit, in a clock's minute never more."""

    async def play() -> None:
        clock = Clock(1_000_020 + offset)
        limits = Limits(per_window, now=clock)
        allowed: list[float] = []
        for gap in gaps:
            clock.time += gap
            counted = await limits.count("k")
            if not counted.wait_seconds:
                allowed.append(clock.time)
                continue
            assert counted.remaining == 0
            clock.time += counted.wait_seconds
            assert not (await limits.count("k")).wait_seconds, "after Retry-After the next one fits"
            allowed.append(clock.time)
        by_minute = [int(at // WINDOW_SECONDS) for at in allowed]
        assert max(map(by_minute.count, by_minute)) <= per_window
        assert all(sum(at <= other < at + WINDOW_SECONDS for other in allowed) <= 2 * per_window for at in allowed)

    asyncio.run(play())
