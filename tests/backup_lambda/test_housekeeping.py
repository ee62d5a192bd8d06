"""What a worker looks after when its own backup is done."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from backup_lambda import backups, housekeeping
from backup_lambda.guards import KEPT_SECONDS
from backup_lambda.lease import LAST_ATTEMPT, Lease
from backup_lambda.states import STARTED_WITHIN
from backup_lambda.tasks import Task
from backup_lambda.worker import Worker, no_end
from tests.backup_lambda.recorded import have_manifest, have_proof
from tests.backup_lambda.world import Connection, World, a_long_time, until, utc_now, worker_for
from tests.servers import Cluster

A_MONTH = timedelta(days=30)


@pytest.fixture(autouse=True)
async def notes(owner: Connection) -> None:
    await owner.execute(
        "create table notes.notes as select i as id from generate_series(1, 3) i;"
        "alter table notes.notes add primary key (id)"
    )


@pytest.fixture
def storing(world: World, cluster: Cluster, database: str) -> Worker:
    """A worker that proves nothing."""
    return worker_for(world, cluster.url("notes_backup", database))


def later(worker: Worker, after: timedelta) -> Worker:
    """The same, as much later."""

    def now() -> datetime:
        return utc_now() + after

    return replace(worker, means=replace(worker.means, now=now), reprove_after=A_MONTH)


async def told(world: World) -> dict[str, list[str]]:
    """The types of the events, by backup."""
    found: dict[str, list[str]] = {}
    for notice in await world.notices():
        found.setdefault(json.loads(notice["Message"])["subject"], []).append(
            notice["MessageAttributes"]["type"]["Value"]
        )
    return found


async def never_begun(world: World, backup_id: str) -> None:
    key = f"backups/{backup_id}/request.json"
    await world.write(key, await world.read_json(key) | {"created_at": utc_now() - STARTED_WITHIN})


async def dead_at_the_last_attempt(world: World, backup_id: str) -> None:
    for _ in range(LAST_ATTEMPT):
        assert await Lease.take(world.store, f"backups/{backup_id}/progress.json", utc_now)
        await world.let_die(backup_id)


async def dead_with_nobody_after_it(world: World, backup_id: str) -> None:
    assert await Lease.take(world.store, f"backups/{backup_id}/progress.json", utc_now)
    await world.lose(backup_id)


async def from_a_clock_far_ahead(world: World, backup_id: str) -> None:
    """That clock was set back, or its machine is gone: the lease it wrote would last for a year."""
    assert await Lease.take(world.store, f"backups/{backup_id}/progress.json", lambda: utc_now() + timedelta(days=365))


Fate = Callable[[World, str], Awaitable[None]]


@pytest.mark.parametrize(
    "fate", [never_begun, dead_at_the_last_attempt, dead_with_nobody_after_it, from_a_clock_far_ahead]
)
async def test_the_next_worker_tells_of_a_backup_that_was_lost(storing: Worker, world: World, fate: Fate) -> None:
    lost = await world.wish()
    await fate(world, lost)
    backup_id = await world.wish()
    assert await storing.back_up(backup_id, a_long_time) == "stored"
    shown = await backups.show(world.store, lost, utc_now)
    assert (shown.state, shown.announced) == ("failed", True)
    assert str(shown.reason).startswith("lost: ")
    assert (await world.read_json(f"backups/{lost}/failure.json"))["outcome"] == "failed"
    assert await told(world) == {backup_id: ["backup.stored"], lost: ["backup.failed"]}
    assert await storing.back_up(lost, a_long_time) == "left alone"
    assert await storing.back_up(await world.wish(), a_long_time) == "stored"
    assert lost not in await told(world)


async def test_a_cancelled_backup_that_never_began_ends_as_cancelled(storing: Worker, world: World) -> None:
    lost = await world.wish()
    await never_begun(world, lost)
    await world.write(f"backups/{lost}/cancel.json", {"requested_by": None, "requested_at": utc_now()})
    await storing.back_up(await world.wish(), a_long_time)
    shown = await backups.show(world.store, lost, utc_now)
    assert (shown.state, shown.announced) == ("cancelled", True)


async def no_fate(world: World, backup_id: str) -> None:
    """It was asked for just now."""


async def alive(world: World, backup_id: str) -> None:
    assert await Lease.take(world.store, f"backups/{backup_id}/progress.json", utc_now)


async def another_attempt_is_due(world: World, backup_id: str) -> None:
    await alive(world, backup_id)
    await world.let_die(backup_id)


async def given_up_by_its_worker(world: World, backup_id: str) -> None:
    lease = await Lease.take(world.store, f"backups/{backup_id}/progress.json", utc_now)
    assert lease
    await lease.release("AWS did not answer")


@pytest.mark.parametrize("fate", [no_fate, alive, another_attempt_is_due, given_up_by_its_worker])
async def test_what_may_go_on_is_left_alone(storing: Worker, world: World, fate: Fate) -> None:
    other = await world.wish()
    await fate(world, other)
    before = await world.store.etags(f"backups/{other}/")
    assert await storing.back_up(await world.wish(), a_long_time) == "stored"
    assert await world.store.etags(f"backups/{other}/") == before
    assert other not in await told(world)


async def test_a_manifest_without_a_notice_is_told(storing: Worker, worker: Worker, world: World) -> None:
    """Its worker died in the proof: it stays stored, and the record says why it was not proven."""
    lost = await world.wish()
    assert await storing.back_up(lost, a_long_time) == "stored"
    key = f"backups/{lost}/progress.json"
    await world.write(key, await world.read_json(key) | {"announced": False, "outcome": None, "attempt": LAST_ATTEMPT})
    await world.let_die(lost)
    await told(world)
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    shown = await backups.show(world.store, lost, utc_now)
    assert (shown.state, shown.announced) == ("stored", True)
    assert shown.reason == "not proven: its worker was not heard of any more"
    assert (await world.read_json(f"backups/{lost}/proof/1.json"))["verdict"] == "unfinished"
    assert await told(world) == {backup_id: ["backup.proven"], lost: ["backup.stored"]}


async def test_a_later_proof_that_was_lost_is_told(worker: Worker, world: World) -> None:
    lost = await world.wish()
    assert await worker.back_up(lost, a_long_time) == "proven"
    for _ in range(LAST_ATTEMPT):
        assert await Lease.take(world.store, f"backups/{lost}/progress.json", utc_now, "proof/2")
        await world.let_die(lost)
    await told(world)
    assert await worker.back_up(await world.wish(), a_long_time) == "proven"
    assert (await world.read_json(f"backups/{lost}/proof/2.json"))["verdict"] == "unfinished"
    assert lost in await told(world)
    assert (await backups.show(world.store, lost, utc_now)).state == "proven"


async def test_housekeeping_that_fails_changes_nothing_about_the_backup(storing: Worker, world: World) -> None:
    """One that cannot be read, one whose notice is refused: the others are told all the same."""
    unreadable, lost = await world.wish(), await world.wish()
    await world.write(f"backups/{unreadable}/progress.json", {"what": "is this"})
    await dead_at_the_last_attempt(world, lost)
    backup_id = await world.wish()
    assert await storing.back_up(backup_id, a_long_time) == "stored"
    assert await told(world) == {backup_id: ["backup.stored"], lost: ["backup.failed"]}


async def test_a_notice_that_housekeeping_could_not_send_is_sent_by_the_next(storing: Worker, world: World) -> None:
    lost = await world.wish()
    await dead_at_the_last_attempt(world, lost)
    published = 0

    async def refuse_the_second(**_: Any) -> None:
        nonlocal published
        published += 1
        if published == 2:
            raise OSError("SNS is away")

    world.sns.meta.events.register("before-send.sns.Publish", refuse_the_second)
    assert await storing.back_up(await world.wish(), a_long_time) == "stored"
    shown = await backups.show(world.store, lost, utc_now)
    assert (shown.state, shown.announced) == ("failed", False)
    await world.let_die(lost)
    assert await storing.back_up(await world.wish(), a_long_time) == "stored"
    assert (await told(world))[lost] == ["backup.failed"]


async def test_there_is_no_housekeeping_in_the_time_kept_for_the_end(storing: Worker, world: World) -> None:
    lost = await world.wish()
    await dead_at_the_last_attempt(world, lost)
    backup_id = await world.wish()
    published = False

    async def publish(**_: Any) -> None:
        nonlocal published
        published = True

    world.sns.meta.events.register("before-send.sns.Publish", publish)
    assert await storing.back_up(backup_id, lambda: KEPT_SECONDS - 1.0 if published else a_long_time()) == "stored"
    assert await told(world) == {backup_id: ["backup.stored"]}


AN_OLD_TIME = timedelta(days=31)


async def numbers(world: World) -> dict[str, list[int]]:
    """Of the proofs, by backup."""
    found: dict[str, list[int]] = {}
    for key in await world.keys("backups/"):
        _, backup_id, name = key.split("/", 2)
        if name.startswith("proof/") and name.endswith(".json"):
            found.setdefault(backup_id, []).append(int(name.removeprefix("proof/").removesuffix(".json")))
    return found


async def due(worker: Worker, world: World, after: timedelta) -> list[str]:
    """The backups to be proven, in this order."""
    listing = await housekeeping.listed(world.store)
    found = await housekeeping.due(world.store, listing, utc_now() + after, A_MONTH)
    return [each.task.backup_id for each in found]


async def a_backup(world: World) -> str:
    """Asked for in another second than the last one, so that their ids sort."""
    return await until(lambda: _later_wish(world))


async def _later_wish(world: World) -> str | None:
    before = max(await world.keys("backups/"), default="")
    backup_id = await world.wish()
    if f"backups/{backup_id}" > before:
        return backup_id
    await world.s3.delete_object(Bucket=world.bucket, Key=f"backups/{backup_id}/request.json")
    return None


async def test_what_was_never_proven_comes_first_and_then_the_oldest_proof(worker: Worker, world: World) -> None:
    storing = replace(worker, means=replace(worker.means, proves_always=False))
    made = []
    for each in (worker, storing, storing, worker):
        made.append(await a_backup(world))
        await each.back_up(made[-1], a_long_time)
    first, older, newer, last = made
    assert await due(worker, world, timedelta()) == [], "its own worker may prove it yet"
    assert await due(worker, world, timedelta(days=2)) == [newer, older]
    assert await due(worker, world, AN_OLD_TIME) == [newer, older, first, last]
    await worker.do(Task(task="proof", backup_id=first, number=2), a_long_time)
    await have_proof(world, older, 1, "unfinished")
    assert await due(worker, world, timedelta(hours=23)) == [], "it was tried"
    assert await due(worker, world, timedelta(days=2)) == [newer, older]
    await have_proof(world, older, 2, "unfinished")
    await have_proof(world, older, 3, "unfinished")
    assert await due(worker, world, timedelta(days=3)) == [newer], "less and less often"
    assert await due(worker, world, timedelta(days=5)) == [newer, older]
    await have_proof(world, last, 2, "unfinished")
    assert await due(worker, world, timedelta(days=5)) == [newer, older], "an older proof of it counts"
    await have_manifest(world, newer)
    await have_proof(world, newer, 1)
    await until(lambda: _another_second(world, newer))
    assert await due(worker, world, timedelta(days=2)) == [newer], "another manifest than the one that was proven"


async def _another_second(world: World, backup_id: str) -> bool:
    """S3 tells when an object was written in whole seconds."""
    await have_manifest(world, backup_id)
    written = {key.rpartition("/")[2]: at async for key, at in world.store.written(f"backups/{backup_id}/")}
    return written["manifest.json"] > written["1.json"]


async def test_as_many_are_proven_again_as_the_time_allows(worker: Worker, world: World) -> None:
    made = [await world.wish() for _ in range(3)]
    for backup_id in made:
        assert await worker.back_up(backup_id, a_long_time) == "proven"
    await told(world)
    young = replace(worker, reprove_after=A_MONTH)
    made.append(await world.wish())
    assert await young.back_up(made[-1], a_long_time) == "proven"
    assert len(await told(world)) == 1, "no proof is old yet"
    old = later(worker, AN_OLD_TIME)
    await old.keep_house(a_long_time)
    assert await numbers(world) == {backup_id: [1, 2] for backup_id in made}
    proof = await world.read_json(f"backups/{made[0]}/proof/2.json")
    assert (proof["verdict"], proof["requested_by"]) == ("proven", None)
    assert await told(world) == {backup_id: ["backup.proven"] for backup_id in made}


async def test_a_process_without_an_end_proves_some_and_ends(
    worker: Worker, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_lambda.worker.PROVEN_WITHOUT_END", 2)
    for _ in range(3):
        assert await worker.back_up(await world.wish(), a_long_time) == "proven"
    await later(worker, AN_OLD_TIME).keep_house(no_end)
    assert sorted((await numbers(world)).values()) == [[1], [1, 2], [1, 2]]


async def test_no_other_is_tried_when_a_proof_could_not_be_finished(
    worker: Worker, world: World, cluster: Cluster, database: str
) -> None:
    """Each would be told."""
    for _ in range(3):
        assert await worker.back_up(await world.wish(), a_long_time) == "proven"
    await told(world)
    away = worker_for(world, cluster.url("notes_backup", database), "postgresql://notes_proof@127.0.0.1:1/x")
    await later(away, AN_OLD_TIME).keep_house(a_long_time)
    assert sorted((await numbers(world)).values()) == [[1], [1], [1, 2]]
    assert len(await told(world)) == 1


async def test_what_is_proven_on_demand_is_not_proven_by_itself(worker: Worker, world: World) -> None:
    assert await worker.back_up(await world.wish(), a_long_time) == "proven"
    before = await numbers(world)
    on_demand = replace(worker, means=replace(worker.means, proves_always=False))
    await later(on_demand, AN_OLD_TIME).keep_house(a_long_time)
    assert await numbers(world) == before


@pytest.mark.parametrize("seconds", [2 * KEPT_SECONDS, KEPT_SECONDS + 1])
@pytest.mark.parametrize("proven", [True, False])
async def test_no_old_proof_is_begun_that_may_not_end(
    worker: Worker, storing: Worker, world: World, seconds: float, *, proven: bool
) -> None:
    backup_id = await world.wish()
    assert await (worker if proven else storing).back_up(backup_id, a_long_time) == ("proven" if proven else "stored")
    before = await numbers(world)
    await later(worker, AN_OLD_TIME).keep_house(lambda: seconds)
    assert await numbers(world) == before
    await later(worker, AN_OLD_TIME).keep_house(a_long_time)
    assert await numbers(world) == {backup_id: [1, 2] if proven else [1]}


async def test_what_is_broken_or_expired_is_not_proven_again(worker: Worker, world: World) -> None:
    broken, expired, fine = [await world.wish() for _ in range(3)]
    assert await worker.back_up(broken, a_long_time) == "proven"
    key = f"backups/{broken}/proof/1.json"
    await world.write(key, await world.read_json(key) | {"verdict": "broken"})
    for backup_id in (expired, fine):
        assert await worker.back_up(backup_id, a_long_time) == "proven"
    await world.write(f"backups/{expired}/expired.json", {})
    await later(worker, AN_OLD_TIME).keep_house(a_long_time)
    again = [name for name in await world.keys() if name.endswith("proof/2.json")]
    assert again == [f"backups/{fine}/proof/2.json"]


async def test_an_old_proof_that_aws_interrupts_is_tried_again_at_once(worker: Worker, world: World) -> None:
    """Nobody else would: it was no invocation of its own."""
    first = await world.wish()
    assert await worker.back_up(first, a_long_time) == "proven"
    refused = False

    async def refuse_once(request: Any, **_: Any) -> None:
        nonlocal refused
        if f"{first}/index/" in request.url and not refused:
            refused = True
            raise OSError("S3 is away")

    world.s3.meta.events.register("before-send.s3.GetObject", refuse_once)
    await later(worker, AN_OLD_TIME).keep_house(a_long_time)
    assert refused
    assert (await world.read_json(f"backups/{first}/proof/2.json"))["verdict"] == "proven"
