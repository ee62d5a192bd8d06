"""The scheduler's real client against the real backup API, and the events that both publish against who mails them."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import get_args
from uuid import UUID

import httpx
import pytest

from backup_lambda import mail as words
from backup_lambda import notices
from backup_lambda.app import create_app
from backup_lambda.endings import Ending
from backup_lambda.errors import AwsRefused
from backup_lambda.schemas import Backup, State
from deploy.local import mail
from scheduler import alarms, steps
from scheduler.backups import Backups, BackupsRefused, BackupsUnavailable
from scheduler.models import Run
from tests.backup_lambda.recorded import have_failure, have_manifest, have_progress, have_proof
from tests.backup_lambda.world import World, worker_for

KEY = "01a2041d-ef55-7997-8f7e-b424b3fb72f5"


@pytest.fixture
async def backups(world: World) -> AsyncIterator[Backups]:
    transport = httpx.ASGITransport(create_app(world.store, world.topic, world.start_worker))
    async with httpx.AsyncClient(transport=transport) as http:
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
    assert set(get_args(State)) == {"queued", "running", *steps.SUCCEEDED, *steps.FAILED}
    assert not steps.SUCCEEDED & steps.FAILED.keys()


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


async def test_what_will_not_change_is_refused_with_the_reason(backups: Backups) -> None:
    with pytest.raises(BackupsRefused, match="404"):
        await backups.show("20261122T020000Z-3f9a2c1b")
    await backups.start("daily", KEY)
    with pytest.raises(BackupsRefused, match="422"):
        await backups.start("another", KEY)


async def test_what_may_change_is_unavailable(backups: Backups, world: World) -> None:
    await world.s3.delete_bucket(Bucket=world.bucket)
    with pytest.raises(BackupsUnavailable):
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
        state="failed", reason="The backup API refused: 403", target={},
    )  # fmt: skip
    alarm = alarms.failed(run, "daily")
    async with alarms.connect(world.topic.arn) as topic:
        await topic.publish(alarm)
    (notification,) = await world.notices()
    assert mail.text_of(notification) == alarm.text
    assert json.loads(notification["Message"])["specversion"] == "1.0"
