"""Attachments: announced, uploaded to the bucket by the client itself, confirmed, downloaded."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import aioboto3
import httpx
import pytest
from fastapi import FastAPI

from notes_api import db
from tests.notes_api.doors import client, new_token, serving
from tests.servers import Aws, Cluster, free_port

BYTES = b"%PDF-1.7 what the attachment is made of"
SCOPES = ("notes:read", "notes:write", "attachments:write")
WRONG: tuple[dict[str, Any], ...] = (
    {"name": ""},
    {"name": "x" * 256},
    {"name": "."},
    {"name": ".."},
    {"name": "../../etc/passwd"},
    {"name": "C:\\x"},
    {"name": "a\nb"},
    {"name": "a\x00b"},
    {"name": "a\u202egpj.exe"},
    {"content_type": "pdf"},
    {"content_type": "text/html\r\nX: y"},
    {"content_type": "text/html; charset"},
    {"size_bytes": -1},
    {"size_bytes": 1001},
    {"size_bytes": 1.5},
    {"sha256": "abc"},
    {"sha256": "!" * 43 + "="},
    {"sha256": "a" * 43 + "="},  # bits that are left over
    {"other": 1},
)
UNUSUAL: tuple[dict[str, Any], ...] = (
    {"name": "x" * 255},
    {"name": "..."},
    {"name": "\U0001f4ce" * 255},
    {"name": '100% "sure"; a=b.txt'},
    {"content_type": "text/markdown; charset=UTF-8; variant=GFM"},
    {"content_type": "application/vnd.openxmlformats-officedocument.wordprocessingml.document"},
)


def announcement(content: bytes = BYTES, **more: Any) -> dict[str, Any]:
    return {
        "name": "Quittung \u2013 M\u00e4rz.pdf",
        "content_type": "application/pdf",
        "size_bytes": len(content),
        "sha256": base64.b64encode(hashlib.sha256(content).digest()).decode(),
        **more,
    }


@pytest.fixture
def account(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Aws:
    for name, value in aws.variables.items():
        monkeypatch.setenv(name, value)
    return aws


@pytest.fixture
async def s3(account: Aws) -> AsyncIterator[Any]:
    async with aioboto3.Session().client("s3") as s3:
        yield s3


@pytest.fixture
async def bucket(s3: Any) -> str:
    name = f"attachments-{uuid4()}"
    await s3.create_bucket(Bucket=name)
    await s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name


@pytest.fixture
async def app(cluster: Cluster, database: str, bucket: str) -> AsyncIterator[FastAPI]:
    url = cluster.url("notes_app", database)
    async with serving(url, HOLDFAST_ATTACHMENTS_BUCKET=bucket, HOLDFAST_ATTACHMENT_BYTES="1000") as app:
        yield app


@pytest.fixture
async def ada(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app, await new_token(app, *SCOPES)) as somebody:
        yield somebody


@pytest.fixture
async def bob(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app, await new_token(app, *SCOPES)) as somebody:
        yield somebody


@pytest.fixture
async def note(ada: httpx.AsyncClient) -> str:
    """The path of a note of Ada's."""
    return str((await ada.post("/v1/notes", json={"title": "Taxes"})).headers["Location"])


async def upload(form: dict[str, Any], content: bytes = BYTES, **fields: str) -> httpx.Response:
    """As a browser does it: the file comes last."""
    async with httpx.AsyncClient() as anybody:
        return await anybody.post(form["url"], data=form["fields"] | fields, files={"file": ("x", content)})


async def announced(ada: httpx.AsyncClient, note: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """The path of a new attachment, and its form."""
    answer = await ada.post(f"{note}/attachments", json=announcement(**more))
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"], answer.json()["upload"]


async def attached(ada: httpx.AsyncClient, note: str, **more: Any) -> str:
    path, form = await announced(ada, note, **more)
    assert (await upload(form)).status_code == 204
    answer = await ada.post(f"{path}:confirm")
    assert answer.status_code == 200, answer.text
    return path


def kind(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition("/")[2].rpartition(":")[2]


async def test_a_file_is_announced_uploaded_confirmed_and_downloaded(ada: httpx.AsyncClient, note: str) -> None:
    path, form = await announced(ada, note)
    assert (await upload(form)).status_code == 204
    confirmed = await ada.post(f"{path}:confirm")
    assert confirmed.status_code == 200
    shown = (await ada.get(path)).json()
    link = shown.pop("download")
    assert shown == confirmed.json()
    assert {name: shown[name] for name in announcement()} == announcement()
    async with httpx.AsyncClient() as anybody:
        downloaded = await anybody.get(link["url"])
    assert downloaded.content == BYTES
    assert downloaded.headers["Content-Type"] == "application/pdf"
    # S3 puts this into its answer; the emulator does so only when no version is named.
    asked = httpx.URL(link["url"]).params["response-content-disposition"]
    assert (
        asked == "attachment; filename=\"Quittung _ M_rz.pdf\"; filename*=UTF-8''Quittung%20%E2%80%93%20M%C3%A4rz.pdf"
    )


async def test_it_counts_once_it_is_confirmed_and_that_is_a_change_of_the_note(
    ada: httpx.AsyncClient, note: str
) -> None:
    before = (await ada.get(note)).json()
    path, form = await announced(ada, note)
    await upload(form)
    assert (await ada.get(note)).json() == before
    assert (await ada.get(f"{note}/attachments")).json()["items"] == []
    confirmed = (await ada.post(f"{path}:confirm")).json()
    after = (await ada.get(note)).json()
    assert (after["attachment_count"], after["attachments"]) == (1, [confirmed])
    assert (await ada.get(f"{note}/attachments")).json()["items"] == [confirmed]
    assert after["revision"] == before["revision"] + 1
    stale = await ada.patch(
        note,
        json={"pinned": True},
        headers={"If-Match": before["etag"], "Content-Type": "application/merge-patch+json"},
    )
    assert stale.status_code == 412
    assert stale.json()["changed_fields"] == ["attachments"]


async def test_confirmed_again_nothing_happens(ada: httpx.AsyncClient, note: str) -> None:
    path = await attached(ada, note)
    before = (await ada.get(note)).json()
    assert (await ada.post(f"{path}:confirm")).status_code == 200
    assert (await ada.get(note)).json() == before


async def test_what_was_not_uploaded_is_not_confirmed(ada: httpx.AsyncClient, note: str) -> None:
    path, _ = await announced(ada, note)
    assert kind(await ada.post(f"{path}:confirm")) == (409, "not-uploaded")
    shown = (await ada.get(path)).json()
    assert (shown["confirmed_at"], shown["download"]) == (None, None)


async def test_the_form_takes_exactly_as_many_bytes(ada: httpx.AsyncClient, note: str) -> None:
    path, form = await announced(ada, note)
    for content in (BYTES[:-1], BYTES + b"!", b""):
        assert (await upload(form, content)).status_code == 400
    assert kind(await ada.post(f"{path}:confirm")) == (409, "not-uploaded")


async def test_the_form_takes_nothing_else(ada: httpx.AsyncClient, note: str) -> None:
    _, form = await announced(ada, note)
    others = {
        "key": "attachments/elsewhere",
        "Content-Type": "text/html",
        "x-amz-checksum-sha256": base64.b64encode(bytes(32)).decode(),
        "acl": "public-read",
    }
    for field, value in others.items():
        assert (await upload(form, BYTES, **{field: value})).status_code == 403, field


@pytest.mark.parametrize(
    ("content", "content_type", "said"),
    [
        (BYTES[::-1], "application/pdf", "checksum"),  # as many, and others
        (BYTES, "text/html", "content type"),
        (BYTES + b"!", "application/pdf", "size"),
    ],
)
async def test_other_bytes_are_not_confirmed_however_they_came_there(
    ada: httpx.AsyncClient, note: str, s3: Any, bucket: str, content: bytes, content_type: str, said: str
) -> None:
    path, form = await announced(ada, note)
    key = form["fields"]["key"]
    for checksum in ({}, {"ChecksumAlgorithm": "SHA256"}):  # without, and with one that the storage keeps
        await s3.put_object(Bucket=bucket, Key=key, Body=content, ContentType=content_type, **checksum)
        answer = await ada.post(f"{path}:confirm")
        assert kind(answer) == (409, "not-uploaded")
        assert said in answer.json()["detail"]
    await upload(form)
    assert (await ada.post(f"{path}:confirm")).status_code == 200, "mended"


async def test_a_download_is_of_the_version_that_was_confirmed(
    ada: httpx.AsyncClient, note: str, s3: Any, bucket: str
) -> None:
    path, form = await announced(ada, note)
    await upload(form)
    await ada.post(f"{path}:confirm")
    await s3.put_object(Bucket=bucket, Key=form["fields"]["key"], Body=b"something else")
    async with httpx.AsyncClient() as anybody:
        assert (await anybody.get((await ada.get(path)).json()["download"]["url"])).content == BYTES


async def test_a_form_that_is_sent_again_does_not_lose_the_bytes_when_former_versions_are_dropped(
    ada: httpx.AsyncClient, note: str, s3: Any, bucket: str
) -> None:
    path, form = await announced(ada, note)
    first = (await upload(form)).headers["x-amz-version-id"]
    await ada.post(f"{path}:confirm")
    await upload(form)
    await s3.delete_object(Bucket=bucket, Key=form["fields"]["key"], VersionId=first)
    async with httpx.AsyncClient() as anybody:
        assert (await anybody.get((await ada.get(path)).json()["download"]["url"])).content == BYTES


async def test_bytes_that_are_gone_are_said_to_be(ada: httpx.AsyncClient, note: str, s3: Any, bucket: str) -> None:
    path, form = await announced(ada, note)
    version = (await upload(form)).headers["x-amz-version-id"]
    await ada.post(f"{path}:confirm")
    await s3.delete_object(Bucket=bucket, Key=form["fields"]["key"], VersionId=version)
    assert kind(await ada.get(path)) == (409, "not-uploaded")


async def test_one_that_is_deleted_is_gone_from_the_note_and_its_object_is_to_be_discarded(
    ada: httpx.AsyncClient, app: FastAPI, note: str, s3: Any, bucket: str
) -> None:
    path, form = await announced(ada, note)
    await upload(form)
    await ada.post(f"{path}:confirm")
    assert (await ada.delete(path)).status_code == 204
    assert kind(await ada.get(path)) == (404, "attachment-not-found")
    assert kind(await ada.delete(path)) == (404, "attachment-not-found")
    assert (await ada.get(note)).json()["attachment_count"] == 0
    async with db.connected(app.state.pool) as connection:
        discarded = await connection.fetch("select object from notes.discarded_objects")
    keys = [row["object"] for row in discarded]
    assert keys == [form["fields"]["key"]]
    await app.state.storage.discard([*keys, "attachments/never-there"])
    assert (await s3.list_objects_v2(Bucket=bucket))["KeyCount"] == 0


async def test_whoever_changes_a_note_and_its_attachments_finds_no_other_in_the_way(
    ada: httpx.AsyncClient, app: FastAPI, note: str
) -> None:
    """With the note locked by somebody else, the attachment that is to be deleted is not locked yet."""
    path = await attached(ada, note)
    note_id = note.rpartition("/")[2]
    async with db.connected(app.state.pool) as other, other.transaction():
        await other.execute("select from notes.notes where id = $1 for update", note_id)
        deleting = asyncio.create_task(ada.delete(path))
        async with db.connected(app.state.pool) as watching, asyncio.timeout(3):
            while not await watching.fetchval("select exists (select from pg_locks where not granted)"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await other.execute("update notes.attachments set confirmed_at = now() where note_id = $1", note_id)
    assert (await deleting).status_code == 204
    assert (await ada.get(note)).json()["attachment_count"] == 0


async def test_a_download_waits_for_nobody_who_changes_the_note(
    ada: httpx.AsyncClient, app: FastAPI, note: str, s3: Any, bucket: str
) -> None:
    path, form = await announced(ada, note)
    first = (await upload(form)).headers["x-amz-version-id"]
    await ada.post(f"{path}:confirm")
    await upload(form)
    await s3.delete_object(Bucket=bucket, Key=form["fields"]["key"], VersionId=first)
    async with db.connected(app.state.pool) as other, other.transaction():
        await other.execute("select from notes.notes for update")
        async with asyncio.timeout(3):
            assert (await ada.get(path)).status_code == 200


async def test_a_note_that_is_purged_takes_its_attachments_along(
    ada: httpx.AsyncClient, app: FastAPI, note: str
) -> None:
    await attached(ada, note)
    etag = (await ada.get(note)).headers["ETag"]
    etag = (await ada.delete(note, headers={"If-Match": etag})).headers["ETag"]
    assert (await ada.delete(f"{note}?permanent=true", headers={"If-Match": etag})).status_code == 204
    async with db.connected(app.state.pool) as connection:
        assert await connection.fetchval("select count(*) from notes.attachments") == 0
        assert await connection.fetchval("select count(*) from notes.discarded_objects") == 1


async def test_a_note_in_the_trash_gets_no_attachments(ada: httpx.AsyncClient, note: str) -> None:
    path, form = await announced(ada, note)
    await upload(form)
    await ada.delete(note, headers={"If-Match": (await ada.get(note)).headers["ETag"]})
    assert kind(await ada.post(f"{note}/attachments", json=announcement())) == (409, "note-trashed")
    assert kind(await ada.post(f"{path}:confirm")) == (409, "note-trashed")


async def test_somebody_elses_note_has_no_attachments(
    ada: httpx.AsyncClient, bob: httpx.AsyncClient, note: str
) -> None:
    path = await attached(ada, note)
    for answer in (
        await bob.post(f"{note}/attachments", json=announcement()),
        await bob.get(f"{note}/attachments"),
        await bob.get(path),
        await bob.post(f"{path}:confirm"),
        await bob.delete(path),
    ):
        assert kind(answer) == (404, "note-not-found")
    assert (await ada.get(path)).status_code == 200


async def test_an_attachment_is_of_its_note_only(ada: httpx.AsyncClient, note: str) -> None:
    path = await attached(ada, note)
    other = (await ada.post("/v1/notes", json={"title": "Other"})).headers["Location"]
    misplaced = path.replace(note, other)
    for answer in (await ada.get(misplaced), await ada.post(f"{misplaced}:confirm"), await ada.delete(misplaced)):
        assert kind(answer) == (404, "attachment-not-found")


async def test_each_route_needs_its_scope(app: FastAPI, ada: httpx.AsyncClient, note: str) -> None:
    path = await attached(ada, note)
    async with client(app, await new_token(app, "notes:read", "notes:write")) as other:
        for answer in (
            await other.post(f"{note}/attachments", json=announcement()),
            await other.post(f"{path}:confirm"),
            await other.delete(path),
        ):
            assert kind(answer) == (403, "scope-missing")
    async with client(app, await new_token(app, "attachments:write")) as other:
        assert kind(await other.get(path)) == (403, "scope-missing")
        assert kind(await other.get(f"{note}/attachments")) == (403, "scope-missing")


async def test_what_cannot_be_attached_is_refused(ada: httpx.AsyncClient, note: str) -> None:
    for wrong in WRONG:
        answer = await ada.post(f"{note}/attachments", json=announcement() | wrong)
        assert kind(answer)[0] == 422, wrong
        assert answer.json()["errors"][0]["pointer"] == f"#/{next(iter(wrong))}"


async def test_unusual_files_are_attached(ada: httpx.AsyncClient, note: str) -> None:
    for right in UNUSUAL:
        path = await attached(ada, note, **right)
        shown = (await ada.get(path)).json()
        assert {name: shown[name] for name in right} == right
        async with httpx.AsyncClient() as anybody:
            assert (await anybody.get(shown["download"]["url"])).content == BYTES


async def test_an_empty_file_is_one(ada: httpx.AsyncClient, note: str) -> None:
    path, form = await announced(ada, note, content=b"")
    assert (await upload(form, b"")).status_code == 204
    assert (await ada.post(f"{path}:confirm")).status_code == 200


async def test_a_note_has_at_most_100(ada: httpx.AsyncClient, app: FastAPI, note: str) -> None:
    path, _ = await announced(ada, note)
    many = """
        insert into notes.attachments (note_id, name, content_type, size_bytes, sha256, object, expires_at)
        select note_id, name, content_type, size_bytes, sha256, object || n, expires_at
        from notes.attachments, generate_series(2, 100) as n
    """
    async with db.connected(app.state.pool) as connection:
        await connection.execute(many)
    refused = await ada.post(f"{note}/attachments", json=announcement())
    assert kind(refused) == (422, "invalid-request")
    assert "at most 100" in refused.json()["detail"]
    await ada.delete(path)
    assert (await ada.post(f"{note}/attachments", json=announcement())).status_code == 201


async def test_the_same_key_gives_the_same_attachment_and_a_form_that_is_good(
    ada: httpx.AsyncClient, app: FastAPI, note: str
) -> None:
    key = {"Idempotency-Key": "one"}

    async def announce() -> httpx.Response:
        return await ada.post(f"{note}/attachments", json=announcement(), headers=key)

    first = await announce()
    async with db.connected(app.state.pool) as connection:  # as if all of it were of an hour ago
        old = first.content.replace(first.json()["upload"]["expires_at"].encode(), b"2026-01-01T00:00:00Z")
        await connection.execute("update notes.idempotency_keys set body = $1", old)
    second = await announce()
    assert first.status_code == second.status_code == 201
    assert second.headers["Idempotent-Replayed"] == "true"
    assert first.json()["attachment"] == second.json()["attachment"]
    assert second.json()["upload"]["expires_at"] >= first.json()["upload"]["expires_at"]
    assert first.headers["Location"] == second.headers["Location"]
    await upload(second.json()["upload"])
    confirmed = [await ada.post(f"{first.headers['Location']}:confirm", headers=key | {"Idempotency-Key": "two"})]
    confirmed += [await ada.post(f"{first.headers['Location']}:confirm", headers={"Idempotency-Key": "two"})]
    assert [each.status_code for each in confirmed] == [200, 200]
    assert confirmed[0].json() == confirmed[1].json()
    assert (await announce()).json()["upload"]["expires_at"] == "2026-01-01T00:00:00Z", "nothing is waited for"
    assert (await ada.get(note)).json()["attachment_count"] == 1


async def test_forms_and_links_are_for_the_address_that_clients_reach(
    cluster: Cluster, database: str, bucket: str, account: Aws
) -> None:
    outside = account.endpoint_url.replace("127.0.0.1", "localhost")
    url = cluster.url("notes_app", database)
    async with (
        serving(url, HOLDFAST_ATTACHMENTS_BUCKET=bucket, HOLDFAST_ATTACHMENTS_URL=outside) as app,
        client(app, await new_token(app, *SCOPES)) as ada,
    ):
        note = (await ada.post("/v1/notes", json={"title": "Taxes"})).headers["Location"]
        path, form = await announced(ada, note)
        assert form["url"] == f"{outside}/{bucket}"
        assert (await upload(form)).status_code == 204
        await ada.post(f"{path}:confirm")
        link = (await ada.get(path)).json()["download"]["url"]
        assert link.startswith(f"{outside}/{bucket}/")
        async with httpx.AsyncClient() as anybody:
            assert (await anybody.get(link)).content == BYTES


async def test_without_a_bucket_it_is_said_which_setting_is_missing(cluster: Cluster, database: str) -> None:
    async with (
        serving(cluster.url("notes_app", database)) as app,
        client(app, await new_token(app, *SCOPES)) as ada,
    ):
        note = (await ada.post("/v1/notes", json={"title": "Taxes"})).headers["Location"]
        answer = await ada.post(f"{note}/attachments", json=announcement())
        assert kind(answer) == (503, "storage-unavailable")
        assert "HOLDFAST_ATTACHMENTS_BUCKET" in answer.json()["detail"]
        assert (await ada.get(f"{note}/attachments")).json()["items"] == []


async def test_when_the_storage_is_away_everything_else_goes_on(
    cluster: Cluster, database: str, account: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    async with (
        serving(cluster.url("notes_app", database), HOLDFAST_ATTACHMENTS_BUCKET="gone") as app,
        client(app, await new_token(app, *SCOPES)) as ada,
    ):
        note = (await ada.post("/v1/notes", json={"title": "Taxes"})).headers["Location"]
        path, _ = await announced(ada, note)  # signing asks nobody
        answer = await ada.post(f"{path}:confirm")
        assert kind(answer) == (503, "storage-unavailable")
        assert answer.headers["Retry-After"]
        assert (await ada.get(note)).status_code == 200
        assert (await ada.delete(path)).status_code == 204
