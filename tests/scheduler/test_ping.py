"""The dead man's switch."""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from scheduler import ping
from tests.scheduler.chain import Chain, until
from tests.scheduler.gateway import listening


async def test_it_is_called_after_ticks_and_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    async def answer(request: Request) -> Response:
        called.append(request.url.path)
        return Response()

    async with (
        listening(Starlette(routes=[Route("/s3cret", answer)])) as (host, port),
        ping.connect(SecretStr(f"http://{host}:{port}/s3cret")) as switch,
    ):
        for _ in range(3):
            await switch.ping()
        assert called == ["/s3cret"]
        monkeypatch.setattr(ping, "EVERY_SECONDS", 0.0)
        switch._next = 0.0
        await switch.ping()
        await switch.ping()
    assert len(called) == 3


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/s3cret", None])
async def test_one_that_does_not_answer_stops_nothing_and_stays_secret(
    url: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with ping.connect(SecretStr(url) if url else None) as switch:
        await switch.ping()
    assert "s3cret" not in caplog.text
    assert ("does not answer: ConnectError" in caplog.text) == (url is not None)


async def test_one_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(ping, "ANSWER_SECONDS", 0.3)

    async def drips() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x"
            await asyncio.sleep(0.1)

    async def answer(_: Request) -> Response:
        return StreamingResponse(drips())

    async with (
        listening(Starlette(routes=[Route("/", answer)])) as (host, port),
        ping.connect(SecretStr(f"http://{host}:{port}/")) as switch,
        asyncio.timeout(5),
    ):
        await switch.ping()
    assert "does not answer: TimeoutError" in caplog.text


async def test_no_tick_waits_for_it(chain: Chain) -> None:
    asked = asyncio.Event()

    async def never(_: Request) -> Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    never_ends = Starlette(routes=[Route("/", never)])
    async with (
        listening(never_ends, timeout_graceful_shutdown=1) as (host, port),
        chain.work(HOLDFAST_PING_URL=f"http://{host}:{port}/"),
    ):
        await asked.wait()
        await chain.sql.execute("update scheduler.schedules set next_due_at = now()")
        await until(partial(chain.sql.fetchval, "select count(*) from scheduler.runs"), ping.ANSWER_SECONDS - 2)


async def test_an_answer_that_refuses_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(Starlette()) as (host, port), ping.connect(SecretStr(f"http://{host}:{port}/x")) as switch:
        await switch.ping()
    assert "answered 404" in caplog.text
