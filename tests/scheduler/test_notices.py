"""What a person is told when a run failed, and that nobody is told twice or not at all."""

import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aioboto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import alarms, notices, worker
from scheduler.models import Run
from scheduler.notices import Notice, Topic
from tests.scheduler.chain import DAILY, Chain, until
from tests.scheduler.gateway import problem


@dataclass(frozen=True)
class Inbox:
    """A queue that is subscribed to a topic of its own."""

    topic_arn: str
    queue_url: str
    sqs: Any

    async def read(self) -> list[dict[str, Any]]:
        found = await self.sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        return [json.loads(message["Body"]) for message in found.get("Messages", [])]


@pytest.fixture
async def inbox(emulator_env: dict[str, str]) -> AsyncIterator[Inbox]:
    session = aioboto3.Session()
    async with session.client("sns") as sns, session.client("sqs") as sqs:
        topic_arn = (await sns.create_topic(Name="backups"))["TopicArn"]
        queue_url = (await sqs.create_queue(QueueName="inbox"))["QueueUrl"]
        asked = await sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
        queue_arn = asked["Attributes"]["QueueArn"]
        allow = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": queue_arn,
            "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        await sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"Policy": policy})
        await sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=queue_arn)
        yield Inbox(topic_arn, queue_url, sqs)
        await sns.delete_topic(TopicArn=topic_arn)
        await sqs.delete_queue(QueueUrl=queue_url)


async def test_a_topic_that_is_away_gets_the_alarm_later_and_once(
    chain: Chain, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tried() -> Any:
        return await chain.sql.fetchval("select announce_at > ended_at + interval '1 second' from scheduler.runs")

    async def sent() -> Any:
        return await chain.sql.fetchval("select announce_at is null from scheduler.runs")

    chain.gateway.instead.append(problem(403, "Not yours."))
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL_SNS", "http://127.0.0.1:9")
        async with chain.work(HOLDFAST_TOPIC_ARN=inbox.topic_arn):
            run = await chain.ended(await chain.trigger())
            await until(tried)
    assert run["state"] == "failed"
    assert (await sent(), await inbox.read()) == (False, [])

    await chain.sql.execute("update scheduler.runs set announce_at = now()")  # a quarter of a minute later
    async with chain.work(HOLDFAST_TOPIC_ARN=inbox.topic_arn):
        await until(sent)
    [message] = await inbox.read()
    assert_tells(message, run)


class SlowTopic(Topic):
    """Takes all the time that it may for an alarm, while another worker looks for one of its own."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.taken: list[str] = []

    async def publish(self, notice: Notice) -> None:
        self.taken.append(notice.event["id"])
        if len(self.taken) % 2:
            later = "update scheduler.runs set announce_at = announce_at - $1 * interval '1 second'"
            await self.chain.sql.execute(later, notices.PUBLISH_SECONDS)
            await worker.announce_failure(self.chain.engine, self)


async def test_two_workers_and_a_slow_topic_tell_everything_once(chain: Chain) -> None:
    paths = {await chain.trigger() for _ in range(6)}
    await chain.sql.execute(
        "update scheduler.runs set state = 'failed', reason = 'x', ended_at = now(), announce_at = now()"
    )
    topic = SlowTopic(chain)
    while await chain.sql.fetchval("select count(*) from scheduler.runs where announce_at is not null"):
        await worker.announce_failure(chain.engine, topic)
    assert sorted(topic.taken) == sorted(f"{path.rpartition('/')[2]}-failed" for path in paths)


async def test_a_topic_that_never_answers_is_given_up_before_another_worker_tries(
    aws_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert timedelta(seconds=notices.PUBLISH_SECONDS) < alarms.TELL_AGAIN
    monkeypatch.setattr(notices, "PUBLISH_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SNS", f"http://127.0.0.1:{silent.getsockname()[1]}")
        async with notices.connect("arn:aws:sns:eu-central-1:000000000000:backups") as topic:
            with pytest.raises(notices.NoticeNotSent, match=r"no answer within 0\.3 s"):
                await topic.publish(notices.failed(run_that_failed(), "daily-backup"))


def assert_tells(message: dict[str, Any], run: dict[str, Any]) -> None:
    event = json.loads(message["Message"])
    text = event["data"].pop("text")
    assert event == {
        "specversion": "1.0",
        "id": f"{run['id']}-failed",
        "source": "holdfast/scheduler",
        "type": "backup.failed",
        "subject": run["id"],
        "time": run["ended_at"],
        "datacontenttype": "application/json",
        "data": {"run": {name: value for name, value in run.items() if name != "events"}},
    }
    assert message["Subject"] == "Holdfast: backup FAILED: daily-backup"
    attributes = {name: value["Value"] for name, value in message["MessageAttributes"].items()}
    assert attributes == {"type": "backup.failed", "severity": "error"}
    assert "Why:       The backup API refused: 403 Forbidden: Not yours.\n" in text


def run_that_failed(reason: str = "The backup API refused: 403 Forbidden: Not yours.") -> Run:
    at = datetime(2026, 11, 22, 2, 0, 0, tzinfo=UTC)
    return Run(
        id=UUID("0198c9d2-0000-7000-8000-000000000001"),
        schedule_id=UUID(DAILY),
        trigger="schedule",
        due_at=at,
        target={"kind": "backup", "label": "daily-backup"},
        jitter_seconds=0,
        state="failed",
        held=False,
        attempts=0,
        crashes=0,
        deadline_at=at,
        reason=reason,
        backup_id=None,
        created_at=at,
        started_at=at,
        ended_at=at.replace(second=9),
    )


def test_the_mail_says_what_why_when_and_what_to_do() -> None:
    assert notices.failed(run_that_failed(), "daily-backup").text == (
        """\
The backup of schedule "daily-backup" FAILED. Do not count on a new backup from this run.

Why:       The backup API refused: 403 Forbidden: Not yours.
Backup:    none was made
Due:       2026-11-22 02:00:00 UTC, by the schedule
Started:   2026-11-22 02:00:00 UTC
Gave up:   2026-11-22 02:00:09 UTC
Run:       0198c9d2-0000-7000-8000-000000000001

What to do next:
1. Mend what "Why" says.
2. Look at GET /backups of the backup API: the newest one that is proven is what you have.
3. Run it again: POST /v1/runs/0198c9d2-0000-7000-8000-000000000001/again
   and see how it goes: GET /v1/runs
"""
    )


def test_the_mail_about_somebody_elses_backup_says_what_can_be_done() -> None:
    run = run_that_failed()
    run.schedule_id, run.trigger = None, "adopted"
    told = notices.failed(run, "none; somebody else asked for it").text
    assert told.startswith("The backup that somebody else asked for FAILED.")
    assert "3. Run it again: POST /backups of the backup API" in told


@given(st.text())
def test_every_subject_is_one_that_sns_takes(name: str) -> None:
    subject = notices.failed(run_that_failed(), name).subject
    assert subject.isascii()
    assert subject.isprintable()
    assert len(subject) < 100
    assert subject.startswith("Holdfast: backup FAILED: ")
