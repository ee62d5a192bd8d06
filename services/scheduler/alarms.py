"""Alarms: events on the backups topic, for what the backup side cannot tell by itself. SNS turns them into mails."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aioboto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from scheduler.models import Run
from scheduler.schemas import RunOut

PUBLISH_SECONDS = 10  # under `runs.ANNOUNCE_AGAIN`, when another worker would send it too
MAX_SUBJECT_CHARACTERS = 99  # SNS: less than 100, ASCII, no control characters


class AlarmNotSent(Exception):
    """The topic did not take it; it is sent again later."""


@dataclass(frozen=True)
class Alarm:
    subject: str
    text: str
    event: dict[str, Any]  # CloudEvents 1.0


class Topic:
    def __init__(self, sns: Any, arn: str) -> None:
        self._sns = sns
        self._arn = arn

    async def publish(self, alarm: Alarm) -> None:
        """Return once the topic has it. Raises AlarmNotSent. One that is sent twice has the same event id."""
        attributes = {"type": alarm.event["type"], "severity": "error"}
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                await self._sns.publish(
                    TopicArn=self._arn,
                    Subject=alarm.subject,
                    MessageStructure="json",
                    Message=json.dumps({"default": json.dumps(alarm.event), "email": alarm.text}),
                    MessageAttributes={k: {"DataType": "String", "StringValue": v} for k, v in attributes.items()},
                )
        except (BotoCoreError, ClientError, TimeoutError) as error:
            raise AlarmNotSent(str(error) or f"no answer within {PUBLISH_SECONDS} s") from error


@asynccontextmanager
async def connect(topic_arn: str) -> AsyncIterator[Topic]:
    """The client does not retry: the worker's loop asks again."""
    config = Config(connect_timeout=3, read_timeout=6, retries={"total_max_attempts": 1})
    region = topic_arn.split(":")[3]
    async with aioboto3.Session().client("sns", region_name=region, config=config) as sns:
        yield Topic(sns, topic_arn)


def failed(run: Run, schedule: str) -> Alarm:
    """`schedule` is its name."""
    text = _text(run, schedule)
    assert run.ended_at is not None  # nothing is announced before its end
    event = {
        "specversion": "1.0",
        "id": f"{run.id}-failed",
        "source": "holdfast/scheduler",
        "type": "backup.failed",
        "subject": str(run.id),
        "time": _rfc3339(run.ended_at),
        "datacontenttype": "application/json",
        "data": {"run": RunOut.of(run).model_dump(mode="json"), "text": text},
    }
    return Alarm(_subject(f"Holdfast: backup FAILED: {schedule}"), text, event)


def _text(run: Run, schedule: str) -> str:
    how = "by hand" if run.trigger == "manual" else "by the schedule"
    backup = (
        f"{run.backup_id}; its rows may or may not be stored, and are not proven" if run.backup_id else "none was made"
    )
    return f"""\
The backup of schedule "{schedule}" FAILED. Do not count on a new backup from this run.

Why:       {run.reason}
Backup:    {backup}
Due:       {_readable(run.due_at)}, {how}
Started:   {_readable(run.started_at)}
Gave up:   {_readable(run.ended_at)}
Run:       {run.id}

What to do next:
1. Mend what "Why" says.
2. Look at GET /backups of the backup API: the newest one that is proven is what you have.
3. Run it again: POST /v1/schedules/{run.schedule_id}/trigger
   and see how it goes: GET /v1/runs
"""


def _subject(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:MAX_SUBJECT_CHARACTERS]


def _readable(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else "never"


def _rfc3339(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
