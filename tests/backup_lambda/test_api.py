"""The API over HTTP, on a real bucket; what stands behind the gateway is in test_handler.py."""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from backup_lambda import aws, backups, routes
from backup_lambda.errors import AwsUnavailable
from backup_lambda.lease import Lease
from backup_lambda.schemas import Backup
from backup_lambda.tasks import Started, Task
from tests.backup_lambda.recorded import a_proven_backup, have_failure, have_manifest, have_progress, have_proof
from tests.backup_lambda.world import World, client_of, until, utc_now

ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
FIRST = "20261122T020000Z-3f9a2c1b"


def assert_problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    stable = kind if kind == "about:blank" else f"/problems/{kind}"
    assert (answer.status_code, problem["status"], problem["type"]) == (status, status, stable)
    assert problem["title"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


def answering(code: str, status: int) -> Callable[..., Any]:
    """For the client's `before-call` events: S3 answers with this error."""
    answer = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}

    async def refuse(**_: Any) -> tuple[SimpleNamespace, dict[str, Any]]:
        return SimpleNamespace(status_code=status), answer

    return refuse


async def test_a_backup_is_asked_for(api: httpx.AsyncClient, world: World) -> None:
    answer = await api.post("/backups", json={"label": "before the move"})
    assert answer.status_code == 202
    made = answer.json()
    assert ID.fullmatch(made["id"])
    assert answer.headers["location"] == f"backups/{made['id']}"
    assert made == {
        "id": made["id"],
        "state": "queued",
        "label": "before the move",
        "selection": None,
        "created_at": made["created_at"],
        "started_at": None,
        "ended_at": None,
        "progress": None,
        "proof": None,
        "unfinished_proof": None,
        "tables": [],
        "not_backed_up": [],
        "rows": 0,
        "bytes": 0,
        "stored_bytes": 0,
        "suspect": None,
        "reason": None,
        "manifest_sha256": None,
        "announced": False,
        "unheard": None,
        "requested_by": None,
    }
    assert world.tasks == [Task(task="backup", backup_id=made["id"])]
    assert await world.keys() == [f"backups/{made['id']}/request.json"]
    assert (await api.get(f"/backups/{made['id']}")).json() == made


async def test_the_location_resolves_against_the_gateways_address(api: httpx.AsyncClient) -> None:
    answer = await api.post("/backups", json={})
    asked = httpx.URL("http://127.0.0.1:4566/_aws/execute-api/abc/v1/backups")
    assert str(asked.join(answer.headers["location"])) == f"{asked}/{answer.json()['id']}"


async def test_the_same_key_is_the_same_backup(api: httpx.AsyncClient, world: World) -> None:
    key = {"Idempotency-Key": "run 7"}
    answers = await asyncio.gather(*(api.post("/backups", json={"label": "a"}, headers=key) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(await world.keys("backups/")) == 1
    other = await api.post("/backups", json={"label": "b"}, headers=key)
    assert_problem(other, 422, "idempotency-key-reused")
    assert (await api.post("/backups", json={"label": "a"}, headers={"Idempotency-Key": "run 8"})).json() != answers[
        0
    ].json()


async def test_a_request_that_stopped_half_way_is_completed_by_its_repetition(world: World) -> None:
    """The function may end between any two of its steps."""
    key = {"Idempotency-Key": "run 9"}

    async def lost(task: Started) -> None:
        raise AwsUnavailable("Invoke was answered ServiceException")

    async with client_of(world, lost) as api:
        assert_problem(await api.post("/backups", json={}, headers=key), 503, "aws-unavailable")
    [request] = await world.keys("backups/")
    await world.s3.delete_object(Bucket=world.bucket, Key=request)  # as if it had ended one step earlier
    async with client_of(world, world.start_worker) as api:
        again = await api.post("/backups", json={}, headers=key)
    assert again.status_code == 202
    assert await world.keys("backups/") == [request]
    assert world.started == [again.json()["id"]]


async def test_a_repetition_after_the_start_starts_nothing(api: httpx.AsyncClient, world: World) -> None:
    key = {"Idempotency-Key": "run 10"}
    made = (await api.post("/backups", json={}, headers=key)).json()
    assert await Lease.take(world.store, f"backups/{made['id']}/progress.json", utc_now)
    again = await api.post("/backups", json={}, headers=key)
    assert (again.status_code, again.json()["state"]) == (202, "running")
    assert world.started == [made["id"]]


async def test_some_tables_are_asked_for(api: httpx.AsyncClient, world: World) -> None:
    key = {"Idempotency-Key": "run 12"}
    made = (await api.post("/backups", json={"tables": ["scheduler.runs", "notes"]}, headers=key)).json()
    assert made["selection"] == ["notes.notes", "scheduler.runs"]
    asked = await world.read_json(f"backups/{made['id']}/request.json")
    assert asked["tables"] == ["notes.notes", "scheduler.runs"]
    again = await api.post("/backups", json={"tables": ["notes.notes", "scheduler.runs"]}, headers=key)
    assert again.json()["id"] == made["id"], "the same tables in other words"
    other = await api.post("/backups", json={"tables": ["notes.notes"]}, headers=key)
    assert_problem(other, 422, "idempotency-key-reused")


async def test_the_key_of_an_earlier_release_gives_the_backup_that_it_made(
    api: httpx.AsyncClient, world: World
) -> None:
    """The digest of a request is the same whatever fields were added since."""
    name = hashlib.sha256(b"run 13").hexdigest()
    record = {"backup_id": FIRST, "request_sha256": hashlib.sha256(b'{"label":"daily"}').hexdigest()}
    await world.write(f"idempotency/{name}.json", record)
    again = await api.post("/backups", json={"label": "daily"}, headers={"Idempotency-Key": "run 13"})
    assert again.json()["id"] == FIRST


async def test_who_prefers_to_wait_gets_the_end(api: httpx.AsyncClient, world: World) -> None:
    async def ends() -> bool:
        if world.started:
            await have_failure(world, world.started[0])
        return bool(world.started)

    headers = {"Prefer": "respond-async, wait=20"}
    answer, _ = await asyncio.gather(api.post("/backups", json={}, headers=headers), until(ends))
    assert (answer.status_code, answer.json()["state"]) == (200, "failed")
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.headers["location"] == f"backups/{answer.json()['id']}"


async def test_who_waits_for_a_slow_backup_is_answered_in_time(api: httpx.AsyncClient) -> None:
    answer = await api.post("/backups", json={}, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=1"


async def test_nobody_waits_longer_than_the_gateway(
    api: httpx.AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_lambda.backups.LOOK_AGAIN_SECONDS", 0)
    assert routes.MAX_WAIT_SECONDS + aws.CONFIG.connect_timeout < 29
    key = {"Idempotency-Key": "run 14", "Prefer": "wait=3600"}
    backup_id = (await api.post("/backups", json={}, headers={"Idempotency-Key": "run 14"})).json()["id"]
    await have_failure(world, backup_id)
    answer = await api.post("/backups", json={}, headers=key)
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=25")


@pytest.mark.parametrize("prefer", ["wait", "wait=", "wait=soon", "wait=-1", "nowait=5", "x=wait=5", "respond-async"])
async def test_a_preference_that_is_none_is_ignored(api: httpx.AsyncClient, prefer: str) -> None:
    answer = await api.post("/backups", json={}, headers={"Prefer": prefer})
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize("prefer", ["wait=0", 'Wait = "0"', "respond-async, wait=0; x=1", "wait=0, wait=9"])
async def test_a_preference_is_understood_as_it_may_be_written(api: httpx.AsyncClient, prefer: str) -> None:
    answer = await api.post("/backups", json={}, headers={"Prefer": prefer})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0")


async def test_a_bucket_that_is_away_while_a_client_waits_takes_no_answer_from_it(
    api: httpx.AsyncClient, world: World
) -> None:
    """Without the answer the client would ask for a second backup."""
    looks = 0

    async def away(**_: Any) -> tuple[SimpleNamespace, dict[str, Any]] | None:
        nonlocal looks
        looks += 1
        return None if looks == 1 else await answering("InternalError", 500)()

    world.s3.meta.events.register("before-call.s3.ListObjectsV2", away)
    answer = await api.post("/backups", json={}, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert looks > 1


async def test_a_backup_is_cancelled(api: httpx.AsyncClient, world: World) -> None:
    backup_id = await world.wish()
    await have_progress(world, backup_id)
    for _ in range(2):
        answer = await api.post(f"/backups/{backup_id}/cancel")
        assert answer.status_code == 202
        assert (answer.json()["state"], answer.json()["reason"]) == ("running", "it is being cancelled")
    asked = await world.read_json(f"backups/{backup_id}/cancel.json")
    assert asked.keys() == {"requested_by", "requested_at"}


async def test_what_has_ended_cannot_be_cancelled(api: httpx.AsyncClient, world: World) -> None:
    proven, failed = await a_proven_backup(world), await world.wish()
    await have_failure(world, failed)
    for backup_id, state in ((proven, "proven"), (failed, "failed")):
        problem = assert_problem(await api.post(f"/backups/{backup_id}/cancel"), 409, "backup-ended")
        assert problem["detail"] == f"It is {state}: there is nothing left to cancel."
        assert f"backups/{backup_id}/cancel.json" not in await world.keys()
    assert_problem(await api.post(f"/backups/{FIRST}/cancel"), 404, "backup-not-found")


async def test_another_proof_is_asked_for(api: httpx.AsyncClient, world: World) -> None:
    backup_id = await a_proven_backup(world)
    world.tasks.clear()
    answer = await api.post(f"/backups/{backup_id}/proofs", json={"accept_suspect": True})
    assert (answer.status_code, answer.json()) == (202, {"backup_id": backup_id, "number": 2})
    asked = httpx.URL(f"http://127.0.0.1:4566/_aws/execute-api/abc/v1/backups/{backup_id}/proofs")
    assert str(asked.join(answer.headers["location"])) == str(asked).removesuffix("/proofs")
    assert world.tasks == [Task(task="proof", backup_id=backup_id, number=2, accept_suspect=True)]

    await have_proof(world, backup_id, 10, "unfinished")
    assert (await api.post(f"/backups/{backup_id}/proofs", json={})).json()["number"] == 11
    assert world.tasks[-1] == Task(task="proof", backup_id=backup_id, number=11)


@pytest.mark.parametrize("verdict", ["broken", "unfinished"])
async def test_whatever_is_stored_may_be_proven_again(api: httpx.AsyncClient, world: World, verdict: str) -> None:
    backup_id = await world.wish()
    await have_manifest(world, backup_id, suspect="no rows")
    await have_proof(world, backup_id, 1, verdict)
    assert (await api.post(f"/backups/{backup_id}/proofs", json={})).status_code == 202


async def test_what_is_at_work_or_holds_nothing_cannot_be_proven(api: httpx.AsyncClient, world: World) -> None:
    queued, running, proving, announcing, failed, expired = [await world.wish() for _ in range(6)]
    await have_progress(world, running)
    await have_failure(world, failed)
    for each in (proving, announcing, expired):
        await have_manifest(world, each)
        await have_proof(world, each)
    await have_progress(world, proving, task="proof/2")
    await have_progress(world, announcing, passes=4)
    await world.write(f"backups/{expired}/expired.json", {})
    world.tasks.clear()
    for backup_id, said in [
        (queued, "It is queued"),
        (running, "it is running"),
        (proving, "a proof of it is being made"),
        (announcing, "a proof of it is being made"),
        (failed, "It is failed"),
    ]:
        problem = assert_problem(await api.post(f"/backups/{backup_id}/proofs", json={}), 409, "backup-not-ready")
        assert said in problem["detail"]
    assert_problem(await api.post(f"/backups/{expired}/proofs", json={}), 410, "backup-expired")
    assert_problem(await api.post(f"/backups/{FIRST}/proofs", json={}), 404, "backup-not-found")
    assert_problem(await api.post(f"/backups/{failed}/proofs", json={"accept": True}), 422, "invalid-request")
    assert world.tasks == []


@pytest.mark.parametrize(
    ("body", "headers", "where"),
    [
        ({"label": "x" * 201}, {}, "#/label"),
        ({"label": ""}, {}, "#/label"),
        ({"label": 1}, {}, "#/label"),
        ({"label": "a\nReason: forged"}, {}, "#/label"),
        ({"label": "lone \ud800"}, {}, "#/label"),
        ({"tables": []}, {}, "#/tables"),
        ({"tables": ["notes.notes", "notes"]}, {}, "#/tables"),
        ({"tables": ["notes."]}, {}, "#/tables"),
        ({"tables": [".notes"]}, {}, "#/tables"),
        ({"tables": [""]}, {}, "#/tables/0"),
        ({"tables": ["notes.\0"]}, {}, "#/tables/0"),
        ({"tables": ["n" * 128]}, {}, "#/tables/0"),
        ({"tables": [f"notes.t{i}" for i in range(201)]}, {}, "#/tables"),
        ({"tables": "notes.notes"}, {}, "#/tables"),
        ({"other": 1}, {}, "#/other"),
        ([], {}, "#"),
        ({"a/b~ü": 1}, {}, "#/a~1b~0%C3%BC"),
        ({"\ud800": 1}, {}, "#"),
        ({}, {"Idempotency-Key": ""}, "idempotency-key"),
        ({}, {"Idempotency-Key": "x" * 256}, "idempotency-key"),
        ({}, {"Idempotency-Key": "ü".encode()}, "idempotency-key"),
    ],
)
async def test_what_is_not_allowed_is_refused(
    api: httpx.AsyncClient, world: World, body: Any, headers: dict[str, Any], where: str
) -> None:
    content = json.dumps(body)
    answer = await api.post("/backups", content=content, headers={"Content-Type": "application/json", **headers})
    problem = assert_problem(answer, 422, "invalid-request")
    place = "pointer" if where.startswith("#") else "parameter"
    assert [error.keys() - {"detail"} for error in problem["errors"]] == [{place, "code"}]
    assert [error[place] for error in problem["errors"]] == [where]
    assert await world.keys() == []


async def test_problems_are_problems(api: httpx.AsyncClient) -> None:
    json_type = {"Content-Type": "application/json"}
    broken = assert_problem(await api.post("/backups", content=b"{", headers=json_type), 400, "malformed-request")
    assert [(error["pointer"], error["code"]) for error in broken["errors"]] == [("#", "json_invalid")]
    assert_problem(await api.post("/backups", content=b'"\xff"', headers=json_type), 400, "malformed-request")
    assert_problem(await api.get("/backups?limit=1"), 400, "malformed-request")
    assert_problem(await api.get("/backups/20261122T020000Z-3f9a2c1b"), 404, "backup-not-found")
    assert_problem(await api.get("/backups/..%2f..%2fidempotency"), 404, "about:blank")
    assert_problem(await api.get("/backups/nonsense"), 404, "backup-not-found")
    assert_problem(await api.get("/backups/before/20261399T020000Z-3f9a2c1b"), 422, "invalid-request")
    assert_problem(await api.get("/nothing"), 404, "about:blank")
    assert_problem(await api.get("/backups/"), 404, "about:blank")
    refused = await api.delete("/backups")
    assert_problem(refused, 405, "about:blank")
    assert set(refused.headers["allow"].split(", ")) <= {"GET", "POST"}


async def test_an_unforeseen_error_is_a_problem_that_tells_nothing(world: World) -> None:
    async def broken(task: Started) -> None:
        raise RuntimeError("the password is hunter2")

    async with client_of(world, broken) as api:
        answer = await api.post("/backups", json={})
    assert_problem(answer, 500, "internal-error")
    assert "hunter2" not in answer.text


async def test_request_ids_are_echoed_when_they_are_ids(api: httpx.AsyncClient) -> None:
    answer = await api.get("/backups", headers={"X-Request-Id": "abc-123"})
    assert answer.headers["x-request-id"] == "abc-123"
    answer = await api.get("/backups", headers={"X-Request-Id": "a b"})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_a_bucket_that_is_away_is_a_problem(api: httpx.AsyncClient, world: World) -> None:
    await world.s3.delete_bucket(Bucket=world.bucket)
    assert_problem(await api.get("/backups"), 500, "aws-refused")


async def test_pages_show_every_backup_once_newest_first(api: httpx.AsyncClient, world: World) -> None:
    """Backups of years, dense and sparse, and a folder that is none."""
    now = datetime.now(UTC)
    times = [now - timedelta(seconds=7 * i) for i in range(60)]
    times += [now - timedelta(days=i, seconds=1) for i in range(1, 120)]
    times += [now - timedelta(days=400 * i) for i in range(1, 24)]
    ids = sorted({f"{time:%Y%m%dT%H%M%SZ}-{i:08x}" for i, time in enumerate(times)}, reverse=True)
    for each in ids:
        request = {"id": each, "created_at": now, "label": None, "requested_by": None}
        await world.write(f"backups/{each}/request.json", request)
        await world.write(f"backups/{each}/data/notes.notes.json.gz", {})
    await world.write("backups/not-a-backup/request.json", {})
    shown, path, pages = [], "/backups", 0
    while path:
        page = (await api.get(path)).json()
        pages += 1
        assert page["has_more"] == (page["next_cursor"] is not None)
        assert len(page["items"]) == 100 or not page["has_more"]
        shown += [item["id"] for item in page["items"]]
        path = f"/backups/before/{page['next_cursor']}" if page["has_more"] else ""
    assert shown == ids
    assert pages == 3
    assert (await api.get(f"/backups/before/{ids[-1]}")).json() == {"items": [], "next_cursor": None, "has_more": False}


async def test_a_page_before_the_end_of_time_is_the_first(api: httpx.AsyncClient, world: World) -> None:
    backup_id = await world.wish()
    page = (await api.get("/backups/before/99991231T235959Z-aaaaaaaa")).json()
    assert [item["id"] for item in page["items"]] == [backup_id]


async def test_a_backup_that_cannot_be_read_does_not_hide_the_others(api: httpx.AsyncClient, world: World) -> None:
    whole, newer, headless, bodiless = [await world.wish() for _ in range(4)]
    await world.write(f"backups/{newer}/manifest.json", {"format": 2})
    for each in (headless, bodiless):
        await world.s3.delete_object(Bucket=world.bucket, Key=f"backups/{each}/request.json")
    await world.write(f"backups/{headless}/cancel.json", {})
    await world.write(f"backups/{bodiless}/data/notes.notes.json.gz", {})
    await world.write("backups/20260231T000000Z-00000000/data/notes.notes.json.gz", {})  # no day, so no backup
    items = (await api.get("/backups")).json()["items"]
    assert {item["id"]: (item["state"], item["reason"]) for item in items} == {
        whole: ("queued", None),
        newer: ("failed", "unreadable: manifest.json is not one that this release reads: its format is 2"),
        headless: ("failed", "unreadable: request.json is missing"),
        bodiless: ("failed", "unreadable: request.json is missing"),
    }
    problem = assert_problem(await api.get(f"/backups/{newer}"), 500, "backup-unreadable")
    assert problem["detail"] == "manifest.json is not one that this release reads: its format is 2"


async def test_a_key_that_two_requests_write_at_once_may_be_sent_again(api: httpx.AsyncClient, world: World) -> None:
    """S3 may turn both writers away; who may not list is then told 403 for the object that is not there."""
    for operation, code, status in [
        ("PutObject", "ConditionalRequestConflict", 409),
        ("GetObject", "AccessDenied", 403),
    ]:
        world.s3.meta.events.register(f"before-call.s3.{operation}", answering(code, status))
    answer = await api.post("/backups", json={}, headers={"Idempotency-Key": "run 11"})
    assert_problem(answer, 503, "aws-unavailable")


async def test_an_empty_bucket_has_an_empty_page(api: httpx.AsyncClient) -> None:
    assert (await api.get("/backups")).json() == {"items": [], "next_cursor": None, "has_more": False}


async def test_a_backup_without_an_end_is_running_or_lost(api: httpx.AsyncClient, world: World) -> None:
    """Those with a manifest are in test_states.py."""
    backup_id = await world.wish("nightly")

    async def shown() -> dict[str, Any]:
        answer: dict[str, Any] = (await api.get(f"/backups/{backup_id}")).json()
        return answer

    lease = await Lease.take(world.store, f"backups/{backup_id}/progress.json", utc_now)
    assert lease
    lease.progress.stage, lease.progress.total_rows = "copying", 200
    lease.progress.copied(100, 5000)
    await lease.renew()
    running = await shown()
    assert running["state"] == "running"
    rate = running["progress"].pop("rows_per_second")
    assert running["progress"] == {
        "stage": "copying",
        "rows": 100,
        "bytes": 5000,
        "percent": 25,
        "bytes_per_second": pytest.approx(50 * rate),
        "seconds_left": round(300 / rate),
    }

    lease.progress.reason = "PutObject was answered SlowDown"
    await lease.renew()
    assert ((await shown())["state"], (await shown())["reason"]) == ("running", "PutObject was answered SlowDown")
    lease.progress.reason = None
    await lease.renew()
    await world.let_die(backup_id)
    due = await shown()
    assert due["state"] == "running"
    assert re.fullmatch(r"its worker was not heard of since [\d:]{8} UTC; another attempt is due", due["reason"])
    await world.lose(backup_id)
    assert ((await shown())["state"], (await shown())["reason"]) == (
        "failed",
        "lost: its worker was not heard of any more",
    )

    lease = await Lease.take(world.store, f"backups/{backup_id}/progress.json", utc_now)
    assert lease
    await lease.release("PutObject was answered SlowDown")  # that was the last attempt: no other is to be expected
    lost = await shown()
    assert (lost["state"], lost["reason"]) == ("failed", "lost: PutObject was answered SlowDown")
    assert lost["ended_at"]
    assert not lost["announced"]


async def test_a_backup_shows_what_it_holds_and_that_it_is_proven(api: httpx.AsyncClient, world: World) -> None:
    foreign = {"name": "notes.far", "reason": "a foreign table: its rows are on another server"}
    backup_id = await a_proven_backup(world, not_backed_up=[foreign])
    failed_id = await world.wish()
    await have_failure(world, failed_id)
    shown = (await api.get(f"/backups/{backup_id}")).json()
    assert shown["state"] == "proven"
    assert shown["tables"] == [
        {"name": "notes.notes", "rows": 12, "bytes": 1200, "stored_bytes": 360, "sha256": "5" * 64}
    ]
    assert (shown["rows"], shown["bytes"], shown["stored_bytes"]) == (12, 1200, 360)
    assert shown["not_backed_up"] == [foreign]
    assert shown["proof"] == {
        "number": 1,
        "verdict": "proven",
        "reason": None,
        "requested_by": None,
        "started_at": "2026-11-22T02:03:00Z",
        "ended_at": "2026-11-22T02:05:00Z",
        "server": "18.1",
        "rows": 12,
        "differences": [],
        "differences_found": 0,
    }
    assert {item["id"]: item["state"] for item in (await api.get("/backups")).json()["items"]} == {
        backup_id: "proven",
        failed_id: "failed",
    }


async def test_a_backup_that_was_never_started_is_lost(world: World) -> None:
    """Lambda drops an invocation that it could not begin for an hour."""
    backup_id = await world.wish()

    async def after(minutes: int) -> Backup:
        return await backups.show(world.store, backup_id, lambda: utc_now() + timedelta(minutes=minutes))

    assert (await after(65)).state == "queued"
    lost = await after(75)
    assert (lost.state, lost.reason, lost.announced) == ("failed", "lost: it was never started", False)


async def test_the_end_is_never_taken_for_a_loss(world: World) -> None:
    """A reader that saw no manifest, and then a lease that has ended, looks again."""
    backup_id = await world.wish()
    lease = await Lease.take(world.store, f"backups/{backup_id}/progress.json", utc_now)
    assert lease
    await world.lose(backup_id)

    async def ends_now(request: Any, **_: Any) -> None:
        if request.url.endswith("/progress.json"):
            asked = await world.read_json(f"backups/{backup_id}/request.json")
            failure = {"request": asked, "reason": "the truth", "started_at": utc_now(), "ended_at": utc_now()}
            await world.write(f"backups/{backup_id}/failure.json", failure)

    world.s3.meta.events.register("before-send.s3.GetObject", ends_now)
    assert (await backups.show(world.store, backup_id, utc_now)).reason == "the truth"
