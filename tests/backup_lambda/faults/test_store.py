"""S3 refuses, is slow, breaks down and answers with garbage, at every step."""

from dataclasses import replace
from typing import Any

import pytest

from backup_lambda.worker import Worker
from tests.backup_lambda.faults import answers
from tests.backup_lambda.faults.gate import Fault, Gate
from tests.backup_lambda.faults.invoking import in_two_hours, invoked, looked_after
from tests.backup_lambda.faults.matrix import End
from tests.backup_lambda.world import World, a_long_time

Step = tuple[str, str]
STEPS: dict[str, Step] = {
    "an upload is begun": ("CreateMultipartUpload", "data/"),
    "a part": ("UploadPart", "data/"),
    "an upload is completed": ("CompleteMultipartUpload", "data/"),
    "a small table": ("PutObject", "data/"),
    "an index": ("PutObject", "index/"),
    "an index is read back": ("GetObject", "index/"),
    "a table is read back": ("GetObject", "data/"),
    "the signature": ("PutObject", "manifest.sig"),
    "the manifest": ("PutObject", "manifest.json"),
    "the manifest is read for the proof": ("GetObject", "manifest.json"),
    "the signature is read for the proof": ("GetObject", "manifest.sig"),
    "the record of the proof": ("PutObject", "proof/1.json"),
}
FOR_THE_PROOF = list(STEPS)[-3:]
WRITES = [name for name, (operation, _) in STEPS.items() if operation != "GetObject"]
READS = [name for name, (operation, _) in STEPS.items() if operation == "GetObject"]
SOME = ["a part", "an upload is completed", "a table is read back", "the manifest"]
WRONG = answers.error(500, "InternalError")


def at(steps: list[str], *faults: tuple[str, Fault]) -> list[Any]:
    return [
        pytest.param(STEPS[name], fault, id=f"{name}: {what}" if what else name)
        for name in steps
        for what, fault in faults
    ]


def each(*cases: list[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("step", "fault"), [case for several in cases for case in several])


@pytest.mark.fault("S3 stays broken")
@each(
    at([name for name in STEPS if name not in FOR_THE_PROOF], ("500 InternalError", WRONG)),
    at(
        SOME,
        ("503 SlowDown", answers.error(503, "SlowDown")),
        ("refused", answers.cut),
        ("a page for people", answers.portal),
    ),
)
async def test_it_stays_broken(worker: Worker, world: World, gate: Gate, ends: End, step: Step, fault: Fault) -> None:
    backup_id = await world.wish()
    broken = gate.break_(*step, fault)
    await invoked(worker, backup_id)
    assert broken.happened.is_set()
    await ends(backup_id, "failed")


@pytest.mark.fault("S3 stays broken until another backup's worker comes by")
@each(at(FOR_THE_PROOF, ("500 InternalError", WRONG), ("a page for people", answers.portal)))
async def test_it_stays_broken_for_the_proof(
    worker: Worker, world: World, gate: Gate, ends: End, step: Step, fault: Fault
) -> None:
    """It is stored, and everybody hears that it is not proven."""
    backup_id = await world.wish()
    broken = gate.break_(*step, fault)
    await invoked(worker, backup_id)
    gate.mend()
    await looked_after(worker, world, backup_id)
    assert broken.happened.is_set()
    await ends(backup_id, "stored", "broken")


@pytest.mark.fault("S3 refuses all objects of the kind until another backup's worker comes by")
@pytest.mark.parametrize(
    "step", [("GetObject", "request.json"), ("PutObject", "progress.json")], ids=["the request", "the lock"]
)
async def test_not_even_the_failure_can_be_written(
    worker: Worker, world: World, gate: Gate, ends: End, step: Step
) -> None:
    backup_id = await world.wish()
    broken = gate.break_(*step, WRONG)
    await invoked(worker, backup_id)
    gate.mend()
    await looked_after(replace(worker, means=replace(worker.means, now=in_two_hours)), world, backup_id)
    assert broken.happened.is_set()
    await ends(backup_id, "failed", reason="lost: ")


@pytest.mark.fault("the lock cannot be renewed when the end is to be written")
async def test_the_lock_cannot_be_renewed(worker: Worker, world: World, gate: Gate, ends: End) -> None:
    backup_id = await world.wish()
    broken = gate.break_("PutObject", "progress.json", WRONG, after=1)
    await invoked(worker, backup_id, times=1)
    gate.mend()
    await world.let_die(backup_id)
    await invoked(worker, backup_id, times=1)
    assert broken.happened.is_set()
    await ends(backup_id, "proven")


@pytest.mark.fault("S3 is mended for the next attempt")
@each(
    at(SOME, ("403 AccessDenied", answers.error(403, "AccessDenied"))),
    at([*SOME, *FOR_THE_PROOF], ("credentials expired", answers.error(400, "ExpiredToken"))),
    at(["a part"], ("request expired", answers.error(403, "RequestExpired"))),
)
async def test_it_is_mended(worker: Worker, world: World, gate: Gate, ends: End, step: Step, fault: Fault) -> None:
    backup_id = await world.wish()
    broken = gate.break_(*step, fault)
    await invoked(worker, backup_id, times=1)
    assert broken.happened.is_set()
    gate.mend()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    await ends(backup_id, "proven")


@pytest.mark.fault("credentials expire in the middle, for everything")
async def test_credentials_expire(worker: Worker, world: World, gate: Gate, ends: End) -> None:
    """From the second part on. Even the lock cannot be given back: the next attempt waits until its lease has ended."""
    backup_id = await world.wish()
    expired = answers.error(400, "ExpiredToken")

    async def from_now_on(call: Any, forward: Any) -> Any:
        gate.fault = expired
        return await expired(call, forward)

    gate.break_("UploadPart", "data/", from_now_on, after=1)
    await invoked(worker, backup_id, times=1)
    gate.mend()
    await world.let_die(backup_id)
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    await ends(backup_id, "proven", uploads_left=True)


@pytest.mark.fault("S3 did it, but the answer got lost")
@each(at(WRITES, ("", answers.lost)))
async def test_an_answer_got_lost(
    worker: Worker, world: World, gate: Gate, ends: End, step: Step, fault: Fault
) -> None:
    """An upload of which we know no id is left to the bucket's lifecycle rule."""
    backup_id = await world.wish()
    broken = gate.break_(*step, fault, times=1)
    await invoked(worker, backup_id)
    assert broken.happened.is_set()
    await ends(backup_id, "proven", uploads_left=step[0] == "CreateMultipartUpload")


@pytest.mark.fault("S3 says that it was done, and it was not")
@each(at(WRITES, ("", answers.lie)))
async def test_a_lie(worker: Worker, world: World, gate: Gate, ends: End, step: Step, fault: Fault) -> None:
    backup_id = await world.wish()
    broken = gate.break_(*step, fault)
    await invoked(worker, backup_id)
    gate.mend()
    await looked_after(worker, world, backup_id)
    assert broken.happened.is_set()
    await ends(backup_id, "failed", "broken", "stored")


@pytest.mark.fault("S3 gives back something else")
@each(
    at(READS, ("half of it", answers.half), ("a bit has turned", answers.rotten)),
    at(SOME[2:3], ("nothing", answers.empty), ("a byte too many", answers.changed(lambda body: body + b"\0"))),
)
async def test_something_else_is_read(
    worker: Worker, world: World, gate: Gate, ends: End, step: Step, fault: Fault
) -> None:
    backup_id = await world.wish()
    broken = gate.break_(*step, fault)
    await invoked(worker, backup_id)
    gate.mend()
    await looked_after(worker, world, backup_id)
    assert broken.happened.is_set()
    await ends(backup_id, "failed", "broken", "stored")


@pytest.mark.fault("a bit turns on the way to S3")
@each(at([*WRITES[1:2], *WRITES[3:]], ("", answers.turned_on_the_way)))
async def test_a_bit_turns(worker: Worker, world: World, gate: Gate, ends: End, step: Step, fault: Fault) -> None:
    """Every write carries its checksum, and S3 refuses what does not match it."""
    backup_id = await world.wish()
    broken = gate.break_(*step, fault, times=1)
    await invoked(worker, backup_id)
    assert broken.happened.is_set()
    await ends(backup_id, "proven")


@pytest.mark.fault("a store that knows no checksums")
async def test_a_store_without_checksums(worker: Worker, world: World, gate: Gate, ends: End) -> None:
    backup_id = await world.wish()
    gate.break_("UploadPart", "data/", answers.unchecked)
    await invoked(worker, backup_id)
    await ends(backup_id, "failed", reason="did not confirm the checksum of part")


@pytest.mark.fault("S3 does not answer")
@each(at(SOME, ("", answers.silent)))
async def test_it_is_silent(worker: Worker, world: World, gate: Gate, ends: End, step: Step, fault: Fault) -> None:
    backup_id = await world.wish()
    broken = gate.break_(*step, fault, times=1)
    await invoked(worker, backup_id)
    assert broken.happened.is_set()
    await ends(backup_id, "proven")


@pytest.mark.fault("S3 is slow")
@each(at(SOME, ("", answers.slow(0.5))))
async def test_it_is_slow(worker: Worker, world: World, gate: Gate, ends: End, step: Step, fault: Fault) -> None:
    backup_id = await world.wish()
    broken = gate.break_(*step, fault)
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    assert broken.happened.is_set()
    await ends(backup_id, "proven")


@pytest.mark.fault("an upload fails, and cannot be aborted either")
async def test_an_upload_cannot_be_aborted(worker: Worker, world: World, gate: Gate, ends: End) -> None:
    """Its parts stay until the bucket's lifecycle rule removes them."""
    backup_id = await world.wish()
    gate.break_("UploadPart", "data/", WRONG)
    broken = gate.break_("AbortMultipartUpload", "data/", WRONG)
    await invoked(worker, backup_id)
    assert broken.happened.is_set()
    await ends(backup_id, "failed", reason="UploadPart was answered", uploads_left=True)
