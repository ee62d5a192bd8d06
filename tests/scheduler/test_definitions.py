"""What may be said of a schedule, and what is refused: with the field that is wrong and what it may be."""

import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from scheduler.outside import Outside

GOOD = {"name": "nightly", "cron": "30 2 * * *", "target": {"kind": "backup"}}
HTTP = {"kind": "http", "url": "https://hooks.example.com/nightly"}


@pytest.mark.parametrize(
    ("change", "pointer", "said"),
    [
        ({"cron": "0 30 2 * * *"}, "#/cron", "Give five fields"),
        ({"cron": "@daily"}, "#/cron", "Give five fields"),
        ({"cron": "61 * * * *"}, "#/cron", "Bad minute"),
        ({"cron": "0 0 30 2 *"}, "#/cron", "Bad day-of-month"),
        ({"cron": "0 0 31 4,6 *"}, "#/cron", "Bad day-of-month"),
        ({"cron": "x" * 201}, "#/cron", "at most 200"),
        ({"cron": None}, "#/at", "there is none"),
        ({"every_seconds": 3600}, "#/at", "there is cron and every_seconds"),
        ({"cron": None, "every_seconds": 59}, "#/every_seconds", "greater than or equal to 60"),
        ({"cron": None, "at": "2020-01-01T00:00:00Z"}, "#/at", "It lies in the past"),
        ({"cron": None, "at": "2030-01-01T00:00:00"}, "#/at", "timezone"),
        ({"cron": None, "at": 1900000000}, "#/at", "as `2026-11-22T02:00:00Z`"),
        ({"cron": None, "at": "0001-01-01T00:00:00+10:00"}, "#/at", "too far away"),
        ({"start_at": "9999-12-31T00:00:00Z"}, "#/start_at", "too far away"),
        ({"timezone": "Mars/Olympus"}, "#/timezone", "no zone of the IANA database"),
        ({"timezone": "/etc/passwd"}, "#/timezone", "no zone of the IANA database"),
        ({"timezone": "localtime"}, "#/timezone", "no zone of the IANA database"),
        ({"start_at": "2031-01-01T00:00:00Z", "end_at": "2030-01-01T00:00:00Z"}, "#/end_at", "later than start_at"),
        ({"end_at": "2020-01-01T00:00:00Z"}, "#/cron", "never be due"),
        ({"catch_up": {"policy": "all"}}, "#/catch_up", "makes no history"),
        ({"catch_up": {"policy": "some"}}, "#/catch_up/policy", "'none', 'latest' or 'all'"),
        ({"overlap": "queue"}, "#/overlap", "'skip', 'allow' or 'cancel_previous'"),
        ({"cron": None, "every_seconds": 60, "jitter_seconds": 60}, "#/jitter_seconds", "less than every_seconds"),
        ({"too_long_seconds": 99, "time_limit_seconds": 98}, "#/too_long_seconds", "time_limit_seconds"),
        ({"retry": {"min_seconds": 9, "max_seconds": 8}}, "#/retry/max_seconds", "less than min_seconds"),
        ({"name": ""}, "#/name", "at least 1"),
        ({"name": "two\nlines"}, "#/name", "control characters"),
        ({"name": "x" * 201}, "#/name", "at most 200"),
        ({"colour": "red"}, "#/colour", "not permitted"),
        ({"target": {"kind": "email"}}, "#/target", "'backup', 'proof', 'retention', 'http'"),
        ({"target": {"kind": "backup", "label": "a\x00b"}}, "#/target/label", "control characters"),
        ({"target": {"kind": "backup", "tables": []}}, "#/target/tables", "at least 1"),
        ({"target": {"kind": "proof", "backup": "x"}}, "#/target/backup", "not permitted"),
        ({"target": HTTP | {"body": "x" * 16_400}}, "#/target/body", "16384 bytes"),
        ({"target": HTTP | {"body": {"a": "\x00"}}}, "#/target/body", "NUL characters"),
        ({"target": HTTP | {"body": "\\\\\x00"}}, "#/target/body", "NUL characters"),
        ({"target": HTTP | {"method": "BREW"}}, "#/target/method", "'GET', 'POST'"),
        ({"target": HTTP | {"url": "https://elsewhere.example.com/"}}, "#/target/url", "not among those"),
        (
            {"target": HTTP | {"url": "https://hooks.example.com.evil.example/nightly"}},
            "#/target/url",
            "not among those",
        ),
        ({"target": HTTP | {"url": "http://127.0.0.1/"}}, "#/target/url", ""),
        ({"target": HTTP | {"url": "http://localhost/x"}}, "#/target/url", "an address that is not public"),
        ({"target": HTTP | {"url": "file:///etc/passwd"}}, "#/target/url", ""),
    ],
)
async def test_what_is_wrong_is_named_with_what_is_allowed(
    ops: httpx.AsyncClient, app: FastAPI, change: dict[str, Any], pointer: str, said: str
) -> None:
    app.state.outside = Outside(["https://hooks.example.com/", "http://localhost"])
    response = await ops.post("/v1/schedules", json={k: v for k, v in (GOOD | change).items() if v is not None})
    assert (response.status_code, response.json()["type"]) == (422, "/problems/invalid-request"), response.text
    first = response.json()["errors"][0]
    assert first["pointer"] == pointer
    assert said in first["detail"]
    assert (await ops.get("/v1/schedules", params={"name": "nightly"})).json()["items"] == []


async def test_a_call_to_what_is_allowed_is_taken(ops: httpx.AsyncClient, app: FastAPI) -> None:
    app.state.outside = Outside(["https://hooks.example.com/"])
    body = {"a": [1, None, "\\u0000"], "b": "é" * 4000}  # a backslash, and no NUL
    response = await ops.post("/v1/schedules", json=GOOD | {"target": HTTP | {"body": body}})
    assert response.status_code == 201, response.text
    assert response.json()["target"] == HTTP | {"method": "POST", "body": body}


@pytest.mark.parametrize("body", ["1e999", '"\\ud800"'])
async def test_what_cannot_be_sent_on_is_refused(ops: httpx.AsyncClient, app: FastAPI, body: str) -> None:
    app.state.outside = Outside(["https://hooks.example.com/"])
    sent = json.dumps(GOOD | {"target": HTTP | {"body": "here"}}).replace('"here"', body)
    response = await ops.post("/v1/schedules", content=sent, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "#/target/body")


async def test_a_name_that_none_has_is_refused(ops: httpx.AsyncClient) -> None:
    response = await ops.get("/v1/schedules", params={"name": "\x00"})
    assert (response.status_code, response.json()["errors"][0]["parameter"]) == (422, "name")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b'{"name": "a", "name": "b"}', 400),
        (b'{"name": NaN}', 400),
        (b"[" * 900 + b"]" * 900, None),
        (b"\xff", 400),
        (b"null", 422),
        (b"[]", 422),
    ],
)
async def test_what_is_no_json_object_is_refused(ops: httpx.AsyncClient, body: bytes, status: int | None) -> None:
    response = await ops.post("/v1/schedules", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status or (status is None and response.status_code in {400, 422}), response.text
    assert response.headers["Content-Type"] == "application/problem+json"


async def test_another_media_type_is_refused(ops: httpx.AsyncClient) -> None:
    response = await ops.post("/v1/schedules", data=GOOD)
    assert (response.status_code, response.json()["type"]) == (415, "/problems/unsupported-media-type")


async def test_a_body_that_is_too_large_is_refused(ops: httpx.AsyncClient) -> None:
    response = await ops.post("/v1/schedules", json=GOOD | {"name": "x" * 70_000})
    assert (response.status_code, response.json()["type"]) == (413, "/problems/body-too-large")
