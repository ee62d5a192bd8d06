"""The client of the backup API: what it sends, and how long it waits."""

import asyncio
import gzip
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from scheduler import answers, backups
from scheduler.answers import Refused, Unavailable
from scheduler.settings import SettingsError
from tests.scheduler.gateway import NOW, Gateway, a_backup, problem, proof


async def test_a_request_is_signed_with_what_it_says(gateway: Gateway, aws_env: dict[str, str]) -> None:
    """That the signature is right is seen in the system tests, by a gateway that checks it."""
    async with backups.connect(gateway.url) as api:
        backup = await api.start("nightly", "key-1")
        await api.show(backup.id)
    post, get = (call.headers for call in gateway.calls)
    scope = f"Credential=AKIATEST/{datetime.now(UTC):%Y%m%d}/eu-central-1/execute-api/aws4_request"
    assert post["authorization"].startswith(f"AWS4-HMAC-SHA256 {scope}, ")
    assert "SignedHeaders=content-type;host;idempotency-key;x-amz-date, " in post["authorization"]
    assert "SignedHeaders=host;x-amz-date, " in get["authorization"]
    assert post["content-type"] == "application/json"


async def test_the_trace_is_carried_on_and_not_signed(gateway: Gateway, aws_env: dict[str, str]) -> None:
    """What stands before the function may add to it."""
    gateway.outcome = {"state": "running"}
    gateway.listed = [a_backup("b-0", proven_at=NOW)]
    carried = answers.TRACEPARENT.set(trace := f"00-{'1' * 32}-{'2' * 16}-01")
    async with backups.connect(gateway.url) as api:
        backup = await api.start("nightly", "key-1")
        await asyncio.gather(api.show(backup.id), api.page(), api.page("b-1"), api.cancel(backup.id))
        await api.prove("b-0")
        await api.apply((await api.plan()).digest)
    answers.TRACEPARENT.reset(carried)
    assert len(gateway.calls) == 8
    for call in gateway.calls:
        assert call.headers["traceparent"] == trace
        assert "traceparent" not in call.headers["authorization"]


@pytest.mark.parametrize("status", [404, 409, 410])
async def test_a_refusal_tells_its_status(gateway: Gateway, aws_env: dict[str, str], status: int) -> None:
    gateway.instead.append(problem(status, "No."))
    async with backups.connect(gateway.url) as api:
        with pytest.raises(Refused) as told:
            await api.prove("b-1")
    assert told.value.status == status


async def test_temporary_credentials_send_their_token(
    gateway: Gateway, aws_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of a role")
    async with backups.connect(gateway.url) as api:
        await api.start(None, "key-1")
    headers = gateway.calls[0].headers
    assert headers["x-amz-security-token"] == "of a role"
    assert "x-amz-security-token" in headers["authorization"]


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("86400", 600, 600),
        (format_datetime(datetime.now(UTC) + timedelta(hours=9), usegmt=True), 600, 600),
        (format_datetime(datetime.now(UTC) - timedelta(hours=9), usegmt=True), 0, 0),
    ],
)
async def test_retry_after_is_seconds_or_a_date_and_has_a_limit(
    gateway: Gateway, aws_env: dict[str, str], header: str, low: float, high: float
) -> None:
    gateway.instead.append(problem(429, "Slow down.", **{"Retry-After": header}))
    async with backups.connect(gateway.url) as api:
        with pytest.raises(Unavailable) as told:
            await api.show("b-1")
    assert told.value.retry_after_seconds is not None
    assert low <= told.value.retry_after_seconds <= high


@pytest.mark.parametrize(
    "header",
    ["", "soon", "-5", "1.5", "Sun, 22 Nov 2026 02:00:00 -0000", "Sun, 22 Nov 2026 02:00:00 +99999999999999"],
)
async def test_any_other_retry_after_is_none(gateway: Gateway, aws_env: dict[str, str], header: str) -> None:
    gateway.instead.append(problem(503, "Not now.", **{"Retry-After": header}))
    async with backups.connect(gateway.url) as api:
        with pytest.raises(Unavailable) as told:
            await api.show("b-1")
    assert told.value.retry_after_seconds is None


async def test_a_gateway_that_never_answers_is_given_up(
    gateway: Gateway, aws_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 0.3)
    gateway.open.clear()
    async with backups.connect(gateway.url) as api:
        with pytest.raises(Unavailable, match="does not answer"):
            await api.start(None, "key-1")


@pytest.mark.parametrize(
    "answer",
    [
        Response(b"not gzip", 202, {"Content-Encoding": "gzip"}),
        Response(gzip.compress(json.dumps(a_backup("b-1")).encode()), 202, {"Content-Encoding": "gzip"}),
        JSONResponse(a_backup("b-1") | {"label": "x" * backups.MAX_ANSWER_BYTES}, 202),
    ],
)
async def test_an_answer_that_cannot_be_read_is_none(
    gateway: Gateway, aws_env: dict[str, str], answer: Response
) -> None:
    """What is compressed may be of any size, and was not asked for."""
    gateway.instead.append(answer)
    async with backups.connect(gateway.url) as api:
        with pytest.raises(Unavailable, match="202 without what was asked for"):
            await api.start(None, "key-1")
    assert gateway.calls[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "wrong",
    [
        {"created_at": "0001-01-01T00:00:00+14:00"},
        {"created_at": "9999-12-31T23:59:59-14:00"},
        {"rows": -1},
        {"bytes": 2**63},
        {"proof": proof(-1, "proven", NOW)},
        {"progress": {"stage": "copying", "rows_per_second": float("inf")}},
        {"progress": {"stage": "copying", "bytes_per_second": float("nan")}},
        {"id": "b-2"},
    ],
)
async def test_an_answer_that_cannot_be_true_is_none(
    gateway: Gateway, aws_env: dict[str, str], wrong: dict[str, Any]
) -> None:
    gateway.instead.append(Response(json.dumps(a_backup("b-1") | wrong), 200))
    async with backups.connect(gateway.url) as api:
        with pytest.raises(Unavailable, match="The backup API answered"):
            await api.show("b-1")


async def test_what_is_kept_of_an_answer_is_plain_text(gateway: Gateway, aws_env: dict[str, str]) -> None:
    gateway.listed = [a_backup("b-1", "a\x00b") | {"reason": "x\x00" * 999, "progress": {"stage": "\x1b[31m"}}]
    async with backups.connect(gateway.url) as api:
        shown = await api.show("b-1")
    assert shown.progress
    assert shown.reason
    assert (shown.state, shown.progress.stage, len(shown.reason)) == ("a b", "[31m", 499)


def test_it_gives_up_before_the_gateway_does() -> None:
    assert answers.ANSWER_SECONDS < 29


async def test_what_is_said_is_fit_to_be_shown(gateway: Gateway, aws_env: dict[str, str]) -> None:
    gateway.instead.append(problem(400, "line\nline\x00\x1b[31m" + "x" * 5000))
    async with backups.connect(gateway.url) as api:
        with pytest.raises(Refused) as told:
            await api.start(None, "key-1")
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 600


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION"])
async def test_without_credentials_or_region_it_does_not_start(
    aws_env: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(missing)
    with pytest.raises(SettingsError, match="AWS_DEFAULT_REGION"):
        async with backups.connect("http://127.0.0.1:9/v1"):
            pass
