"""python -m scheduler.tokens."""

import json
import re
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi import FastAPI

from tests.servers import Cluster

if TYPE_CHECKING:
    from tests.scheduler.conftest import Command

CREATE = ("create", "--name", "Ada's laptop", "--scope", "runs:read")


async def test_the_token_works_and_is_alone_on_standard_output(run: "Command", database_url: str, app: FastAPI) -> None:
    done = run("tokens", *CREATE, "--scope", "schedules:read", HOLDFAST_DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"hf_[A-Za-z0-9_-]{43}\n", done.stdout)
    assert "Ada's laptop" in done.stderr
    assert done.stdout.strip() not in done.stderr
    headers = {"Authorization": f"Bearer {done.stdout.strip()}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://scheduler.test", headers=headers) as client:
        assert (await client.get("/v1/runs")).status_code == 200
        assert (await client.get("/v1/schedules")).status_code == 200


def test_what_was_asked_for_is_kept(run: "Command", database_url: str, cluster: Cluster, database: str) -> None:
    run("tokens", *CREATE, "--expires-days", "30", HOLDFAST_DATABASE_URL=database_url)
    kept = "select name, scopes, (expires_at - created_at)::text ~ '^(29 days 23:59|30 days)' from scheduler.tokens"
    row = cluster.server.psql(database, [kept]).strip()
    assert row == "Ada's laptop|{runs:read}|t"


def test_tokens_are_listed_and_revoked_by_their_id(run: "Command", database_url: str) -> None:
    made = run("tokens", *CREATE, HOLDFAST_DATABASE_URL=database_url).stdout.strip()
    listed = run("tokens", "list", HOLDFAST_DATABASE_URL=database_url).stdout
    token = json.loads(listed)
    assert (token["name"], token["scopes"]) == ("Ada's laptop", ["runs:read"])
    assert made.removeprefix("hf_") not in listed
    assert run("tokens", "revoke", token["id"], HOLDFAST_DATABASE_URL=database_url).returncode == 0
    assert run("tokens", "list", HOLDFAST_DATABASE_URL=database_url).stdout == ""
    again = run("tokens", "revoke", token["id"], HOLDFAST_DATABASE_URL=database_url)
    assert (again.returncode, again.stderr) == (1, "there is no such token\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "required"),
        (("create",), "--name, --scope"),
        (("create", "--name", "x", "--scope", "notes:read"), "notes:read"),
        ((*CREATE, "--expires-days", "0"), "--expires-days"),
        ((*CREATE, "--expires-days", "3651"), "--expires-days"),
        (("create", "--name", "", "--scope", "runs:read"), "--name"),
    ],
)
def test_wrong_arguments_are_named(
    run: "Command", database_url: str, arguments: tuple[str, ...], complaint: str
) -> None:
    done = run("tokens", *arguments, HOLDFAST_DATABASE_URL=database_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


@pytest.mark.parametrize("problem", ["not migrated", "wrong password", "nobody listens"])
def test_a_database_that_does_not_do_is_told_in_one_line(
    run: "Command", database_url: str, cluster: Cluster, problem: str
) -> None:
    urls = {
        "not migrated": cluster.url("scheduler_app", "holdfast"),
        "wrong password": re.sub(r":[^:@]+@", ":s3cret@", database_url),
        "nobody listens": re.sub(r":\d+/", ":1/", database_url),
    }
    done = run("tokens", *CREATE, HOLDFAST_DATABASE_URL=urls[problem])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no token was made: ")
    assert "s3cret" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
