"""What somebody else wrote into the bucket keeps no backup from its end, no notice back, and no loss hidden."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from backup_lambda import backups, history, housekeeping, mail, suspect
from backup_lambda.errors import InvalidRequest, NotYet
from backup_lambda.history import LOOKED_THROUGH
from backup_lambda.manifest import Request
from backup_lambda.objects import LAST_NUMBER
from backup_lambda.schemas import BackupIn, ProofIn
from backup_lambda.states import STARTED_WITHIN
from backup_lambda.worker import Worker
from tests.backup_lambda.recorded import a_proof, a_proven_backup, have_failure, have_manifest, have_proof
from tests.backup_lambda.world import Connection, World, a_long_time, until, utc_now

ANCIENT = "00010101T000000Z-00000000"
NOTES = "create table notes.notes (id int primary key); insert into notes.notes select generate_series(1, 3)"


@pytest.fixture
async def notes(owner: Connection) -> None:
    await owner.execute(NOTES)


async def garble(world: World, key: str) -> None:
    await world.s3.put_object(Bucket=world.bucket, Key=key, Body=b"{}")


@pytest.mark.parametrize("name", [ANCIENT, "19991231T235959Z-00000000", "99999999T999999Z-00000000", "~"])
@pytest.mark.usefixtures("notes")
async def test_what_is_no_id_is_no_backup(world: World, worker: Worker, api: httpx.AsyncClient, name: str) -> None:
    await world.write(f"backups/{name}/x", {})
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    listed = await api.get("/backups")
    assert listed.status_code == 200
    assert [each["id"] for each in listed.json()["items"]] == [backup_id]


async def test_backups_of_all_times_are_listed(world: World) -> None:
    ids = [f"{year}0101T000000Z-00000000" for year in (2000, 2026, 9999)]
    for each in ids:
        await world.write(f"backups/{each}/x", {})
    for year in (1, 2026, 2999):  # whatever the clock says

        def now(year: int = year) -> datetime:
            return utc_now().replace(year=year, month=1, day=2)

        assert await history.newest(world.store, 10, None, now) == ids[::-1]
        assert await history.newest(world.store, 10, ids[1], now) == ids[:1]
    with pytest.raises(InvalidRequest):
        await history.newest(world.store, 10, ANCIENT, utc_now)


@pytest.mark.parametrize("harm", ["it fails", "it hangs"])
async def test_no_notice_is_held_back_for_the_newest_proven_one(
    world: World, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    monkeypatch.setattr("backup_lambda.backups.PROVEN_WITHIN_SECONDS", 0.2)
    failed = await world.wish()
    await have_failure(world, failed)

    async def harmed(request: Any, **_: Any) -> None:
        if "delimiter" in request.url:  # the history is listed
            if harm == "it fails":
                raise OverflowError("date value out of range")
            await asyncio.Event().wait()

    world.s3.meta.events.register("before-send.s3.ListObjectsV2", harmed)
    ending = await backups.ending(world.store, failed, None, utc_now)
    assert (ending.kind, ending.newest_proven, ending.newest_proven_known) == ("backup.failed", None, False)
    assert "could not be asked" in mail.text_of(ending)
    assert "There is NO proven backup" not in mail.text_of(ending)


async def test_only_the_newest_backups_are_looked_through(world: World) -> None:
    proven = await a_proven_backup(world)
    lists = 0

    async def count(request: Any, **_: Any) -> None:
        nonlocal lists
        lists += 1

    world.s3.meta.events.register("before-send.s3.ListObjectsV2", count)

    async def newest_proven() -> str | None:
        nonlocal lists
        lists = 0
        found = await history.newest_proven(world.store, utc_now)
        return found.id if found else None

    later = [history.new_id(utc_now() + timedelta(minutes=n + 1)) for n in range(LOOKED_THROUGH)]
    await asyncio.gather(*[world.write(f"backups/{each}/manifest.json", {}) for each in later[1:]])
    assert await newest_proven() == proven
    await world.write(f"backups/{later[0]}/manifest.json", {})
    assert await newest_proven() is None
    assert lists < LOOKED_THROUGH + 30
    failed = await world.wish()
    await have_failure(world, failed)
    told = mail.text_of(await backups.ending(world.store, failed, None, utc_now))
    assert f"There is NO proven backup among the newest {LOOKED_THROUGH}" in told


async def test_a_full_backup_is_measured_against_a_full_one(world: World, worker: Worker, owner: Connection) -> None:
    """A partial one in between, which has not the table that lost its rows, hides nothing."""
    await owner.execute(
        f"{NOTES}; create table notes.tags (id int primary key); insert into notes.tags select generate_series(1, 500)"
    )
    full = await world.wish()
    assert await worker.back_up(full, a_long_time) == "proven"

    async def partial(table: str) -> tuple[str, str]:
        async def later() -> bool:
            return utc_now() > history.time_of(full) + timedelta(seconds=2)

        await until(later)
        asked = BackupIn(tables=[table])
        made = await backups.request(world.store, world.start_worker, asked, key=None, requested_by=None, now=utc_now)
        return made.id, await worker.back_up(made.id, a_long_time)

    assert (await partial("notes.notes"))[1] == "proven"
    await owner.execute("delete from notes.tags where id > 3")
    assert (await partial("notes.tags"))[1] == "suspect"
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "suspect"
    assert f"since {full}" in (await world.read_json(f"backups/{backup_id}/manifest.json"))["suspect"]


@pytest.mark.parametrize(
    ("before", "asked", "comparable"),
    [
        (None, None, True),
        (None, ["n.a"], True),
        (["n.a"], None, False),
        (["n.a"], ["n.a"], True),
        (["n.a", "n.b"], ["n.a"], True),
        (["n.a"], ["n.a", "n.b"], False),
    ],
)
def test_what_can_be_measured_against_what(before: list[str] | None, asked: list[str] | None, comparable: bool) -> None:
    request = Request(id="x", created_at=utc_now(), label=None, requested_by=None, tables=before)
    assert suspect.comparable(request, asked) is comparable


FOREIGN: dict[str, Any] = {
    "no progress": {},
    "a task that there is not": {"task": "proof/0"},
    "a time without a zone": {"lease_until": "2020-01-01T00:00:00"},
    "announced, and nothing ended": {"announced": True, "outcome": "proven"},
    "a proof announced, and nothing ended": {"announced": True, "outcome": "proven", "task": "proof/7"},
}


async def have_foreign_progress(world: World, backup_id: str, kind: str) -> None:
    now = utc_now()
    values = {"owner": "x", "started_at": now, "updated_at": now, "lease_until": now} | FOREIGN[kind]
    await world.write(f"backups/{backup_id}/progress.json", values if FOREIGN[kind] else {})


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.usefixtures("notes")
async def test_a_lease_that_no_worker_wrote_is_taken(world: World, worker: Worker, kind: str) -> None:
    backup_id = await world.wish()
    await have_foreign_progress(world, backup_id, kind)
    assert (await backups.show(world.store, backup_id, utc_now)).state in ("queued", "failed")
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    assert len(await world.notices()) == 1
    assert await worker.back_up(backup_id, a_long_time) == "left alone"


@pytest.mark.usefixtures("notes")
async def test_a_lease_that_is_damaged_in_the_middle_is_kept(world: World, worker: Worker) -> None:
    backup_id = await world.wish()
    damaged = False

    async def damage(request: Any, **_: Any) -> None:
        nonlocal damaged
        if "/index/" in request.url and not damaged:
            damaged = True
            await garble(world, f"backups/{backup_id}/progress.json")

    world.s3.meta.events.register("before-send.s3.PutObject", damage)
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    assert damaged


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.usefixtures("notes")
async def test_the_sweep_tells_of_a_lost_backup_whatever_its_progress_says(
    world: World, worker: Worker, kind: str
) -> None:
    lost = await world.wish()
    key = f"backups/{lost}/request.json"
    await world.write(key, await world.read_json(key) | {"created_at": utc_now() - STARTED_WITHIN})
    await have_foreign_progress(world, lost, kind)
    await worker.keep_house(a_long_time)
    shown = await backups.show(world.store, lost, utc_now)
    assert (shown.state, shown.announced) == ("failed", True)
    assert len(await world.notices()) == 1
    await worker.keep_house(a_long_time)
    assert await world.notices() == []


@pytest.mark.usefixtures("notes")
async def test_a_proof_that_cannot_be_read_stops_no_other(world: World, worker: Worker) -> None:
    damaged, other = await world.wish(), await world.wish()
    for each in (damaged, other):
        assert await worker.back_up(each, a_long_time) == "proven"
    await garble(world, f"backups/{damaged}/proof/1.json")
    month = timedelta(days=30)
    found = await housekeeping.due(world.store, await housekeeping.listed(world.store), utc_now() + 2 * month, month)
    assert other in [each.task.backup_id for each in found]
    again = replace(worker, reprove_after=month)
    now = again.means.now
    again = replace(again, means=replace(again.means, now=lambda: now() + 2 * month))
    await again.keep_house(a_long_time)
    assert f"backups/{other}/proof/2.json" in await world.keys("backups/")


async def test_a_copied_proof_does_not_count(world: World) -> None:
    proven, backup_id = await a_proven_backup(world), await world.wish()
    sha256 = await have_manifest(world, backup_id)
    theirs = a_proof(proven, 1, manifest_sha256=sha256)
    await world.write(f"backups/{backup_id}/proof/1.json", theirs.model_dump(mode="json"))
    assert (await backups.show(world.store, backup_id, utc_now)).state == "stored"
    await have_proof(world, backup_id, 2)
    assert (await backups.show(world.store, backup_id, utc_now)).state == "proven"
    other_number = await world.read_json(f"backups/{backup_id}/proof/2.json") | {"verdict": "broken"}
    await world.write(f"backups/{backup_id}/proof/3.json", other_number)
    assert (await backups.show(world.store, backup_id, utc_now)).state == "proven"


async def test_a_number_beyond_all_numbers_is_no_proof(world: World) -> None:
    backup_id = await a_proven_backup(world)
    forged = await world.read_json(f"backups/{backup_id}/proof/1.json")

    async def next_number() -> int:
        asked = await backups.prove(
            world.store, world.start_worker, backup_id, ProofIn(), requested_by=None, now=utc_now
        )
        return asked.number

    await world.write(f"backups/{backup_id}/proof/{LAST_NUMBER + 1}.json", forged | {"verdict": "broken"})
    await world.write(f"backups/{backup_id}/proof/{10 * LAST_NUMBER}.json", forged | {"verdict": "broken"})
    assert (await backups.show(world.store, backup_id, utc_now)).state == "proven"
    assert await next_number() == 2
    await world.write(f"backups/{backup_id}/proof/{LAST_NUMBER}.json", forged)
    with pytest.raises(NotYet, match=f"proof/{LAST_NUMBER}.json is there"):
        await next_number()
