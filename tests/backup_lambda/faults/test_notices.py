"""SNS is away at the end: what was made stays made, and the notice comes later, or its failure shows."""

import pytest

from backup_lambda import backups
from backup_lambda.worker import Worker
from tests.backup_lambda.faults import answers
from tests.backup_lambda.faults.gate import Fault, Gate
from tests.backup_lambda.faults.invoking import invoked, looked_after
from tests.backup_lambda.faults.matrix import End
from tests.backup_lambda.world import World, a_long_time, utc_now

TROUBLE = {
    "500": answers.error(500, "InternalError"),
    "403": answers.error(403, "AuthorizationError"),
    "refused": answers.cut,
    "silent": answers.silent,
    "a page for people": answers.portal,
}


@pytest.mark.fault("SNS is mended for the next attempt")
@pytest.mark.parametrize("fault", TROUBLE.values(), ids=TROUBLE)
async def test_it_is_mended(worker: Worker, world: World, gate: Gate, ends: End, fault: Fault) -> None:
    """The backup is not made again, nor proven again."""
    backup_id = await world.wish()
    gate.break_("Publish", "", fault)
    await invoked(worker, backup_id, times=1)
    shown = await backups.show(world.store, backup_id, utc_now)
    assert (shown.state, shown.announced) == ("proven", False)
    before = await world.store.etags(f"backups/{backup_id}/")
    gate.mend()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    after = await world.store.etags(f"backups/{backup_id}/")
    assert {key for key in after if after[key] != before[key]} == {f"backups/{backup_id}/progress.json"}
    await ends(backup_id, "proven")


@pytest.mark.fault("SNS stays away")
async def test_it_stays_away(worker: Worker, world: World, gate: Gate, ends: End) -> None:
    """Whoever follows the backup sees that nobody was told."""
    backup_id = await world.wish()
    gate.break_("Publish", "", answers.cut)
    await invoked(worker, backup_id)
    await ends(backup_id, "proven", announced=False, notices=(0,))


@pytest.mark.fault("SNS stays away until another backup's worker comes by")
async def test_it_is_told_later(worker: Worker, world: World, gate: Gate, ends: End) -> None:
    backup_id = await world.wish()
    gate.break_("Publish", "", answers.cut)
    await invoked(worker, backup_id)
    gate.mend()
    await looked_after(worker, world, backup_id)
    await ends(backup_id, "proven")


@pytest.mark.fault("SNS published, but the answer got lost")
async def test_an_answer_got_lost(worker: Worker, world: World, gate: Gate, ends: End) -> None:
    """Rather twice than never; both have the same id."""
    backup_id = await world.wish()
    gate.break_("Publish", "", answers.lost, times=1)
    await invoked(worker, backup_id)
    await ends(backup_id, "proven", notices=(2,))


@pytest.mark.fault("S3 and SNS are away, and come back for another backup's worker")
async def test_a_failure_is_told_later(worker: Worker, world: World, gate: Gate, ends: End) -> None:
    backup_id = await world.wish()
    gate.break_("Publish", "", answers.cut)
    gate.break_("PutObject", "manifest.json", answers.error(503, "SlowDown"))
    await invoked(worker, backup_id)
    gate.mend()
    await looked_after(worker, world, backup_id)
    await ends(backup_id, "failed", reason="PutObject was answered SlowDown")
