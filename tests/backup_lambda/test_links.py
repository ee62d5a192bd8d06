"""Links to a table's rows: they lead to the bytes without credentials, and to no other bytes."""

import gzip
import hashlib
import json
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from backup_lambda.manifest import object_name
from tests.backup_lambda.recorded import a_proven_backup, a_table, have_manifest, have_progress
from tests.backup_lambda.test_api import FIRST, assert_problem
from tests.backup_lambda.test_handler import function
from tests.backup_lambda.world import World, utc_now

ROWS = b'{"id":1}\n{"id":2}\n'
NAMES = [
    ("notes", "notes"),
    ("notes", "a b"),
    ("notes", "50%"),
    ("notes", "%41"),
    ("notes", 'quo"te'),
    ("notes", "what?#"),
    ("notes", "Größe"),
    ("notes", "a/b"),
    ("notes", "a.b"),
    ("notes.a", "b"),
    ("notes", "line\nbreak"),
]


async def have_table(world: World, backup_id: str, schema: str, relation: str, rows: bytes = ROWS) -> dict[str, Any]:
    """The fields of its entry in the manifest; the objects are there."""
    name = object_name(schema, relation)
    body = gzip.compress(rows, mtime=0)
    stored = await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{backup_id}/data/{name}.json.gz", Body=body)
    await world.s3.put_object(
        Bucket=world.bucket, Key=f"backups/{backup_id}/index/{name}.json.gz", Body=gzip.compress(b"{}\n", mtime=0)
    )
    return {
        "name": f"{schema}.{relation}",
        "rows": rows.count(b"\n"),
        "bytes": len(rows),
        "stored_bytes": len(body),
        "sha256": hashlib.sha256(rows).hexdigest(),
        "object": f"data/{name}.json.gz",
        "index": f"index/{name}.json.gz",
        "etag": stored["ETag"],
    }


async def download(url: str) -> bytes:
    async with httpx.AsyncClient(trust_env=False) as anybody:
        answer = await anybody.get(url)
    assert answer.status_code == 200, answer.text
    return gzip.decompress(answer.content)


async def test_a_link_leads_to_the_rows_for_a_quarter_of_an_hour(api: httpx.AsyncClient, world: World) -> None:
    backup_id = await world.wish()
    entry = await have_table(world, backup_id, "notes", "notes")
    await have_manifest(world, backup_id, tables=[a_table(**entry)])
    answer = await api.get(f"/backups/{backup_id}/tables/notes")
    assert answer.status_code == 200
    link = answer.json()
    assert await download(link.pop("url")) == ROWS
    assert await download(link.pop("index_url")) == b"{}\n"
    left = datetime.fromisoformat(link.pop("expires_at")) - utc_now()
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)
    assert link == {key: entry[key] for key in ("name", "rows", "bytes", "stored_bytes", "sha256")}


async def test_a_link_is_signed_for_this_object_and_time(api: httpx.AsyncClient, world: World) -> None:
    backup_id = await world.wish()
    entry = await have_table(world, backup_id, "notes", "notes")
    await have_manifest(world, backup_id, tables=[a_table(**entry)])
    link = (await api.get(f"/backups/{backup_id}/tables/notes.notes")).json()
    url = httpx.URL(link["url"])
    assert url.params["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert url.params["X-Amz-Expires"] == "900"
    forged = [
        str(url.copy_set_param("X-Amz-Expires", "90000")),
        link["url"].replace("/data/", "/index/"),
        str(url).partition("?")[0],
    ]
    async with httpx.AsyncClient(trust_env=False) as anybody:
        assert {(await anybody.get(each)).status_code for each in forged} == {403}


@pytest.mark.parametrize(("schema", "relation"), NAMES)
async def test_a_table_of_any_name_is_linked(api: httpx.AsyncClient, world: World, schema: str, relation: str) -> None:
    """Its object's name, encoded once more, always leads to it."""
    backup_id = await world.wish()
    entries = {name: await have_table(world, backup_id, *name, rows=f"{name}\n".encode()) for name in NAMES}
    await have_manifest(world, backup_id, tables=[a_table(**entry) for entry in entries.values()])
    path = f"/backups/{backup_id}/tables"
    link = (await api.get(f"{path}/{quote(object_name(schema, relation), safe='')}")).json()
    assert await download(link["url"]) == f"{(schema, relation)}\n".encode()
    ambiguous = entries[schema, relation]["name"] == "notes.a.b"
    if not ambiguous and "\n" not in relation:  # a path that was decoded holds no line break
        by_name = (await api.get(f"{path}/{quote(f'{schema}.{relation}', safe='')}")).json()
        assert by_name["sha256"] == link["sha256"]


async def test_two_tables_of_one_name_are_told_apart_by_their_objects(api: httpx.AsyncClient, world: World) -> None:
    backup_id = await world.wish()
    twins = [await have_table(world, backup_id, *name) for name in (("notes", "a.b"), ("notes.a", "b"))]
    await have_manifest(world, backup_id, tables=[a_table(**entry) for entry in twins])
    assert_problem(await api.get(f"/backups/{backup_id}/tables/notes.a.b"), 404, "table-not-found")


async def test_there_is_no_link_to_what_is_not_there(api: httpx.AsyncClient, world: World) -> None:
    proven, running, expired = await a_proven_backup(world), await world.wish(), await a_proven_backup(world)
    await have_progress(world, running)
    await world.write(f"backups/{expired}/expired.json", {})
    for backup_id, table, status, kind in [
        (proven, "notes.nothing", 404, "table-not-found"),
        (proven, "notes.", 404, "table-not-found"),
        (running, "notes.notes", 409, "backup-not-ready"),
        (expired, "notes.notes", 410, "backup-expired"),
        (FIRST, "notes.notes", 404, "backup-not-found"),
    ]:
        problem = assert_problem(await api.get(f"/backups/{backup_id}/tables/{table}"), status, kind)
        assert problem["detail"]


@pytest.mark.parametrize("harm", ["another", "none"])
async def test_an_object_that_is_not_the_one_that_was_stored_is_not_linked(
    api: httpx.AsyncClient, world: World, harm: str
) -> None:
    backup_id = await world.wish()
    entry = await have_table(world, backup_id, "notes", "notes")
    await have_manifest(world, backup_id, tables=[a_table(**entry)])
    key = f"backups/{backup_id}/data/notes.notes.json.gz"
    if harm == "another":
        await world.s3.put_object(Bucket=world.bucket, Key=key, Body=b"something else")
    else:
        await world.s3.delete_object(Bucket=world.bucket, Key=key)
    problem = assert_problem(await api.get(f"/backups/{backup_id}/tables/notes"), 409, "object-altered")
    assert f"POST /backups/{backup_id}/proofs" in problem["detail"]


async def test_in_a_bucket_with_versions_a_link_leads_to_the_version(api: httpx.AsyncClient, world: World) -> None:
    await world.s3.put_bucket_versioning(Bucket=world.bucket, VersioningConfiguration={"Status": "Enabled"})
    backup_id = await world.wish()
    entry = await have_table(world, backup_id, "notes", "notes")
    await have_manifest(world, backup_id, tables=[a_table(**entry)])
    link = (await api.get(f"/backups/{backup_id}/tables/notes")).json()
    await world.s3.put_object(
        Bucket=world.bucket, Key=f"backups/{backup_id}/data/notes.notes.json.gz", Body=gzip.compress(b"forged")
    )
    assert await download(link["url"]) == ROWS


@pytest.mark.parametrize("path", ["notes.%2541", "notes.%41"])
async def test_a_name_is_what_the_gateway_took_it_for(aws_environment: dict[str, str], world: World, path: str) -> None:
    """It hands on the path as it came, which another gateway has decoded, and its parameters decoded once."""
    backup_id = await world.wish()
    entry = await have_table(world, backup_id, "notes", "%41")
    await have_manifest(world, backup_id, tables=[a_table(**entry)])
    names = {"BUCKET": world.bucket, "TOPIC_ARN": world.topic.arn}
    names |= {"WORKER_FUNCTION": "none", "KEEPER_FUNCTION": "none"}
    event = {
        "resource": "/backups/{backup_id}/tables/{table}",
        "path": f"/backups/{backup_id}/tables/{path}",
        "httpMethod": "GET",
        "headers": {},
        "pathParameters": {"backup_id": backup_id, "table": "notes.%41"},
        "requestContext": {"requestId": "1", "identity": {}},
        "body": None,
        "isBase64Encoded": False,
    }
    environment = aws_environment | {f"HOLDFAST_{name}": value for name, value in names.items()}
    async with function("api", environment) as api:
        answer = (await api.invoke(event))["result"]
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"])["name"] == "notes.%41"
