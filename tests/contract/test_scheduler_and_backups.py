"""The scheduler's real client against the real backup API, and the events that both publish against who mails them."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import get_args
from uuid import UUID

import pytest

from backup_lambda import mail as words
from backup_lambda import notices
from backup_lambda.endings import Ending
from backup_lambda.errors import AwsRefused
from backup_lambda.schemas import Backup, State
from deploy.local import mail
from scheduler import following, proofs
from scheduler import notices as told
from scheduler.answers import Refused, Unavailable
from scheduler.backups import Backups
from scheduler.models import Run
from tests.backup_lambda.recorded import have_failure, have_manifest, have_progress, have_proof
from tests.backup_lambda.test_keeper import ONE, a_backup
from tests.backup_lambda.world import World, client_of, worker_for

KEY = "01a2041d-ef55-7997-8f7e-b424b3fb72f5"


@pytest.fixture
async def backups(world: World) -> AsyncIterator[Backups]:
    async with client_of(world, world.start_worker, policy=ONE) as http:
        yield Backups(http, "http://gateway")


async def test_a_run_starts_one_backup_however_often_it_asks(backups: Backups, world: World) -> None:
    first, again = await backups.start("daily", KEY), await backups.start("daily", KEY)
    assert first.id == again.id
    assert first.state == "queued"
    assert set(world.started) == {first.id}


async def test_a_run_follows_its_backup_to_a_state_that_it_knows(backups: Backups, world: World) -> None:
    backup = await backups.start(None, KEY)
    nowhere = worker_for(world, "postgresql://notes_backup:x@127.0.0.1:1/holdfast")
    await nowhere.back_up(backup.id, lambda: 900.0)
    ended = await backups.show(backup.id)
    assert ended.state == "failed"
    assert ended.reason
    assert "PostgreSQL" in ended.reason
    assert ended.announced
    assert ended.ended_at


async def test_a_run_sees_that_nobody_was_told_how_its_backup_ended(backups: Backups, world: World) -> None:
    backup = await backups.start(None, KEY)
    nowhere = worker_for(world, "postgresql://notes_backup:x@127.0.0.1:1/holdfast")
    await world.sns.delete_topic(TopicArn=world.topic.arn)
    with pytest.raises(AwsRefused):
        await nowhere.back_up(backup.id, lambda: 900.0)
    ended = await backups.show(backup.id)
    assert (ended.state, ended.announced) == ("failed", False)


def test_a_run_knows_what_every_state_of_a_backup_means_for_it() -> None:
    assert set(get_args(State)) == {"queued", "running", *following.SUCCEEDED, *following.FAILED}
    assert not following.SUCCEEDED & following.FAILED.keys()
    assert set(get_args(State)) > proofs.PROVABLE


async def test_a_run_waits_for_the_proof_of_its_backup(backups: Backups, world: World) -> None:
    backup = await backups.start(None, KEY)
    await have_manifest(world, backup.id)
    await have_progress(world, backup.id, passes=4, stage="restoring")
    assert (await backups.show(backup.id)).state == "running"
    await have_proof(world, backup.id)
    proven = await backups.show(backup.id)
    assert (proven.state, proven.reason, proven.announced) == ("proven", None, False)
    assert proven.proof
    assert proven.ended_at
    assert proven.proof.ended_at > proven.ended_at


@pytest.mark.parametrize(
    ("verdict", "suspect", "learnt"),
    [
        ("unfinished", None, ("stored", "not proven: the proof server is away")),
        ("proven", "no rows", ("suspect", "no rows")),
        ("broken", "no rows", ("broken", "block of notes.notes, block 3: expected f1d2, found 0000")),
    ],
)
async def test_a_run_learns_what_its_backup_lacks(
    backups: Backups, world: World, verdict: str, suspect: str | None, learnt: tuple[str, str]
) -> None:
    backup = await backups.start(None, KEY)
    await have_manifest(world, backup.id, suspect=suspect)
    await have_proof(world, backup.id, 1, verdict)
    await have_progress(world, backup.id, passes=4, announced=True)
    ended = await backups.show(backup.id)
    assert (ended.state, ended.reason, ended.announced) == (*learnt, True)


async def test_a_run_sees_that_its_backup_was_cancelled(backups: Backups, world: World) -> None:
    backup = await backups.start(None, KEY)
    await have_failure(world, backup.id, outcome="cancelled", reason="somebody asked for it")
    ended = await backups.show(backup.id)
    assert (ended.state, ended.reason) == ("cancelled", "somebody asked for it")


async def test_some_tables_are_asked_for_by_name(backups: Backups, world: World) -> None:
    backup = await backups.start(None, KEY, ["notes"])
    assert (await world.read_json(f"backups/{backup.id}/request.json"))["tables"] == ["notes.notes"]


async def test_a_run_cancels_its_backup(backups: Backups, world: World) -> None:
    backup = await backups.start(None, KEY)
    await have_progress(world, backup.id, stage="copying")
    asked = await backups.cancel(backup.id)
    assert (asked.id, asked.state, asked.reason) == (backup.id, "running", "it is being cancelled")
    assert asked.progress
    assert asked.progress.stage == "copying"
    await have_failure(world, backup.id, outcome="cancelled", reason="cancelled by a person")
    with pytest.raises(Refused, match="It is cancelled") as refused:
        await backups.cancel(backup.id)
    assert refused.value.status == 409


async def test_backups_are_listed_page_by_page(backups: Backups, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backup_lambda.backups.PAGE", 2)
    oldest, middle, newest = [await a_backup(world, days) for days in (3, 2, 1)]
    page = await backups.page()
    assert [(each.id, each.state, each.announced) for each in page.items] == [
        (newest, "proven", True),
        (middle, "proven", True),
    ]
    assert page.items[0].proof
    assert (page.items[0].proof.number, page.items[0].proof.verdict) == (1, "proven")
    page = await backups.page(page.next_cursor)
    assert ([each.id for each in page.items], page.next_cursor) == ([oldest], None)


async def test_a_run_asks_for_a_proof_and_follows_it(backups: Backups, world: World) -> None:
    backup_id = await a_backup(world, 1)
    assert await backups.prove(backup_id) == 2
    assert (world.tasks[-1].backup_id, world.tasks[-1].number) == (backup_id, 2)  # type: ignore[union-attr]
    await have_progress(world, backup_id, task="proof/2", passes=4)
    assert (await backups.show(backup_id)).progress
    with pytest.raises(Refused, match="a proof of it is being made") as busy:
        await backups.prove(backup_id)
    assert busy.value.status == proofs.BUSY

    await have_proof(world, backup_id, 2, "unfinished")
    await have_progress(world, backup_id, task="proof/2", announced=True, passes=4)
    shown = await backups.show(backup_id)
    assert [(each.number, each.verdict) for each in shown.proofs] == [(1, "proven"), (2, "unfinished")]
    assert (shown.state, shown.announced) == ("proven", True)
    await have_proof(world, backup_id, 3, "broken")
    shown = await backups.show(backup_id)
    assert ([(each.number, each.verdict) for each in shown.proofs], shown.state) == ([(3, "broken")], "broken")


async def test_what_retention_removed_is_not_proven(backups: Backups, world: World) -> None:
    backup_id = await a_backup(world, 1)
    await world.write(f"backups/{backup_id}/expired.json", {})
    with pytest.raises(Refused) as gone:
        await backups.prove(backup_id)
    assert gone.value.status in proofs.GONE


async def test_a_run_applies_the_plan_of_retention_and_no_other(backups: Backups, world: World) -> None:
    old, newer = await a_backup(world, 3), await a_backup(world, 1)
    plan = await backups.plan()
    assert (plan.keep, plan.expire, plan.clean) == (1, 1, 0)
    with pytest.raises(Refused) as refused:
        await backups.apply("0" * 64)
    assert refused.value.status == 409
    done = await backups.apply(plan.digest)
    assert (done.complete, done.expired, done.cleaned, done.left) == (True, [old], [], {})
    assert [each.state for each in (await backups.page()).items if each.id == newer] == ["proven"]
    plan = await backups.plan()
    assert (plan.expire, plan.clean) == (0, 0)


async def test_what_will_not_change_is_refused_with_the_reason(backups: Backups) -> None:
    with pytest.raises(Refused, match="404"):
        await backups.show("20261122T020000Z-3f9a2c1b")
    await backups.start("daily", KEY)
    with pytest.raises(Refused, match="422"):
        await backups.start("another", KEY)


async def test_what_may_change_is_unavailable(backups: Backups, world: World) -> None:
    await world.s3.delete_bucket(Bucket=world.bucket)
    with pytest.raises(Unavailable):
        await backups.start("daily", KEY)


async def test_mails_have_the_text_that_the_function_wrote(world: World) -> None:
    now = datetime.now(UTC)
    backup = Backup(
        id="20261122T020000Z-3f9a2c1b",
        state="failed",
        label=None,
        created_at=now,
        ended_at=now,
        reason="no disk",
        requested_by=None,
    )
    ending = Ending(backup, now)
    await notices.publish(world.topic, notices.of_backup(ending))
    (notification,) = await world.notices()
    assert mail.text_of(notification) == words.text_of(ending)


async def test_mails_have_the_text_that_the_scheduler_wrote(world: World) -> None:
    now = datetime.now(UTC)
    run = Run(
        id=UUID(KEY), schedule_id=UUID(KEY), trigger="manual", due_at=now, created_at=now, ended_at=now,
        state="failed", reason="The backup API refused: 403", target={}, jitter_seconds=0, held=False, attempts=0,
        crashes=0, deadline_at=now,
    )  # fmt: skip
    alarm = told.failed(run, "daily")
    async with told.connect(world.topic.arn) as topic:
        await topic.publish(alarm)
    (notification,) = await world.notices()
    assert mail.text_of(notification) == alarm.text
    assert json.loads(notification["Message"])["specversion"] == "1.0"
