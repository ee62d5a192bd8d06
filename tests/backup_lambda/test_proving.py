"""A proof in the life of a backup: when it is made, what stops it, who hears of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from backup_lambda import backups, signing
from backup_lambda.errors import AwsUnavailable, BackupNotFound, Cancelled, DeadlineReached, NotYet
from backup_lambda.guards import KEPT_SECONDS, cancelled
from backup_lambda.lease import LAST_ATTEMPT, Lease
from backup_lambda.notices import Topic
from backup_lambda.schemas import Backup
from backup_lambda.store import S3Store, Stored
from backup_lambda.tasks import Task
from backup_lambda.worker import Worker
from tests.backup_lambda.world import Connection, Signing, World, a_long_time, until, utc_now, worker_for
from tests.servers import Cluster

THE_DUMP = "select i as id, repeat(md5(i::text), 3) as body from generate_series(1, 200) i"


@pytest.fixture(autouse=True)
async def notes(owner: Connection) -> None:
    await owner.execute(f"create table notes.notes as {THE_DUMP}; alter table notes.notes add primary key (id)")


def with_means(worker: Worker, **means: Any) -> Worker:
    return replace(worker, means=replace(worker.means, **means))


async def show(world: World, backup_id: str) -> Backup:
    return await backups.show(world.store, backup_id, utc_now)


def a_proof(backup_id: str, number: int, *, accept_suspect: bool = False) -> Task:
    return Task(task="proof", backup_id=backup_id, number=number, requested_by="ops", accept_suspect=accept_suspect)


async def made(world: World, worker: Worker) -> str:
    backup_id = await world.wish()
    await worker.back_up(backup_id, a_long_time)
    await world.notices()
    return backup_id


async def test_a_backup_is_proven_before_its_end_is_told(worker: Worker, world: World) -> None:
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    shown = await show(world, backup_id)
    assert (shown.state, shown.announced, shown.progress) == ("proven", True, None)
    proof = await world.read_json(f"backups/{backup_id}/proof/1.json")
    assert (proof["verdict"], proof["number"], proof["requested_by"], proof["rows"]) == ("proven", 1, None, 200)
    progress = await world.read_json(f"backups/{backup_id}/progress.json")
    assert (progress["task"], progress["outcome"], progress["percent"]) == ("backup", "proven", 99)
    [notice] = await world.notices()
    assert notice["MessageAttributes"]["type"]["Value"] == "backup.proven"


class Away:
    """The secret of the proof server: what it does when it is asked for the n-th time."""

    def __init__(self, url: Callable[[], Awaitable[str]], *answers: Callable[[], Awaitable[None]]) -> None:
        self._url = url
        self._answers = list(answers)

    async def __call__(self) -> str:
        if self._answers:
            await self._answers.pop(0)()
        return await self._url()


async def away() -> None:
    raise AwsUnavailable("GetSecretValue was answered ThrottlingException")


async def unforeseen() -> None:
    raise RuntimeError("the row was hunter2")


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_proof_that_aws_prevented_is_made_by_the_next_attempt(worker: Worker, world: World) -> None:
    worker = with_means(worker, proof_url=Away(worker.means.proof_url, away))
    backup_id = await world.wish()
    with pytest.raises(AwsUnavailable):
        await worker.back_up(backup_id, a_long_time)
    shown = await show(world, backup_id)
    assert (shown.state, shown.announced) == ("running", False)
    manifest = await world.read(f"backups/{backup_id}/manifest.json")
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    assert await world.read(f"backups/{backup_id}/manifest.json") == manifest
    progress = await world.read_json(f"backups/{backup_id}/progress.json")
    assert (progress["rows"], progress["checked_rows"], progress["total_rows"]) == (200, 200, 200)
    assert len(await world.notices()) == 1


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (away, AwsUnavailable, "GetSecretValue was answered ThrottlingException"),
        (unforeseen, RuntimeError, "unforeseen: RuntimeError"),
    ],
)
async def test_a_proof_that_cannot_be_made_at_the_last_attempt_is_unfinished(
    worker: Worker, world: World, answer: Any, error: type[Exception], reason: str
) -> None:
    """The backup is stored, and everybody hears that it was not proven, and why."""
    worker = with_means(worker, proof_url=Away(worker.means.proof_url, *[answer] * LAST_ATTEMPT))
    backup_id = await world.wish()
    for _ in range(LAST_ATTEMPT - 1):
        with pytest.raises(error):
            await worker.back_up(backup_id, a_long_time)
    assert await worker.back_up(backup_id, a_long_time) == "stored"
    shown = await show(world, backup_id)
    assert (shown.state, shown.reason, shown.announced) == ("stored", f"not proven: {reason}", True)
    [notice] = await world.notices()
    assert notice["MessageAttributes"]["type"]["Value"] == "backup.stored"
    assert reason in json.loads(notice["Message"])["data"]["text"]
    assert "hunter2" not in notice["Message"]


async def test_a_proof_server_that_is_away_leaves_the_backup_stored(
    world: World, cluster: Cluster, database: str
) -> None:
    worker = worker_for(world, cluster.url("notes_backup", database), "postgresql://notes_proof:hunter2@127.0.0.1:1/x")
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "stored"
    assert str((await show(world, backup_id)).reason).startswith("not proven: ")
    [notice] = await world.notices()
    assert "hunter2" not in notice["Message"]


async def test_the_time_ends_while_it_is_proven(worker: Worker, world: World) -> None:
    asked = asyncio.Event()

    async def wait() -> None:
        asked.set()
        await for_ever()

    worker = with_means(worker, proof_url=Away(worker.means.proof_url, wait))
    backup_id = await world.wish()
    ended = await worker.back_up(backup_id, lambda: KEPT_SECONDS - 1.0 if asked.is_set() else a_long_time())
    assert ended == "stored"
    reason = str((await show(world, backup_id)).reason)
    assert reason.startswith("not proven: deadline: ")
    assert "python -m backup_lambda run" in reason
    assert len(await world.notices()) == 1
    assert await worker.do(a_proof(backup_id, 2), a_long_time) == "proven"


async def cancel(world: World, backup_id: str) -> None:
    await world.write(f"backups/{backup_id}/cancel.json", {"requested_by": "arn:ops", "requested_at": utc_now()})


async def test_a_cancel_before_the_manifest_ends_the_backup(
    worker: Worker, world: World, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_lambda.guards.LOOK_AGAIN_SECONDS", 0.05)
    backup_id = await world.wish()
    async with owner.transaction():
        await owner.execute("lock table notes.notes in access exclusive mode")
        making = asyncio.create_task(worker.back_up(backup_id, a_long_time))

        async def waiting() -> bool:
            query = "select exists (select from pg_locks where not granted and relation = 'notes.notes'::regclass)"
            return bool(await owner.fetchval(query))

        await until(waiting)
        await cancel(world, backup_id)
        assert await making == "cancelled"
    shown = await show(world, backup_id)
    assert (shown.state, shown.reason, shown.announced) == ("cancelled", "cancelled by arn:ops", True)
    assert (await world.read_json(f"backups/{backup_id}/failure.json"))["outcome"] == "cancelled"
    [notice] = await world.notices()
    assert notice["MessageAttributes"]["type"]["Value"] == "backup.cancelled"


async def test_a_cancel_after_the_manifest_stops_the_proof_only(
    worker: Worker, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_lambda.guards.LOOK_AGAIN_SECONDS", 0.05)
    backup_id = await world.wish()

    async def wait() -> None:
        await cancel(world, backup_id)
        await for_ever()

    worker = with_means(worker, proof_url=Away(worker.means.proof_url, wait))
    assert await worker.back_up(backup_id, a_long_time) == "stored"
    shown = await show(world, backup_id)
    assert (shown.state, shown.reason) == ("stored", "not proven: cancelled by arn:ops")
    assert await worker.do(a_proof(backup_id, 2), a_long_time) == "proven", "it was not about later proofs"


class Flaky(S3Store):
    """A bucket that cannot be listed now and then."""

    refused = 0

    async def names(self, prefix: str) -> set[str]:
        self.refused += 1
        if self.refused % 2:
            raise AwsUnavailable("ListObjectsV2 was answered SlowDown")
        return await super().names(prefix)


async def test_a_wish_to_cancel_is_asked_for_again_when_s3_was_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_lambda.guards.LOOK_AGAIN_SECONDS", 0.01)
    backup_id = await world.wish()
    store = Flaky(world.s3, world.bucket)
    looking = asyncio.create_task(cancelled(store, f"backups/{backup_id}/"))

    async def refused() -> bool:
        return store.refused > 3

    await until(refused)
    await cancel(world, backup_id)
    with pytest.raises(Cancelled, match="cancelled by arn:ops"):
        await looking


async def test_a_later_proof_is_made_once_and_told_once(worker: Worker, world: World) -> None:
    backup_id = await made(world, worker)
    task = a_proof(backup_id, 2)
    ends = await asyncio.gather(*(worker.do(task, a_long_time) for _ in range(3)))
    assert sorted(ends) == ["left alone", "left alone", "proven"]
    [notice] = await world.notices()
    assert json.loads(notice["Message"])["subject"] == backup_id
    proof = await world.read_json(f"backups/{backup_id}/proof/2.json")
    assert (proof["verdict"], proof["requested_by"]) == ("proven", "ops")
    for late in (task, Task(task="backup", backup_id=backup_id)):
        assert await worker.do(late, a_long_time) == "left alone", "an old invocation came once more"
    assert await worker.do(a_proof(backup_id, 3), a_long_time) == "proven"
    assert await worker.do(task, a_long_time) == "left alone"
    assert len(await world.notices()) == 1


async def test_who_accepts_what_is_suspect_is_heard_beside_others(
    worker: Worker, world: World, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ask at once, and are given the same number; the other one is faster."""
    monkeypatch.setattr("backup_lambda.worker.LOOK_AGAIN_SECONDS", 0.05)
    await owner.execute("delete from notes.notes")
    backup_id = await made(world, worker)
    assert (await show(world, backup_id)).state == "suspect"
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await go_on.wait()

    slow = with_means(worker, proof_url=Away(worker.means.proof_url, wait))
    other = asyncio.create_task(slow.do(a_proof(backup_id, 2), a_long_time))
    await begun.wait()
    accepting = a_proof(backup_id, 2, accept_suspect=True)
    heard = asyncio.create_task(worker.do(accepting, a_long_time))
    with pytest.raises(DeadlineReached):  # so that Lambda comes once more
        await worker.do(accepting, lambda: KEPT_SECONDS - 1.0)
    go_on.set()
    assert list(await asyncio.gather(other, heard)) == ["suspect", "proven"]
    accepts = [(await world.read_json(f"backups/{backup_id}/proof/{n}.json"))["accepts_suspect"] for n in (2, 3)]
    assert accepts == [False, True]
    before = await world.keys(f"backups/{backup_id}/proof/")
    assert await worker.do(accepting, a_long_time) == "left alone", "it was heard"
    assert await world.keys(f"backups/{backup_id}/proof/") == before
    assert len(await world.notices()) == 2


class EndsBetweenTwoLooks(S3Store):
    """Whoever looks at `progress.json` for the n-th time sees what another worker has done just before."""

    def at(self, look: int, act: Callable[[], Awaitable[None]]) -> "EndsBetweenTwoLooks":
        self._looks_left, self._act = look, act
        return self

    async def get(self, key: str) -> Stored:
        if key.endswith("/progress.json"):
            self._looks_left -= 1
            if self._looks_left == 0:
                await self._act()
        return await super().get(key)


@pytest.mark.parametrize("look", range(1, 5))
async def test_who_accepts_what_is_suspect_is_heard_whenever_the_other_one_ends(
    worker: Worker, world: World, owner: Connection, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """Its proof is written; between two looks of ours its end is announced, too."""
    monkeypatch.setattr("backup_lambda.worker.LOOK_AGAIN_SECONDS", 0.05)
    await owner.execute("delete from notes.notes")
    backup_id = await made(world, worker)
    recorded, go_on = asyncio.Event(), asyncio.Event()

    class Late:
        async def publish(self, **notice: Any) -> None:
            recorded.set()
            await go_on.wait()
            await world.sns.publish(**notice)

    slow = replace(worker, topic=Topic(Late(), world.topic.arn))
    other = asyncio.create_task(slow.do(a_proof(backup_id, 2), a_long_time))
    await recorded.wait()

    async def end() -> None:
        go_on.set()
        assert await other == "suspect"

    store = EndsBetweenTwoLooks(world.s3, world.bucket).at(look, end)
    ours = with_means(worker, store=store)
    assert await ours.do(a_proof(backup_id, 2, accept_suspect=True), a_long_time) == "proven"
    assert (await world.read_json(f"backups/{backup_id}/proof/3.json"))["accepts_suspect"]


async def test_who_accepts_what_is_suspect_is_heard_after_others(worker: Worker, world: World) -> None:
    """The invocation comes late: others took the number, and more."""
    backup_id = await made(world, worker)
    for number in (2, 3):
        assert await worker.do(a_proof(backup_id, number), a_long_time) == "proven"
    assert await worker.do(a_proof(backup_id, 2, accept_suspect=True), a_long_time) == "proven"
    assert (await world.read_json(f"backups/{backup_id}/proof/4.json"))["accepts_suspect"]


async def test_a_record_has_a_signature_whatever_a_dead_worker_left(worker: Worker, world: World) -> None:
    backup_id = await made(world, worker)
    await world.write(f"backups/{backup_id}/proof/2.sig", "a dead worker's")
    assert await worker.do(a_proof(backup_id, 2), a_long_time) == "proven"
    ours = {signing.fingerprint(await worker.means.signer.public_key())}
    for number in (1, 2):
        body, signature = [await world.read(f"backups/{backup_id}/proof/{number}.{kind}") for kind in ("json", "sig")]
        signing.check(body, signature, ours, signing.PROOF)
    assert (await show(world, backup_id)).state == "proven"


async def test_a_later_proof_whose_worker_died_is_taken_over(worker: Worker, world: World) -> None:
    backup_id = await made(world, worker)
    dead = await Lease.take(world.store, f"backups/{backup_id}/progress.json", utc_now, "proof/2")
    assert dead
    assert await worker.do(a_proof(backup_id, 2), a_long_time) == "left alone", "it may live"
    assert await worker.do(a_proof(backup_id, 3), a_long_time) == "left alone", "one at a time"
    await world.let_die(backup_id)
    assert await worker.do(a_proof(backup_id, 2), a_long_time) == "proven"
    progress = await world.read_json(f"backups/{backup_id}/progress.json")
    assert (progress["task"], progress["attempt"]) == ("proof/2", 2)


async def test_a_backup_whose_end_nobody_told_can_be_proven(worker: Worker, world: World) -> None:
    """Its worker died in the proof, and no other attempt came."""
    backup_id = await world.wish()
    stuck = with_means(worker, proof_url=Away(worker.means.proof_url, for_ever))
    making = asyncio.create_task(stuck.back_up(backup_id, a_long_time))

    async def stored() -> bool:
        return "manifest.json" in await world.store.names(f"backups/{backup_id}/")

    await until(stored)
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    await world.lose(backup_id)
    assert await worker.do(a_proof(backup_id, 1), a_long_time) == "proven"
    assert await worker.back_up(backup_id, a_long_time) == "left alone"
    assert len(await world.notices()) == 1


async def test_what_has_no_manifest_cannot_be_proven(worker: Worker, world: World) -> None:
    with pytest.raises(BackupNotFound):
        await worker.do(a_proof("20261122T020000Z-3f9a2c1b", 1), a_long_time)
    backup_id = await world.wish()
    with pytest.raises(NotYet):
        await worker.do(a_proof(backup_id, 1), a_long_time)
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    await world.write(f"backups/{backup_id}/expired.json", {})
    with pytest.raises(NotYet):
        await worker.do(a_proof(backup_id, 2), a_long_time)


async def edited(world: World, backup_id: str, other: str) -> None:
    """Somebody takes a table out of the manifest."""
    key = f"backups/{backup_id}/manifest.json"
    await world.write(key, await world.read_json(key) | {"tables": []})


async def garbled(world: World, backup_id: str, other: str) -> None:
    await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{backup_id}/manifest.json", Body=b"\0")


async def unsigned(world: World, backup_id: str, other: str) -> None:
    await world.s3.delete_object(Bucket=world.bucket, Key=f"backups/{backup_id}/manifest.sig")


async def swapped(world: World, backup_id: str, other: str) -> None:
    """For a manifest that is signed, but is another backup's."""
    for name in ("manifest.json", "manifest.sig"):
        body = await world.read(f"backups/{other}/{name}")
        await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{backup_id}/{name}", Body=body)


@pytest.mark.parametrize("change", [edited, garbled, unsigned, swapped])
async def test_a_manifest_that_is_not_what_we_signed_is_broken(
    worker: Worker, world: World, change: Callable[[World, str, str], Awaitable[None]]
) -> None:
    other, backup_id = await made(world, worker), await made(world, worker)
    await change(world, backup_id, other)
    executed = []

    async def ask() -> str:
        executed.append(1)
        return ""

    assert await with_means(worker, proof_url=ask).do(a_proof(backup_id, 2), a_long_time) == "broken"
    assert executed == [], "what somebody else wrote is not run"
    proof = await world.read_json(f"backups/{backup_id}/proof/2.json")
    assert [each["what"] for each in proof["differences"]] == ["signature"]
    [notice] = await world.notices()
    assert notice["MessageAttributes"]["type"]["Value"] == "backup.broken"


async def test_a_key_that_was_replaced_may_still_be_trusted(worker: Worker, world: World) -> None:
    backup_id = await made(world, worker)
    signed = await world.read_json(f"backups/{backup_id}/manifest.sig")
    new = with_means(worker, signer=Signing())
    assert await with_means(new, former_keys=[signed["key"]]).do(a_proof(backup_id, 2), a_long_time) == "proven"
    assert await new.do(a_proof(backup_id, 3), a_long_time) == "broken"


async def test_a_fall_is_suspect_until_somebody_says_that_it_was_meant(
    worker: Worker, world: World, owner: Connection
) -> None:
    first = await made(world, worker)
    await owner.execute("delete from notes.notes where id > 90")
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "suspect"
    reason = f"since {first}, the last proven backup: notes.notes has 90 rows, and had 200"
    shown = await show(world, backup_id)
    assert (shown.state, shown.reason) == ("suspect", reason)
    [notice] = await world.notices()
    assert notice["MessageAttributes"]["type"]["Value"] == "backup.suspect"
    again = await world.wish()
    assert await worker.back_up(again, a_long_time) == "suspect", "it is not compared with what is suspect itself"
    assert await worker.do(a_proof(again, 2, accept_suspect=True), a_long_time) == "proven"
    assert await worker.back_up(await world.wish(), a_long_time) == "proven"
