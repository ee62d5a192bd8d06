"""The lease: who may take it, and what a clock that is wrong does to it; and what progress tells."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backup_lambda import backups, signing
from backup_lambda.errors import LeaseLost
from backup_lambda.lease import ANOTHER_ATTEMPT_WITHIN, LAST_ATTEMPT, LEASE, TAKEN_OVER_WITHIN, Lease, Progress
from backup_lambda.verify import verify
from tests.backup_lambda.world import SIGNER, Connection, World, a_long_time, until, utc_now, worker_for
from tests.servers import Cluster

NOW = datetime(2026, 11, 22, 2, tzinfo=UTC)
SECOND = timedelta(seconds=1)
KEY = "backups/20261122T020000Z-3f9a2c1b/progress.json"


def progress(**values: Any) -> Progress:
    given = {"owner": "other", "started_at": NOW, "updated_at": NOW, "lease_until": NOW + LEASE}
    return Progress(**given | values)


@pytest.mark.parametrize(
    ("theirs", "after", "live", "lost"),
    [
        ({}, timedelta(0), True, False),
        ({}, LEASE - SECOND, True, False),
        ({}, LEASE, False, False),
        ({}, LEASE + TAKEN_OVER_WITHIN - SECOND, False, False),
        ({}, LEASE + TAKEN_OVER_WITHIN, False, True),
        ({"attempt": LAST_ATTEMPT}, LEASE - SECOND, True, False),
        ({"attempt": LAST_ATTEMPT}, LEASE, False, True),
        ({"lease_until": NOW + ANOTHER_ATTEMPT_WITHIN}, timedelta(0), True, False),
        # Of a clock that ran ahead, and was set back.
        ({"lease_until": NOW + timedelta(days=365)}, timedelta(0), False, True),
        # Of a clock that is behind: as if it had been written then.
        ({"lease_until": NOW - timedelta(days=365)}, timedelta(0), False, True),
    ],
)
def test_a_worker_is_alive_dead_or_lost(theirs: dict[str, Any], after: timedelta, live: bool, lost: bool) -> None:
    found = progress(**theirs)
    assert (found.live(NOW + after), found.lost(NOW + after)) == (live, lost)


@pytest.mark.parametrize(
    ("theirs", "task", "free"),
    [
        ({}, "backup", False),
        ({}, "proof/1", False),
        ({"lease_until": NOW}, "backup", True),
        ({"lease_until": NOW}, "proof/1", True),
        ({"reason": "gave up"}, "backup", True),
        ({"announced": True}, "backup", False),
        ({"announced": True, "lease_until": NOW}, "backup", False),
        ({"announced": True}, "proof/1", True),
        ({"task": "proof/2", "announced": True}, "proof/2", False),
        ({"task": "proof/2", "announced": True}, "proof/1", False),
        ({"task": "proof/2", "announced": True}, "proof/10", True),
        ({"task": "proof/2", "lease_until": NOW}, "backup", False),
        ({"task": "proof/2", "lease_until": NOW}, "proof/2", True),
        ({"lease_until": NOW + timedelta(days=365)}, "backup", True),
    ],
)
def test_a_lease_is_free_for_what_comes_next(theirs: dict[str, Any], task: str, free: bool) -> None:
    assert progress(**theirs).free_for(task, NOW) is free


async def test_another_task_begins_anew(world: World) -> None:
    first = await Lease.take(world.store, KEY, utc_now)
    assert first
    await first.close("stored")
    second = await Lease.take(world.store, KEY, utc_now, "proof/1")
    assert second
    assert (second.progress.task, second.progress.attempt, second.progress.outcome) == ("proof/1", 1, None)
    assert second.progress.started_at >= first.progress.started_at
    with pytest.raises(LeaseLost):
        await first.renew()


async def test_a_worker_whose_lease_another_clock_took_stops(world: World) -> None:
    """Clocks may differ as they like: of two workers one goes on, by what S3 says."""
    behind = await Lease.take(world.store, KEY, lambda: utc_now() - timedelta(hours=1))
    assert behind
    other = await Lease.take(world.store, KEY, utc_now)
    assert other
    assert other.progress.attempt == 2
    with pytest.raises(LeaseLost):
        await behind.renew()
    ahead = await Lease.take(world.store, KEY, lambda: utc_now() + timedelta(hours=1))
    assert ahead
    with pytest.raises(LeaseLost):
        await other.close("stored")


@pytest.mark.parametrize("days", [1, -1])
async def test_a_lease_is_kept_while_the_clock_jumps(world: World, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    monkeypatch.setattr("backup_lambda.lease.RENEW_SECONDS", 0.01)
    asked = itertools.count()
    lease = await Lease.take(world.store, KEY, lambda: utc_now() + timedelta(days=days * next(asked)))
    assert lease
    keeping = asyncio.create_task(lease.keep())
    taken = next(asked)

    async def renewed() -> bool:
        return keeping.done() or next(asked) > taken + 20

    await until(renewed)
    assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_nothing_is_lost_when_the_clock_is_set_back_in_the_middle(
    world: World, cluster: Cluster, database: str, owner: Connection
) -> None:
    await owner.execute("create table notes.notes as select i as id from generate_series(1, 3) i")
    back = timedelta(0)

    def now() -> datetime:
        return utc_now() - back

    async def set_back(request: Any, **_: Any) -> None:
        nonlocal back
        if "/index/" in request.url:
            back = timedelta(days=1)

    world.s3.meta.events.register("before-send.s3.PutObject", set_back)
    worker = worker_for(world, cluster.url("notes_backup", database), cluster.url("notes_proof", "postgres"), now=now)
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    manifest = await world.read_json(f"backups/{backup_id}/manifest.json")
    assert (manifest["started_at"], manifest["duration_seconds"]) == (manifest["ended_at"], 0)
    for at in (utc_now, now):
        shown = await backups.show(world.store, backup_id, at)
        assert (shown.state, shown.announced) == ("proven", True)
    assert await worker.back_up(backup_id, a_long_time) == "left alone"


async def test_an_id_from_the_future_breaks_no_chain(
    world: World, cluster: Cluster, database: str, owner: Connection
) -> None:
    """The clock of whoever asked was a year ahead."""
    await owner.execute("create table notes.notes as select i as id from generate_series(1, 3) i")
    worker = worker_for(world, cluster.url("notes_backup", database))
    ahead = f"{utc_now() + timedelta(days=365):%Y%m%dT%H%M%SZ}-3f9a2c1b"
    request = {"id": ahead, "created_at": utc_now() + timedelta(days=365), "label": None, "requested_by": None}
    await world.write(f"backups/{ahead}/request.json", request)
    previous = []
    for backup_id in (ahead, *[await world.wish() for _ in range(2)]):
        assert await worker.back_up(backup_id, a_long_time) == "stored"
        manifest = await world.read_json(f"backups/{backup_id}/manifest.json")
        previous.append((manifest["previous"] or {}).get("id"))
        assert manifest["duration_seconds"] >= 0
    assert previous[:2] == [None, ahead]
    assert previous[2] != ahead, "one wrong clock is not named for ever"
    report = await verify(world.store, {signing.fingerprint(await SIGNER.public_key())}, read_data=True)
    assert report.findings == []


def test_percent_is_of_all_passes() -> None:
    at_work = progress(total_rows=100, passes=4)
    told = []
    passes = [at_work.checked, at_work.restored, at_work.compared]
    at_work.copied(50, 1)
    told.append(at_work.percent)
    at_work.copied(50, 1)
    for done in passes:
        told.append(at_work.percent)
        done(100)
    assert told == [12, 25, 50, 75]
    assert at_work.percent == 99, "it has not ended yet"
    assert progress().percent == 0


def rates(told: Progress) -> tuple[float | None, float | None, int | None]:
    return told.rows_per_second, told.bytes_per_second, told.seconds_left


async def test_rates_are_of_the_present_stage(world: World) -> None:
    at = NOW

    def now() -> datetime:
        return at

    lease = await Lease.take(world.store, KEY, now)
    assert lease
    told = lease.progress
    assert rates(told) == (None, None, None)
    told.total_rows, told.passes, told.stage = 1000, 2, "copying"
    await lease.renew()
    told.copied(1000, 64_000)
    at += timedelta(seconds=10)
    await lease.renew()
    assert rates(told) == (100, 6_400, 10)
    told.stage = "checking"
    await lease.renew()
    assert told.rows_per_second is None
    told.checked(500)
    at += timedelta(seconds=1)
    await lease.renew()
    assert rates(told) == (500, 32_000, 1)


async def test_what_another_attempt_did_is_no_work_of_this_one(world: World) -> None:
    lease = await Lease.take(world.store, KEY, utc_now)
    assert lease
    told = lease.progress
    told.passes, told.total_rows = 4, 1000
    told.count_as_made(1000, 64_000)
    await lease.renew()
    told.stage = "restoring"
    await lease.renew()
    assert (told.percent, told.rows_per_second) == (50, None)
