"""python -m notes_api.tokens."""

import json
import re

import pytest
from fastapi import FastAPI

from tests.notes_api.doors import client, run
from tests.servers import Cluster

OWNER = "018f0000-0000-7000-8000-00000000ada0"
CREATE = ("create", "--name", "Ada's laptop", "--scope", "notes:read")


@pytest.fixture
def url(cluster: Cluster, database: str) -> str:
    return cluster.url("notes_app", database)


async def test_the_token_works_and_is_alone_on_standard_output(url: str, app: FastAPI) -> None:
    done = run("tokens", *CREATE, "--scope", "notes:write", HOLDFAST_DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"hf_[A-Za-z0-9_-]{43}\n", done.stdout)
    assert "Ada's laptop" in done.stderr
    assert done.stdout.strip() not in done.stderr
    async with client(app, done.stdout.strip()) as ada:
        assert (await ada.post("/v1/notes", json={"title": "x"})).status_code == 201


async def test_two_tokens_of_one_owner_reach_the_same_notes(url: str, app: FastAPI) -> None:
    scopes = ("--scope", "notes:write", "--owner", OWNER)
    first, second = (run("tokens", *CREATE, *scopes, HOLDFAST_DATABASE_URL=url).stdout.strip() for _ in range(2))
    async with client(app, first) as one, client(app, second) as other:
        made = await one.post("/v1/notes", json={"title": "x"})
        assert (await other.get(made.headers["Location"])).status_code == 200


def test_what_was_asked_for_is_kept(url: str, cluster: Cluster, database: str) -> None:
    run("tokens", *CREATE, "--owner", OWNER, "--expires-days", "30", HOLDFAST_DATABASE_URL=url)
    row = cluster.server.psql(
        database,
        ["select name, owner, scopes, round(extract(epoch from expires_at - now()) / 86400) from notes.tokens"],
    )
    assert row.strip() == f"Ada's laptop|{OWNER}|{{notes:read}}|30"


def test_tokens_are_listed_but_not_what_they_are(url: str, app: FastAPI) -> None:
    made = run("tokens", *CREATE, "--owner", OWNER, HOLDFAST_DATABASE_URL=url).stdout.strip()
    run("tokens", *CREATE, HOLDFAST_DATABASE_URL=url)
    listed = run("tokens", "list", HOLDFAST_DATABASE_URL=url)
    assert listed.returncode == 0, listed.stderr
    assert len(listed.stdout.splitlines()) == 2
    assert made.removeprefix("hf_") not in listed.stdout
    of_ada = run("tokens", "list", "--owner", OWNER, HOLDFAST_DATABASE_URL=url)
    token = json.loads(of_ada.stdout)
    assert (token["owner"], token["name"], token["scopes"]) == (OWNER, "Ada's laptop", ["notes:read"])
    assert token.keys() >= {"id", "created_at", "expires_at", "last_used_at"}


async def test_a_token_is_revoked_by_its_id(url: str, app: FastAPI) -> None:
    made = run("tokens", *CREATE, HOLDFAST_DATABASE_URL=url).stdout.strip()
    token_id = json.loads(run("tokens", "list", HOLDFAST_DATABASE_URL=url).stdout)["id"]
    async with client(app, made) as ada:
        assert (await ada.get(f"/v1/notes/{OWNER}")).status_code == 404
        assert run("tokens", "revoke", token_id, HOLDFAST_DATABASE_URL=url).returncode == 0
        assert (await ada.get(f"/v1/notes/{OWNER}")).status_code == 401
    again = run("tokens", "revoke", token_id, HOLDFAST_DATABASE_URL=url)
    assert (again.returncode, again.stderr) == (1, "there is no such token\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "required"),
        (("create",), "--name, --scope"),
        (("create", "--name", "x", "--scope", "notes:all"), "notes:all"),
        ((*CREATE, "--owner", "ada"), "--owner"),
        ((*CREATE, "--expires-days", "0"), "--expires-days"),
        ((*CREATE, "--expires-days", "3651"), "--expires-days"),
        (("create", "--name", "", "--scope", "notes:read"), "--name"),
        (("list", "--owner", "ada"), "--owner"),
        (("revoke", "hf_x"), "id"),
    ],
)
def test_wrong_arguments_are_named(url: str, arguments: tuple[str, ...], complaint: str) -> None:
    done = run("tokens", *arguments, HOLDFAST_DATABASE_URL=url)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


@pytest.mark.parametrize("problem", ["not migrated", "wrong password", "nobody listens"])
def test_a_database_that_does_not_do_is_told_in_one_line(url: str, cluster: Cluster, problem: str) -> None:
    urls = {
        "not migrated": cluster.url("notes_app", "holdfast"),
        "wrong password": re.sub(r":[^:@]+@", ":s3cret@", url),
        "nobody listens": re.sub(r":\d+/", ":1/", url),
    }
    done = run("tokens", *CREATE, HOLDFAST_DATABASE_URL=urls[problem])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no token was made: ")
    assert "s3cret" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
