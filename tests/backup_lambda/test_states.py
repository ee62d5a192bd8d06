"""A backup's state is which of its objects exist, and what they say; first match wins."""

from datetime import timedelta
from typing import Any

import pytest

from backup_lambda import backups, history, states
from backup_lambda.endings import Ending
from backup_lambda.errors import BackupUnreadable, NothingToTell
from backup_lambda.lease import LAST_ATTEMPT, TAKEN_OVER_WITHIN
from backup_lambda.schemas import Backup
from tests.backup_lambda.recorded import (
    AT,
    DIFFERENCE,
    a_proven_backup,
    have_failure,
    have_manifest,
    have_progress,
    have_proof,
)
from tests.backup_lambda.world import World, utc_now

DEAD: dict[str, Any] = {"attempt": LAST_ATTEMPT, "lease_until": AT}
FAR_AHEAD = "21000101T000000Z-00000000"


@pytest.fixture
async def backup_id(world: World) -> str:
    return await world.wish("nightly")


async def shown(world: World, backup_id: str) -> Backup:
    return await backups.show(world.store, backup_id, utc_now)


async def test_a_backup_runs_until_its_proof_has_ended(world: World, backup_id: str) -> None:
    await have_manifest(world, backup_id)
    await have_progress(world, backup_id, passes=4, stage="restoring", rows=12, total_rows=12)
    running = await shown(world, backup_id)
    assert (running.state, running.ended, running.ended_at) == ("running", False, None)
    assert running.progress
    assert running.progress.stage == "restoring"
    assert running.rows == 12, "what is stored can be seen"

    await have_proof(world, backup_id)
    proven = await shown(world, backup_id)
    assert (proven.state, proven.reason, proven.progress, proven.announced) == ("proven", None, None, False)
    await have_progress(world, backup_id, passes=4, announced=True)
    assert (await shown(world, backup_id)).announced


async def test_a_stored_backup_whose_notice_is_due_still_runs(world: World, backup_id: str) -> None:
    """Where proofs are made on demand nothing but the announcement is left, and soon over."""
    await have_manifest(world, backup_id)
    await have_progress(world, backup_id)
    assert (await shown(world, backup_id)).state == "running"
    ending = await backups.ending(world.store, backup_id, None, utc_now)
    assert (ending.backup.state, ending.backup.reason) == ("stored", None)
    await have_progress(world, backup_id, announced=True)
    assert ((await shown(world, backup_id)).state, (await shown(world, backup_id)).reason) == ("stored", None)


async def test_a_backup_whose_worker_died_in_the_proof_is_stored_and_says_so(world: World, backup_id: str) -> None:
    await have_manifest(world, backup_id)
    await have_progress(world, backup_id, passes=4, lease_until=utc_now() - timedelta(seconds=1))
    due = await shown(world, backup_id)
    assert due.state == "running"
    assert due.reason
    assert due.reason.endswith("another attempt is due")
    await have_progress(world, backup_id, passes=4, lease_until=utc_now() - TAKEN_OVER_WITHIN)
    lost = await shown(world, backup_id)
    assert (lost.state, lost.reason) == ("stored", "not proven: its worker was not heard of any more")
    assert (lost.announced, lost.progress) == (False, None)


async def test_a_backup_whose_proof_could_not_be_finished_is_stored_and_says_why(world: World, backup_id: str) -> None:
    await have_manifest(world, backup_id)
    await have_proof(world, backup_id, verdict="unfinished")
    stored = await shown(world, backup_id)
    assert (stored.state, stored.reason) == ("stored", "not proven: the proof server is away")
    assert stored.proof
    assert (stored.proof.verdict, stored.unfinished_proof) == ("unfinished", None)


@pytest.mark.parametrize(
    ("verdicts", "state", "shows"),
    [
        (["proven", "broken"], "broken", (2, None)),
        (["broken", "proven"], "proven", (2, None)),
        (["proven", "unfinished"], "proven", (1, 2)),
        (["broken", "unfinished", "unfinished"], "broken", (1, 3)),
        (["unfinished", "proven"], "proven", (2, None)),
        (["proven"] * 9 + ["broken"], "broken", (10, None)),
    ],
)
async def test_the_newest_proof_with_a_verdict_counts(
    world: World, backup_id: str, verdicts: list[str], state: str, shows: tuple[int, int | None]
) -> None:
    await have_manifest(world, backup_id)
    for number, verdict in enumerate(verdicts, 1):
        await have_proof(world, backup_id, number, verdict)
    backup = await shown(world, backup_id)
    assert backup.state == state
    assert backup.proof
    assert (backup.proof.number, backup.unfinished_proof and backup.unfinished_proof.number) == shows


async def test_a_broken_backup_shows_what_differs(world: World, backup_id: str) -> None:
    await have_manifest(world, backup_id)
    await have_proof(world, backup_id, 1, "broken", differences_found=50)
    backup = await shown(world, backup_id)
    assert backup.reason == "block of notes.notes, block 3: expected f1d2, found 0000"
    assert backup.proof
    assert (backup.proof.differences, backup.proof.differences_found) == ([DIFFERENCE], 50)


REPLACED = "manifest.json is not the one that was proven"


async def test_a_manifest_that_was_replaced_after_its_proof_is_not_proven(world: World) -> None:
    backup_id = await a_proven_backup(world)
    proven = await world.read(f"backups/{backup_id}/manifest.json")
    await have_manifest(world, backup_id, duration_seconds=1.0)
    backup = await shown(world, backup_id)
    assert (backup.state, backup.reason, backup.proof) == ("stored", REPLACED, None)
    assert await history.newest_proven(world.store, utc_now) is None
    await have_proof(world, backup_id, 2, "unfinished")
    assert ((await shown(world, backup_id)).state, (await shown(world, backup_id)).reason) == ("stored", REPLACED)
    await have_proof(world, backup_id, 3, "broken")
    assert (await shown(world, backup_id)).state == "broken"
    await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{backup_id}/manifest.json", Body=proven)
    assert (await shown(world, backup_id)).state == "broken", "it was, and nobody looked since"
    await have_proof(world, backup_id, 4)
    assert (await shown(world, backup_id)).state == "proven"


async def test_a_proof_of_another_manifest_accepts_no_suspect_backup(world: World, backup_id: str) -> None:
    await have_manifest(world, backup_id, suspect="no rows")
    await have_proof(world, backup_id, 1, accepts_suspect=True)
    assert (await shown(world, backup_id)).state == "proven"
    await have_manifest(world, backup_id, suspect="no rows at all")
    await have_proof(world, backup_id, 2)
    assert (await shown(world, backup_id)).state == "suspect"


@pytest.mark.parametrize("state", ["queued", "running", "expired"])
async def test_what_is_no_end_is_not_told(world: World, backup_id: str, state: str) -> None:
    if state == "expired":
        backup_id = await a_proven_backup(world)
        await world.write(f"backups/{backup_id}/expired.json", {})
    backup = (await shown(world, backup_id)).model_copy(update={"state": state})
    with pytest.raises(NothingToTell, match=f"{backup_id} is {state}: that is no end to tell of"):
        Ending(backup=backup, at=AT)
    if state != "running":
        with pytest.raises(NothingToTell):
            await backups.ending(world.store, backup_id, None, utc_now)


async def test_a_backup_with_an_id_from_the_future_is_lost_as_soon_as_any_other(world: World) -> None:
    """The API's clock ran ahead when it was asked for, and its event got lost. S3 knows when that was."""
    request = await world.read_json(f"backups/{await world.wish()}/request.json")
    await world.write(
        f"backups/{FAR_AHEAD}/request.json", request | {"id": FAR_AHEAD, "created_at": "2100-01-01T00:00Z"}
    )
    assert (await shown(world, FAR_AHEAD)).state == "queued"
    later = utc_now() + states.STARTED_WITHIN + timedelta(minutes=1)
    backup = await backups.show(world.store, FAR_AHEAD, lambda: later)
    assert (backup.state, backup.reason) == ("failed", "lost: it was never started")


async def test_a_suspect_backup_is_suspect_until_a_proof_accepts_it(world: World, backup_id: str) -> None:
    await have_manifest(world, backup_id, suspect="notes.notes fell from 5,000 rows to 12")
    assert (await shown(world, backup_id)).state == "suspect"
    await have_proof(world, backup_id, 1)
    backup = await shown(world, backup_id)
    assert (backup.state, backup.reason) == ("suspect", "notes.notes fell from 5,000 rows to 12")
    await have_proof(world, backup_id, 2, "unfinished", accepts_suspect=True)
    assert (await shown(world, backup_id)).state == "suspect", "nothing was proven"
    await have_proof(world, backup_id, 3, accepts_suspect=True)
    await have_proof(world, backup_id, 4)
    backup = await shown(world, backup_id)
    assert (backup.state, backup.reason) == ("proven", None), "a later proof need not accept it again"
    assert backup.suspect == "notes.notes fell from 5,000 rows to 12"
    await have_proof(world, backup_id, 5, "broken", accepts_suspect=True)
    assert (await shown(world, backup_id)).state == "broken", "comes before suspect and proven"


async def test_a_later_proof_leaves_the_state_as_it_was(world: World) -> None:
    backup_id = await a_proven_backup(world)
    await have_progress(world, backup_id, task="proof/2", stage="comparing", passes=2, total_rows=12, restored_rows=12)
    backup = await shown(world, backup_id)
    assert (backup.state, backup.announced) == ("proven", True)
    assert backup.progress
    assert (backup.progress.stage, backup.progress.rows, backup.progress.percent) == ("comparing", 12, 50)
    await have_proof(world, backup_id, 2, "broken")
    backup = await shown(world, backup_id)
    assert (backup.state, backup.progress) == ("broken", None), "only its announcement is left"


async def test_an_expired_backup_keeps_its_manifest_and_proofs(world: World) -> None:
    backup_id = await a_proven_backup(world)
    await world.write(f"backups/{backup_id}/expired.json", {})
    backup = await shown(world, backup_id)
    assert (backup.state, backup.reason) == ("expired", "retention removed its data")
    assert backup.proof
    assert backup.rows == 12
    assert (await backups.page(world.store, None, utc_now)).items == [backup]
    assert await history.newest_proven(world.store, utc_now) is None


@pytest.mark.parametrize(("listeners", "unheard"), [(None, None), (0, states.UNHEARD), (3, None)])
async def test_an_end_that_nobody_heard_is_shown(
    world: World, backup_id: str, listeners: int | None, unheard: str | None
) -> None:
    """None: it could not be asked."""
    await have_failure(world, backup_id)
    await have_progress(world, backup_id, announced=True, listeners=listeners)
    assert (await shown(world, backup_id)).unheard == unheard


async def test_a_failure_says_whether_somebody_cancelled(world: World, backup_id: str) -> None:
    await have_failure(world, backup_id)
    assert ((await shown(world, backup_id)).state, (await shown(world, backup_id)).reason) == (
        "failed",
        "PostgreSQL: gone",
    )
    await have_failure(world, backup_id, outcome="cancelled", reason="by ops")
    assert ((await shown(world, backup_id)).state, (await shown(world, backup_id)).reason) == ("cancelled", "by ops")


async def test_a_cancelled_backup_that_nobody_makes_ends_as_cancelled(world: World, backup_id: str) -> None:
    await world.write(f"backups/{backup_id}/cancel.json", {})

    async def after(minutes: int) -> Backup:
        return await backups.show(world.store, backup_id, lambda: utc_now() + timedelta(minutes=minutes))

    assert ((await after(0)).state, (await after(0)).reason) == ("queued", "it is being cancelled")
    assert ((await after(75)).state, (await after(75)).reason) == (
        "cancelled",
        "cancelled by a person; it was never started",
    )
    await have_progress(world, backup_id)
    assert ((await after(0)).state, (await after(0)).reason) == ("running", "it is being cancelled")
    await have_progress(world, backup_id, **DEAD)
    assert ((await after(0)).state, (await after(0)).reason) == (
        "cancelled",
        "cancelled by a person; its worker was not heard of any more",
    )


async def test_a_reader_that_missed_the_proof_looks_again(world: World, backup_id: str) -> None:
    """It listed the objects before the proof was there, and then read that the end was announced."""
    await have_manifest(world, backup_id)
    await have_progress(world, backup_id, passes=4)

    async def ends_now(request: Any, **_: Any) -> None:
        if request.url.endswith("/progress.json"):
            await have_proof(world, backup_id, 1, "broken")
            await have_progress(world, backup_id, passes=4, announced=True)

    world.s3.meta.events.register("before-send.s3.GetObject", ends_now)
    assert (await shown(world, backup_id)).state == "broken"


async def test_showing_a_backup_costs_four_requests(world: World) -> None:
    backup_id = await a_proven_backup(world)
    sent: list[str] = []

    async def count(request: Any, **_: Any) -> None:
        sent.append(request.url)

    world.s3.meta.events.register("before-send.s3", count)
    await shown(world, backup_id)
    assert len(sent) == 4


async def test_who_sweeps_learns_how_a_lost_backup_ends(world: World, backup_id: str) -> None:
    async def lost() -> str | None:
        failure = await backups.lost(world.store, backup_id, utc_now)
        return failure.reason if failure else None

    assert await lost() is None, "its worker may come yet"
    await have_progress(world, backup_id)
    assert await lost() is None
    await have_progress(world, backup_id, **DEAD, reason="PutObject was answered SlowDown")
    assert await lost() == "lost: PutObject was answered SlowDown"
    await have_manifest(world, backup_id)
    assert await lost() is None, "it is stored"


async def test_the_newest_proven_backup_is_found_behind_others(world: World) -> None:
    assert await history.newest_proven(world.store, utc_now) is None
    older, newer = await a_proven_backup(world), await a_proven_backup(world)
    older, newer = sorted([older, newer])
    broken, expired, suspect, unreadable = [await world.wish() for _ in range(4)]
    for each in (broken, expired, suspect):
        await have_manifest(world, each, suspect="no rows" if each == suspect else None)
        await have_proof(world, each, 1, "broken" if each == broken else "proven")
    await world.write(f"backups/{expired}/expired.json", {})
    await world.write(f"backups/{unreadable}/manifest.json", {"format": 2})
    await have_proof(world, unreadable)
    found = await history.newest_proven(world.store, utc_now)
    assert found
    assert found.id == newer
    await have_proof(world, newer, 2, "broken")
    found = await history.newest_proven(world.store, utc_now)
    assert found
    assert found.id == older


async def test_a_backup_from_the_future_is_the_previous_one_only_when_there_is_no_other(world: World) -> None:
    ahead = f"backups/{FAR_AHEAD}/manifest.json"
    await world.write(ahead, {})
    found = await history.newest_stored(world.store, utc_now)
    assert found
    assert found.id == FAR_AHEAD
    backup_id = await a_proven_backup(world)
    found = await history.newest_stored(world.store, utc_now)
    assert found
    assert found.id == backup_id


async def test_an_ending_tells_what_the_notice_needs(world: World) -> None:
    proven = await a_proven_backup(world)
    broken = await world.wish()
    sha256 = await have_manifest(world, broken)
    await have_proof(world, broken, 1, "broken")
    signature = {"algorithm": "Ed25519", "key": "ab12", "public_key": "AA==", "signature": "AA=="}
    await world.write(f"backups/{broken}/manifest.sig", signature)
    ending = await backups.ending(world.store, broken, None, utc_now)
    assert (ending.backup.state, ending.kind, ending.severity) == ("broken", "backup.broken", "error")
    assert (ending.backup.manifest_sha256, ending.signed_by, ending.proof) == (sha256, "ab12", None)
    assert ending.newest_proven
    assert ending.newest_proven.id == proven
    await have_proof(world, broken, 2, "unfinished")
    later = await backups.ending(world.store, broken, 2, utc_now)
    assert (later.backup.state, later.kind, later.severity) == ("broken", "backup.stored", "warning")
    assert later.proof
    assert later.proof.number == 2


@pytest.mark.parametrize("damaged", [{"manifest.json"}, {"manifest.sig"}, {"manifest.json", "manifest.sig"}])
async def test_damage_to_a_broken_backup_does_not_hide_it(world: World, backup_id: str, damaged: set[str]) -> None:
    await have_manifest(world, backup_id)
    for name in damaged:
        await world.write(f"backups/{backup_id}/{name}", {"format": 2})
    await have_proof(world, backup_id, 1, "broken")
    await have_progress(world, backup_id, passes=4)
    backup = await shown(world, backup_id)
    assert (backup.state, backup.label) == ("broken", "nightly")
    assert backup.reason == "block of notes.notes, block 3: expected f1d2, found 0000"
    ending = await backups.ending(world.store, backup_id, None, utc_now)
    assert (ending.kind, ending.signed_by) == ("backup.broken", None)
    await have_proof(world, backup_id, 2, "unfinished")
    assert (await backups.ending(world.store, backup_id, 2, utc_now)).backup.state == "broken"


async def test_a_damaged_manifest_without_a_proof_of_it_is_unreadable(world: World, backup_id: str) -> None:
    await world.write(f"backups/{backup_id}/manifest.json", {"format": 2})
    await have_proof(world, backup_id)
    with pytest.raises(BackupUnreadable, match=r"manifest\.json"):
        await shown(world, backup_id)


async def test_a_manifest_that_was_removed_is_missed(world: World) -> None:
    backup_id = await a_proven_backup(world)
    await world.s3.delete_object(Bucket=world.bucket, Key=f"backups/{backup_id}/manifest.json")
    backup = await shown(world, backup_id)
    assert (backup.state, backup.reason, backup.announced) == ("failed", "lost: its manifest is missing", True)


async def test_a_proof_that_cannot_be_read_makes_no_backup_proven(world: World, backup_id: str) -> None:
    await have_manifest(world, backup_id)
    await world.write(f"backups/{backup_id}/proof/1.json", {"verdict": "proven"})
    with pytest.raises(BackupUnreadable, match=r"proof/1\.json"):
        await shown(world, backup_id)
