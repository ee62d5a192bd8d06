"""Who gets in to the console, and what is refused at its door."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Route

from scheduler import tokens
from tests.scheduler.visitor import Visitor, new_token, visitor

READ = (tokens.SCHEDULES_READ, tokens.RUNS_READ)
WRONG = "hf_" + 43 * "x"


@pytest.fixture
async def ada(app: FastAPI) -> AsyncIterator[Visitor]:
    async with visitor(app, tokens.SCOPES) as one:
        yield one


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[Visitor]:
    async with visitor(app) as one:
        yield one


async def test_who_has_not_signed_in_is_asked_to_and_then_comes_where_they_wanted(
    app: FastAPI, stranger: Visitor
) -> None:
    answer = await stranger.get("/ops/runs?state=failed")
    assert answer.status_code == 303
    asked = await stranger.get(answer.headers["Location"])
    assert 'value="/ops/runs?state=failed"' in asked.text
    signed_in = await stranger.sign_in(await new_token(app), next="/ops/runs?state=failed")
    assert (signed_in.status_code, signed_in.headers["Location"]) == (303, "/ops/runs?state=failed")
    assert "Runs" in await stranger.page("/runs?state=failed")


@pytest.mark.parametrize(
    "target", ["https://else.test/", "//else.test/ops/", "/ops//else.test", "/opsx", "/ops/\\else"]
)
async def test_nobody_is_led_elsewhere_after_signing_in(app: FastAPI, stranger: Visitor, target: str) -> None:
    signed_in = await stranger.sign_in(await new_token(app), next=target)
    assert signed_in.headers["Location"] == "/ops/"


@pytest.mark.parametrize("token", [WRONG, "", "hf_", "x" * 5000, "hf_\x00"])
async def test_a_wrong_token_is_said_beside_its_field(stranger: Visitor, token: str) -> None:
    answer = await stranger.sign_in(token)
    assert answer.status_code == 401
    assert 'id="token-wrong">This token is not known, has expired or was revoked.' in answer.text


@pytest.mark.parametrize("scopes", [(), (tokens.RUNS_READ,), (tokens.BACKUPS_WRITE, tokens.SCHEDULES_READ)])
async def test_a_token_without_the_scopes_is_not_let_in(
    app: FastAPI, stranger: Visitor, scopes: tuple[str, ...]
) -> None:
    answer = await stranger.sign_in(await new_token(app, scopes))
    assert answer.status_code == 403
    assert "it lacks" in answer.text
    assert (await stranger.get("/ops/")).status_code == 303


async def test_after_ten_wrong_tokens_no_more_are_looked_at(
    app: FastAPI, stranger: Visitor, sql: asyncpg.Connection
) -> None:
    assert [(await stranger.sign_in(WRONG)).status_code for _ in range(11)] == [401] * 10 + [429]
    token = await new_token(app)
    assert (await stranger.sign_in(token)).status_code == 429
    assert await sql.fetchval("select count(*) from scheduler.audit where action = 'sign-in refused'") == 10
    await sql.execute("update scheduler.audit set at = at - interval '15 minutes'")
    assert (await stranger.sign_in(token)).status_code == 303


async def test_the_cookie_is_of_the_console_alone_and_of_no_script(app: FastAPI, stranger: Visitor) -> None:
    signed_in = await stranger.sign_in(await new_token(app))
    name, *attributes = signed_in.headers["Set-Cookie"].split("; ")
    assert name.startswith("holdfast_ops=")
    assert set(attributes) == {"Max-Age=1800", "Path=/ops", "HttpOnly", "SameSite=Strict"}
    async with visitor(app, base="https://ops.test") as by_tls:
        assert "; Secure" in (await by_tls.sign_in(await new_token(app))).headers["Set-Cookie"]


async def test_the_secret_of_before_signing_in_is_not_the_one_after(app: FastAPI, stranger: Visitor) -> None:
    await stranger.get("/ops/login")
    before = stranger.cookies["holdfast_ops"]
    await stranger.sign_in(await new_token(app))
    assert stranger.cookies["holdfast_ops"] not in {before, ""}


async def test_a_stolen_cookie_is_worth_nothing_after_signing_out(app: FastAPI, ada: Visitor) -> None:
    async with visitor(app) as thief:
        thief.cookies.set("holdfast_ops", ada.cookies["holdfast_ops"], path="/ops")
        assert (await thief.get("/ops/")).status_code == 200
        assert (await ada.post("/ops/logout", data={"proof": await ada.proof("/")})).status_code == 303
        assert (await thief.get("/ops/")).status_code == 303


@pytest.mark.parametrize(
    "statement",
    [
        "delete from scheduler.tokens",
        "update scheduler.tokens set expires_at = now()",
        "update scheduler.sessions set used_at = now() - interval '31 minutes'",
        "update scheduler.sessions set created_at = now() - interval '12 hours'",
    ],
)
async def test_a_session_ends(ada: Visitor, sql: asyncpg.Connection, statement: str) -> None:
    await ada.page()
    await sql.execute(statement)
    assert (await ada.get("/ops/")).status_code == 303
    looked_by_itself = await ada.get("/ops/", headers={"X-Live": "1"})
    assert looked_by_itself.status_code == 401


async def test_who_uses_it_keeps_it_and_a_page_that_looks_by_itself_does_not(
    ada: Visitor, sql: asyncpg.Connection
) -> None:
    await sql.execute("update scheduler.sessions set used_at = now() - interval '20 minutes'")
    assert "Set-Cookie" not in (await ada.get("/ops/", headers={"X-Live": "1"})).headers
    unused = "select now() - used_at > interval '19 minutes' from scheduler.sessions"
    assert await sql.fetchval(unused)
    assert "Max-Age=1800" in (await ada.get("/ops/")).headers["Set-Cookie"]
    assert not await sql.fetchval(unused)


def forms(app: FastAPI) -> list[str]:
    """The path of every route that takes a form."""
    site = next(route for route in app.routes if isinstance(route, Mount) and route.path == "/ops")
    found = [route.path for route in site.routes if isinstance(route, Route) and "POST" in (route.methods or ())]
    some_id = "00000000-0000-7000-8000-000000000001"
    return ["/ops" + _filled(path, some_id) for path in found]


def _filled(path: str, some_id: str) -> str:
    parts = path.replace("{revision:number}", "1").split("/")
    return "/".join(some_id if ":uuid" in part else "x" if part.startswith("{") else part for part in parts)


async def test_no_form_is_taken_without_its_proof(app: FastAPI, ada: Visitor, sql: asyncpg.Connection) -> None:
    paths = forms(app)
    assert len(paths) > 10
    proof = await ada.proof("/")
    before = await sql.fetchval("select count(*) from scheduler.audit")
    for path in paths:
        for data in ({}, {"proof": ""}, {"proof": 64 * "0"}):
            assert (await ada.post(path, data=data)).status_code == 403, path
        elsewhere = {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://else.test"}
        for headers in elsewhere:
            assert (await ada.post(path, data={"proof": proof}, headers=headers)).status_code == 403, (path, headers)
    assert await sql.fetchval("select count(*) from scheduler.audit") == before


async def test_who_may_only_read_changes_nothing(app: FastAPI) -> None:
    async with visitor(app, READ) as reader:
        for path in sorted(set(forms(app)) - {"/ops/login", "/ops/logout", "/ops/schedules/preview"}):
            answer = await reader.post(path, data={"proof": await reader.proof("/")})
            assert answer.status_code == 403, (path, answer.status_code)


async def test_every_answer_says_what_the_page_may_do(ada: Visitor, stranger: Visitor) -> None:
    for answer in (await ada.get("/ops/"), await stranger.get("/ops/login"), await ada.get("/ops/nothing")):
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
        assert answer.headers["Cache-Control"] == "no-store"
        assert "<style" not in answer.text
        assert " style=" not in answer.text
        assert " onclick=" not in answer.text
    assert "<script>" not in await ada.page()


async def test_who_came_and_went_is_in_the_audit_list(ada: Visitor, stranger: Visitor) -> None:
    await stranger.sign_in(WRONG)
    shown = await ada.page("/audit")
    assert "signed in" in shown
    assert "sign-in refused" in shown


@pytest.mark.parametrize(
    "path", ["/runs/nothing", "/nothing", "/runs?state=odd", "/audit?before=x", "/schedules?after=x"]
)
async def test_what_is_not_there_is_said_in_words(ada: Visitor, path: str) -> None:
    answer = await ada.get(f"/ops{path}")
    assert answer.status_code == 404
    assert "There is nothing here" in answer.text


async def test_a_form_that_cannot_be_read_is_refused(ada: Visitor) -> None:
    broken: httpx.Response = await ada.post(
        "/ops/schedules/new", content=b"--x\r\nnothing", headers={"Content-Type": "multipart/form-data; boundary=y"}
    )
    assert broken.status_code in {400, 403}


async def test_who_makes_addresses_up_makes_no_time_series(ada: Visitor, stranger: Visitor) -> None:
    for number in range(3):
        await stranger.get(f"/ops/made-up-{number}")
        await ada.get(f"/ops/made-up-{number}")
        await ada.get(f"/ops/static/made-up-{number}")
    counted = (await stranger.get("/metrics")).text
    assert "made-up" not in counted
    assert 'route="/ops"' in counted


async def test_the_address_without_a_slash_leads_to_the_one_with(stranger: Visitor) -> None:
    answer = await stranger.get("/ops")
    assert (answer.status_code, answer.headers["Location"]) == (308, "/ops/")
