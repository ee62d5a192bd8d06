"""The dead man's switch."""

import logging

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler import ping
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


async def test_an_answer_that_refuses_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(Starlette()) as (host, port), ping.connect(SecretStr(f"http://{host}:{port}/x")) as switch:
        await switch.ping()
    assert "answered 404" in caplog.text
