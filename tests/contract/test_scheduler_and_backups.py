"""The scheduler's real client against the real backup API, and the events that both publish against who mails them."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import httpx
import pytest

from backup_lambda import notices
from backup_lambda.app import create_app
from backup_lambda.errors import AwsRefused
from backup_lambda.schemas import Backup
from deploy.local import mail
from scheduler import alarms
from scheduler.backups import Backups, BackupsRefused, BackupsUnavailable
from scheduler.models import Run
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
    await notices.publish(world.topic, backup)
    (notification,) = await world.notices()
    assert mail.text_of(notification) == notices.text_of(backup)


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
