"""What every answer has: a request id, and errors as problems, whatever raised them."""

import logging
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

MIB = 1024 * 1024
SENT = ("host", "accept", "accept-encoding", "connection", "user-agent")  # by httpx itself


@pytest.mark.parametrize("path", ["/livez", "/v1/notes", "/nowhere"])
async def test_the_request_id_comes_back(anybody: httpx.AsyncClient, path: str) -> None:
    response = await anybody.get(path, headers={"X-Request-Id": "3f9a-2c.1_b"})
    assert response.headers["X-Request-Id"] == "3f9a-2c.1_b"
    assert response.json().get("request_id", "3f9a-2c.1_b") == "3f9a-2c.1_b"


@pytest.mark.parametrize("given", [None, "", "x" * 65, "a b", "a\tb", "é", '"}'])
async def test_one_is_made_in_place_of_none_or_a_strange_one(anybody: httpx.AsyncClient, given: str | None) -> None:
    response = await anybody.get(
        "/nowhere", headers=httpx.Headers({"X-Request-Id": given} if given is not None else {}, encoding="utf-8")
    )
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-Id"])
    assert response.json()["request_id"] == response.headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/", "/nowhere", "/v1", "/v1/notes/", "/v1/notes/x/y", "/v1/%00", "/redoc"])
async def test_what_is_nowhere_is_a_problem(anybody: httpx.AsyncClient, path: str) -> None:
    response = await anybody.get(path)
    assert response.status_code == 404
    assert_problem(response)


@pytest.mark.parametrize(("method", "path", "allowed"), [("PUT", "/v1/notes", "POST"), ("POST", "/livez", "GET")])
async def test_another_method_is_a_problem(anybody: httpx.AsyncClient, method: str, path: str, allowed: str) -> None:
    response = await anybody.request(method, path)
    assert response.status_code == 405
    assert allowed in response.headers["Allow"]
    assert_problem(response)


async def test_what_nobody_foresaw_is_a_problem_that_shows_nothing(
    app: FastAPI, anybody: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("the secret inside")

    with caplog.at_level(logging.ERROR):
        response = await anybody.get("/boom", headers={"X-Request-Id": "boom-1"})

    assert response.status_code == 500
    assert_problem(response)
    assert "secret" not in response.text
    assert "boom-1" in caplog.text
    assert "RuntimeError: the secret inside" in caplog.text, "whoever runs it finds it by the request id"


async def test_a_body_over_2_mib_is_not_read(ada: httpx.AsyncClient) -> None:
    for content in (b" " * (2 * MIB + 1), chunks(2 * MIB + 1)):  # announced, and in chunks
        response = await ada.post("/v1/notes", content=content, headers={"Content-Type": "application/json"})
        assert (response.status_code, response.json()["type"]) == (413, "/problems/body-too-large")
        assert_problem(response)


async def test_a_body_of_2_mib_is_read(ada: httpx.AsyncClient) -> None:
    body = b'{"title": "x"}'
    response = await ada.post(
        "/v1/notes", content=body + b" " * (2 * MIB - len(body)), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 201


@pytest.mark.parametrize("opening", ["[", '{"a":'])
async def test_json_that_is_nested_deeply_is_not_followed(ada: httpx.AsyncClient, opening: str) -> None:
    json = {"Content-Type": "application/json"}
    response = await ada.post("/v1/notes", content=opening * (MIB // len(opening)), headers=json)
    assert (response.status_code, response.json()["type"]) == (400, "/problems/malformed-request")
    assert_problem(response)


@pytest.mark.parametrize(("more", "status"), [(100 - len(SENT), 404), (101 - len(SENT), 431)])
async def test_there_may_be_100_headers(anybody: httpx.AsyncClient, more: int, status: int) -> None:
    response = await anybody.get("/nowhere", headers={f"X-{number}": "x" for number in range(more)})
    assert response.status_code == status
    assert_problem(response)


async def test_headers_may_have_32_kib(anybody: httpx.AsyncClient) -> None:
    assert (await anybody.get("/nowhere", headers={"X-Much": "x" * 31 * 1024})).status_code == 404
    response = await anybody.get("/nowhere", headers={"X-Much": "x" * 32 * 1024})
    assert (response.status_code, response.json()["type"]) == (431, "/problems/header-fields-too-large")


@pytest.mark.parametrize("target", ["/{}", "/?{}"])
async def test_path_and_query_may_have_8_kib(anybody: httpx.AsyncClient, target: str) -> None:
    fits, too_long = (target.format("x" * length) for length in (8 * 1024 - 1, 8 * 1024))
    assert (await anybody.get(fits)).status_code == 404
    response = await anybody.get(too_long)
    assert (response.status_code, response.json()["type"]) == (414, "/problems/uri-too-long")
    assert_problem(response)


async def chunks(size: int) -> AsyncIterator[bytes]:
    for start in range(0, size, 65_536):
        yield b" " * min(65_536, size - start)


def assert_problem(response: httpx.Response) -> None:
    """RFC 9457, with our members."""
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert problem["type"]
    assert problem["title"]
    assert problem["detail"]
