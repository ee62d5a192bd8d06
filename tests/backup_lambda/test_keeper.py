"""Retention by HTTP, and its keeper in the bucket: applied once, twice, too late, and while other things go on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from backup_lambda import backups, retention, signing
from backup_lambda.errors import AwsUnavailable, StalePlan
from backup_lambda.manifest import Request
from backup_lambda.retention import Policy
from backup_lambda.schemas import RetentionPlan
from backup_lambda.tasks import RetentionTask, Task
from backup_lambda.verify import verify
from backup_lambda.worker import Worker
from tests.backup_lambda.recorded import (
    have_failure,
    have_manifest,
    have_progress,
    have_proof,
)
from tests.backup_lambda.test_api import assert_problem
from tests.backup_lambda.world import SIGNER, Connection, World, a_long_time, client_of, keeper_of, utc_now, worker_for

ONE = Policy.parse("proven 1")
DATA = ["data/notes.notes.json.gz", "index/notes.notes.json.gz"]


async def a_backup(world: World, days: float, state: str = "proven", **asked: Any) -> str:
    """Of so many days ago, with data; its end was announced."""
    at = utc_now().replace(microsecond=0) - timedelta(days=days)
    backup_id = f"{at:%Y%m%dT%H%M%SZ}-{len(world.tasks):08x}"
    world.tasks.append(Task(task="backup", backup_id=backup_id))
    request = Request(id=backup_id, created_at=at, requested_by=None, **{"label": None} | asked)
    await world.write(f"backups/{backup_id}/request.json", request.model_dump(mode="json"))
    for name in DATA:
        await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{backup_id}/{name}", Body=b"rows")
    if state in ("failed", "cancelled"):
        await have_failure(world, backup_id, outcome=state)
    else:
        await have_manifest(world, backup_id, suspect="no rows" if state == "suspect" else None)
        if state in ("proven", "broken"):
            await have_proof(world, backup_id, 1, state)
    await have_progress(world, backup_id, announced=True, passes=4, outcome=state)
    await sign(world, backup_id)
    return backup_id


async def sign(world: World, backup_id: str) -> None:
    """What there is of manifest and proofs."""
    for name in await names(world, backup_id):
        if name == "manifest.json" or (name.startswith("proof/") and name.endswith(".json")):
            heading = signing.MANIFEST if name == "manifest.json" else signing.PROOF
            body = await world.read(f"backups/{backup_id}/{name}")
            signature = await signing.signature_of(SIGNER, body, heading)
            key = f"backups/{backup_id}/{name.removesuffix('.json')}.sig"
            await world.s3.put_object(Bucket=world.bucket, Key=key, Body=signature)


@asynccontextmanager
async def ruled_by(
    world: World, policy: Policy, now: Callable[[], datetime] = utc_now
) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(world, world.start_worker, policy=policy, now=now) as client:
        yield client


async def plan_of(api: httpx.AsyncClient) -> RetentionPlan:
    answer = await api.get("/retention")
    assert answer.status_code == 200, answer.text
    return RetentionPlan.model_validate_json(answer.content)


async def applied(api: httpx.AsyncClient) -> dict[str, Any]:
    answer = await api.post("/retention", json={"digest": (await plan_of(api)).digest})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def names(world: World, backup_id: str) -> set[str]:
    return {key.removeprefix(f"backups/{backup_id}/") for key in await world.keys(f"backups/{backup_id}/")}


async def test_a_plan_is_applied_and_then_nothing_is_left_to_do(world: World) -> None:
    """Data goes; everything that tells of the backup stays, and more is told."""
    old, newest, failed = await a_backup(world, 3), await a_backup(world, 1), await a_backup(world, 2, "failed")
    labelled, expired = await a_backup(world, 9, label="before the move"), await a_backup(world, 8)
    await world.write(f"backups/{expired}/expired.json", {})
    for name in DATA:
        await world.s3.delete_object(Bucket=world.bucket, Key=f"backups/{expired}/{name}")
    before = {each: await names(world, each) for each in (old, newest, failed, labelled, expired)}
    later = utc_now() + timedelta(days=1, minutes=1)
    async with ruled_by(world, Policy.parse("labelled, proven 1"), lambda: later) as api:
        plan = await plan_of(api)
        assert [(each.backup_id, each.action, each.reasons) for each in plan.items] == [
            (newest, "keep", ["the newest proven one"]),
            (failed, "clean", ["failed: what it left is of no use"]),
            (old, "expire", ["no rule keeps it"]),
            (labelled, "keep", ["labelled"]),
        ]
        assert (plan.keep, plan.expire, plan.clean, plan.stored_bytes_freed) == (2, 1, 1, 360 + 8)
        assert (plan.policy, plan.made_at) == ("labelled, proven 1", later)
        assert (await plan_of(api)).digest == plan.digest
        answer = await api.post("/retention", json={"digest": plan.digest})
        assert answer.json() == {
            "digest": plan.digest,
            "complete": True,
            "expired": [old],
            "cleaned": [failed],
            "left": {},
            "objects_deleted": 4,
        }
        assert await names(world, old) == before[old] - {*DATA} | {"expired.json", "expired.sig"}
        assert await names(world, failed) == before[failed] - {*DATA}
        for each in (newest, labelled, expired):
            assert await names(world, each) == before[each]

        again = await plan_of(api)
        assert (again.expire, again.clean, [each.backup_id for each in again.items]) == (0, 0, [newest, labelled])
        assert_problem(await api.post("/retention", json={"digest": plan.digest}), 409, "stale-plan")
        assert (await applied(api))["objects_deleted"] == 0

        shown = (await api.get(f"/backups/{old}")).json()
        assert (shown["state"], shown["reason"], shown["rows"]) == ("expired", "retention removed its data", 12)
        assert_problem(await api.get(f"/backups/{old}/tables/notes"), 410, "backup-expired")
        assert_problem(await api.post(f"/backups/{old}/proofs", json={}), 410, "backup-expired")
    said = await world.read_json(f"backups/{old}/expired.json")
    assert {key: said[key] for key in ("backup_id", "digest", "policy", "reasons", "requested_by")} == {
        "backup_id": old,
        "digest": plan.digest,
        "policy": plan.policy,
        "reasons": ["no rule keeps it"],
        "requested_by": None,
    }
    body, signature = [await world.read(f"backups/{old}/expired.{kind}") for kind in ("json", "sig")]
    signing.check(body, signature, {signing.fingerprint(await SIGNER.public_key())}, signing.EXPIRY)


async def test_what_names_no_plan_is_refused(api: httpx.AsyncClient) -> None:
    for body in ({}, {"digest": "0"}, {"digest": "0" * 64, "force": True}):
        assert_problem(await api.post("/retention", json=body), 422, "invalid-request")


async def newer(world: World, old: str) -> None:
    """It takes the place of the newest one, which then expires, too."""
    await a_backup(world, 0)


async def proven_meanwhile(world: World, old: str) -> None:
    await have_progress(world, old, task="proof/2")


async def restored_meanwhile(world: World, old: str) -> None:
    await a_restore(world, old)


async def found_broken(world: World, old: str) -> None:
    """The newest one: the other is the only one that is left."""
    [_, newest] = sorted({key.split("/")[1] for key in await world.keys("backups/")})
    await have_proof(world, newest, 2, "broken")


async def a_restore(world: World, backup_id: str, **progress: Any) -> str:
    """One that runs, unless its `progress` says otherwise."""
    restore_id = f"{utc_now():%Y%m%dT%H%M%SZ}-{len(await world.keys('restores/')):08x}"
    await world.write(f"restores/{restore_id}/request.json", {"id": restore_id, "backup_id": backup_id})
    values = {"owner": "a worker", "started_at": utc_now(), "updated_at": utc_now()}
    values["lease_until"] = utc_now() + timedelta(seconds=40)
    await world.write(f"restores/{restore_id}/progress.json", values | progress)
    return restore_id


@pytest.mark.parametrize("happens", [newer, proven_meanwhile, restored_meanwhile, found_broken])
async def test_an_old_plan_is_refused(world: World, happens: Any) -> None:
    old, _ = await a_backup(world, 3), await a_backup(world, 1)
    async with ruled_by(world, ONE) as api:
        plan = await plan_of(api)
        assert plan.expire == 1
        await happens(world, old)
        before = await world.keys("backups/")
        problem = assert_problem(await api.post("/retention", json={"digest": plan.digest}), 409, "stale-plan")
        assert "GET /retention again" in problem["detail"]
        with pytest.raises(StalePlan):
            await keeper_of(world, ONE).apply(RetentionTask(digest=plan.digest), a_long_time)
        assert await world.keys("backups/") == before


async def test_a_keeper_with_another_policy_applies_nothing(world: World) -> None:
    await a_backup(world, 3), await a_backup(world, 1)
    plan = await retention.plan(world.store, ONE, utc_now)
    with pytest.raises(StalePlan):
        await keeper_of(world, Policy.parse("proven 1, last 1")).apply(RetentionTask(digest=plan.digest), a_long_time)


async def test_with_all_newer_ones_broken_the_last_proven_one_stays(world: World) -> None:
    proven, older = await a_backup(world, 200), await a_backup(world, 201)
    broken = [await a_backup(world, days, "broken") for days in (1, 40, 80)]
    async with ruled_by(world, ONE) as api:
        assert (await applied(api))["expired"] == [older]
        newest = await a_backup(world, 0)
        result = await applied(api)
    assert result["expired"] == [proven, broken[2], broken[1]], "oldest first"
    assert not {*DATA} - await names(world, newest)
    assert not {*DATA} - await names(world, broken[0])


async def test_what_is_at_work_or_cannot_be_read_is_kept_and_says_why(world: World) -> None:
    lost, running, unreadable, torn = [await a_backup(world, days, "stored") for days in (40, 41, 42, 43)]
    restored, had_back, given_up = [await a_backup(world, days) for days in (50, 51, 52)]
    newest, proving = await a_backup(world, 1), await a_backup(world, 60)
    for name in ("manifest.json", "manifest.sig", "proof/1.json", "progress.json"):
        await world.store.delete([f"backups/{each}/{name}" for each in (lost, running)])
    await have_progress(world, running)
    await world.write(f"backups/{unreadable}/manifest.json", {"format": 2})
    await world.store.delete([f"backups/{torn}/manifest.json"])
    await have_progress(world, proving, task="proof/2")
    restore_id = await a_restore(world, restored)
    done = await a_restore(world, had_back)
    await world.write(f"restores/{done}/result.json", {})
    await a_restore(world, given_up, lease_until=utc_now() - timedelta(hours=1))
    plan = await retention.plan(world.store, ONE, utc_now)
    assert {each.backup_id: each.reasons for each in plan.items if each.action == "keep"} == {
        newest: ["the newest proven one"],
        running: ["it is running"],
        unreadable: ["it cannot be judged: manifest.json is not one that this release reads: its format is 2"],
        torn: ["it cannot be judged: it was stored once, and its manifest is missing"],
        restored: [f"{restore_id} restores it"],
        proving: ["a worker is busy with it, or due"],
        lost: ["failed, and not a day ago"],
    }
    assert {each.backup_id for each in plan.items if each.action == "expire"} == {had_back, given_up}


async def test_a_plan_costs_little(world: World) -> None:
    for days in range(3):
        await a_backup(world, days)
    for days in range(10, 15):
        old = await a_backup(world, days)
        await world.write(f"backups/{old}/expired.json", {})
        await world.store.delete([f"backups/{old}/{name}" for name in DATA])
    sent: list[str] = []

    async def count(request: Any, **_: Any) -> None:
        sent.append(request.url)

    world.s3.meta.events.register("before-send.s3", count)
    assert len((await retention.plan(world.store, ONE, utc_now)).items) == 3
    assert len(sent) == 2 + 3 * 3, "two listings, and three requests for each that has data"


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("operation", ["PutObject", "DeleteObjects", "ListObjectsV2", "GetObject"])
async def test_a_keeper_killed_at_any_step_leaves_what_the_next_plan_ends(world: World, operation: str) -> None:
    """Before each request of a kind. At any moment the backup has its data, or is said, and signed, to have expired."""
    old, newest = await a_backup(world, 3), await a_backup(world, 1)
    left, alive, killed = 0, False, 0

    async def die(request: Any, **_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0 and not alive:
            raise Killed

    world.s3.meta.events.register(f"before-send.s3.{operation}", die)
    for requests in range(100):
        alive = True
        there = await names(world, old)
        assert {*DATA} <= there or {"expired.json", "expired.sig"} <= there
        plan = await retention.plan(world.store, ONE, utc_now)
        left, alive = requests, False
        try:
            await keeper_of(world, ONE).apply(RetentionTask(digest=plan.digest), a_long_time)
            break
        except Killed:
            killed += 1
    alive = True
    assert killed
    there = await names(world, old)
    assert not {*DATA} & there
    assert {"expired.json", "expired.sig"} <= there
    assert {*DATA} <= await names(world, newest)
    assert (await retention.plan(world.store, ONE, utc_now)).keep == 1
    assert await of_expiry(world) == []


async def of_expiry(world: World) -> list[tuple[str, str]]:
    """What verify finds about expired backups: the manifests of these tests are not signed, and that is not asked."""
    trusted = {signing.fingerprint(await SIGNER.public_key())}
    findings = (await verify(world.store, trusted, read_data=False)).findings
    return [(each.backup_id, each.object) for each in findings if each.object.startswith("expired.")]


async def test_what_a_dead_keeper_left_is_cleaned_only_if_it_was_signed(world: World) -> None:
    """Whoever may write objects must not bring the keeper to delete data."""
    old, forged = await a_backup(world, 3), await a_backup(world, 2)
    newest = await a_backup(world, 1)

    async def die(**_: Any) -> None:
        raise Killed

    world.s3.meta.events.register("before-send.s3.DeleteObjects", die)
    two = Policy.parse("last 2, proven 1")
    plan = await retention.plan(world.store, two, utc_now)
    with pytest.raises(Killed):
        await keeper_of(world, two).apply(RetentionTask(digest=plan.digest), a_long_time)
    world.s3.meta.events.unregister("before-send.s3.DeleteObjects", die)
    for kind in ("json", "sig"):
        body = await world.read(f"backups/{old}/expired.{kind}")
        await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{forged}/expired.{kind}", Body=body)
    async with ruled_by(world, ONE) as api:
        plan = await plan_of(api)
        assert (plan.clean, plan.keep, plan.stored_bytes_freed) == (2, 1, 16)
        result = await applied(api)
    assert (result["expired"], result["cleaned"], result["complete"]) == ([], [old], True)
    assert result["left"] == {forged: "expired.json is not signed by this keeper's key: find out who wrote it"}
    assert {*DATA} <= await names(world, forged) & await names(world, newest)
    assert await of_expiry(world) == [(forged, "expired.json")]


async def test_the_time_ends_before_the_plan_does(world: World) -> None:
    oldest, old, _ = [await a_backup(world, days) for days in (9, 8, 1)]
    plan = await retention.plan(world.store, ONE, utc_now)
    seconds = iter([900.0, 900.0, 4.0])
    result = await keeper_of(world, ONE).apply(RetentionTask(digest=plan.digest), lambda: next(seconds))
    assert (result.complete, result.expired) == (False, [oldest])
    again = await retention.plan(world.store, ONE, utc_now)
    assert [each.backup_id for each in again.items if each.action != "keep"] == [old]
    with pytest.raises(AwsUnavailable, match="the plan could not be made in time: nothing was done"):
        await keeper_of(world, ONE).apply(RetentionTask(digest=again.digest), lambda: 0.0)


async def test_two_keepers_at_once_remove_the_same(world: World) -> None:
    old = [await a_backup(world, days) for days in range(5, 1, -1)]
    await a_backup(world, 1)
    plan = await retention.plan(world.store, ONE, utc_now)
    task = RetentionTask(digest=plan.digest)
    both = await asyncio.gather(
        *(keeper_of(world, ONE).apply(task, a_long_time) for _ in range(2)), return_exceptions=True
    )
    assert all(not isinstance(each, BaseException) or isinstance(each, AwsUnavailable | StalePlan) for each in both)
    plan = await retention.plan(world.store, ONE, utc_now)
    await keeper_of(world, ONE).apply(RetentionTask(digest=plan.digest), a_long_time)
    for each in old:
        assert not {*DATA} & await names(world, each)
    assert await of_expiry(world) == []


async def test_what_s3_did_not_delete_is_named(world: World) -> None:
    left = [await a_backup(world, days) for days in (4, 3)]
    await a_backup(world, 1)
    said = {"Errors": [{"Key": "k", "Code": "AccessDenied"}], "ResponseMetadata": {"HTTPStatusCode": 200}}

    async def refuse(**_: Any) -> tuple[SimpleNamespace, dict[str, Any]]:
        return SimpleNamespace(status_code=200), said

    world.s3.meta.events.register("before-call.s3.DeleteObjects", refuse)
    async with ruled_by(world, ONE) as api:
        plan = await plan_of(api)
        done = (await api.post("/retention", json={"digest": plan.digest})).json()
    assert done["left"] == dict.fromkeys(left, "DeleteObjects was answered AccessDenied for k")
    assert (done["complete"], done["objects_deleted"]) == (False, 0)


async def test_nothing_is_deleted_for_the_sake_of_what_was_not_signed(world: World) -> None:
    """Whoever may write objects, and has no key, makes up newer backups, or takes the data of newer ones away."""
    true, hollow = await a_backup(world, 9), await a_backup(world, 2)
    await world.store.delete([f"backups/{hollow}/{DATA[0]}"])
    async with ruled_by(world, ONE) as api:
        plan = await plan_of(api)
        assert {each.backup_id: each.action for each in plan.items} == {hollow: "keep", true: "keep"}
        forged = await a_backup(world, 1)
        await world.store.delete([f"backups/{forged}/proof/1.sig"])
        plan = await plan_of(api)
        assert plan.expire == 1
        told = assert_problem(await api.post("/retention", json={"digest": plan.digest}), 409, "plan-refused")
    assert forged in told["detail"]
    assert {*DATA} <= await names(world, true)


async def test_more_objects_than_s3_deletes_at_once_are_deleted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backup_lambda.store.DELETED_AT_ONCE", 5)
    keys = [f"backups/x/data/{number}" for number in range(11)]
    await asyncio.gather(*(world.s3.put_object(Bucket=world.bucket, Key=key, Body=b"") for key in [*keys, "stays"]))
    await world.store.delete([*keys, "never/there"])
    assert await world.keys() == ["stays"]


# What runs at the same time.


async def once(world: World, operation: str, ending: str, happens: Callable[[], Awaitable[object]]) -> None:
    """Let it happen right before the first request of this kind for an object with such a name."""
    waiting = True

    async def before(request: Any, **_: Any) -> None:
        nonlocal waiting
        if waiting and request.url.partition("?")[0].endswith(ending):
            waiting = False
            await happens()

    world.s3.meta.events.register(f"before-send.s3.{operation}", before)


@pytest.mark.parametrize("begins", ["proof", "restore"])
async def test_what_begins_while_a_backup_expires_keeps_its_data_for_now(world: World, begins: str) -> None:
    """It may have looked before expired.json was there."""
    old, _ = await a_backup(world, 3), await a_backup(world, 1)

    async def begin() -> None:
        await (have_progress(world, old, task="proof/2") if begins == "proof" else a_restore(world, old))

    await once(world, "PutObject", "expired.json", begin)
    async with ruled_by(world, ONE) as api:
        result = await applied(api)
        assert (result["complete"], result["expired"], [*result["left"]]) == (True, [old], [old])
        assert {*DATA} <= await names(world, old)
        plan = await plan_of(api)
        assert (plan.expire, plan.clean, plan.items[-1].reasons) == (0, 0, [result["left"][old]])
        if begins == "proof":
            await have_progress(world, old, task="proof/2", announced=True)
        else:
            [request] = [key for key in await world.keys("restores/") if key.endswith("request.json")]
            await world.write(request.replace("request", "result"), {})
        assert (await applied(api))["cleaned"] == [old]
    assert not {*DATA} & await names(world, old)


@pytest.mark.parametrize(
    ("operation", "ending"), [("PutObject", "progress.json"), ("GetObject", "data/notes.notes.json.gz")]
)
async def test_a_proof_whose_backup_expires_meanwhile_says_nothing_about_it(
    world: World, worker: Worker, owner: Connection, operation: str, ending: str
) -> None:
    """It had looked before the keeper did, or was silent for longer than its lease: never is a backup called broken."""
    await owner.execute("create table notes.notes (id int primary key); insert into notes.notes values (1), (2)")
    old = await world.wish()
    assert await worker.back_up(old, a_long_time) == "proven"
    await a_backup(world, -0.001)
    await world.notices()

    async def expire() -> None:
        progress = await world.read(f"backups/{old}/progress.json")
        await world.lose(old)
        plan = await retention.plan(world.store, ONE, utc_now)
        result = await keeper_of(world, ONE).apply(RetentionTask(digest=plan.digest), a_long_time)
        assert (result.expired, result.left) == ([old], {})
        await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{old}/progress.json", Body=progress)

    await once(world, operation, f"{old}/{ending}", expire)
    assert await worker.do(Task(task="proof", backup_id=old, number=2), a_long_time) == "expired"
    backup = await backups.show(world.store, old, utc_now)
    assert (backup.state, backup.proof and backup.proof.verdict, backup.progress) == ("expired", "proven", None)
    assert not {"proof/2.json", "proof/2.sig"} & await names(world, old)
    assert await world.notices() == []
    trusted = {signing.fingerprint(await SIGNER.public_key())}
    findings = (await verify(world.store, trusted, read_data=True)).findings
    assert [each for each in findings if each.backup_id == old] == []


async def test_retention_while_a_backup_and_its_proofs_run_touches_neither(
    world: World, worker: Worker, owner: Connection
) -> None:
    """Before everything that is written, there is a plan, and it is applied."""
    await owner.execute("create table notes.notes (id int primary key); insert into notes.notes values (1), (2)")
    old, before = await a_backup(world, 3), await a_backup(world, 2)
    seen, busy = set[str](), False

    async def retain(**_: Any) -> None:
        nonlocal busy
        if not busy:
            busy = True
            plan = await retention.plan(world.store, ONE, utc_now)
            await keeper_of(world, ONE).apply(RetentionTask(digest=plan.digest), a_long_time)
            seen.update(reason for each in plan.items for reason in each.reasons)
            busy = False

    world.s3.meta.events.register("before-send.s3.PutObject", retain)
    running = await world.wish()
    assert await worker.back_up(running, a_long_time) == "proven"
    assert await worker.do(Task(task="proof", backup_id=running, number=2), a_long_time) == "proven"
    assert {"it is queued", "it is running", "a worker is busy with it, or due", "the newest proven one"} <= seen
    assert {*DATA, "proof/2.json"} <= await names(world, running)
    assert [(await backups.show(world.store, each, utc_now)).state for each in (old, before)] == ["expired", "expired"]


async def test_a_proof_that_died_with_its_backup_is_ended_in_silence(world: World) -> None:
    old = await a_backup(world, 1)
    await world.write(f"backups/{old}/expired.json", {})
    ago = utc_now() - timedelta(hours=1)
    await have_progress(world, old, task="proof/2", started_at=ago, updated_at=ago, lease_until=ago)
    await worker_for(world, "nonsense").keep_house(a_long_time)
    progress = await world.read_json(f"backups/{old}/progress.json")
    assert (progress["announced"], progress["outcome"]) == (True, "expired")
    assert await world.notices() == []
