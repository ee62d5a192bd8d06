"""Notices: events on the backups topic, of what the backup side cannot tell by itself. SNS turns them into mails."""

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

from scheduler.models import Alarm, Run
from scheduler.schemas import AlarmOut, RunOut

PUBLISH_SECONDS = 10  # under `alarms.TELL_AGAIN`, when another worker would send it too
MAX_SUBJECT_CHARACTERS = 99  # SNS: less than 100, ASCII, no control characters


class NoticeNotSent(Exception):
    """The topic did not take it; it is sent again later."""


@dataclass(frozen=True)
class Notice:
    subject: str
    text: str
    severity: str
    event: dict[str, Any]  # CloudEvents 1.0


class Topic:
    def __init__(self, sns: Any, arn: str) -> None:
        self._sns = sns
        self._arn = arn

    async def publish(self, notice: Notice) -> None:
        """Return once the topic has it. Raises NoticeNotSent. One that is sent twice has the same event id."""
        attributes = {"type": notice.event["type"], "severity": notice.severity}
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                await self._sns.publish(
                    TopicArn=self._arn,
                    Subject=notice.subject,
                    MessageStructure="json",
                    Message=json.dumps({"default": json.dumps(notice.event), "email": notice.text}),
                    MessageAttributes={k: {"DataType": "String", "StringValue": v} for k, v in attributes.items()},
                )
        except (BotoCoreError, ClientError, TimeoutError) as error:
            raise NoticeNotSent(str(error) or f"no answer within {PUBLISH_SECONDS} s") from error


@asynccontextmanager
async def connect(topic_arn: str) -> AsyncIterator[Topic]:
    """The client does not retry: the worker's loop asks again."""
    config = Config(connect_timeout=3, read_timeout=6, retries={"total_max_attempts": 1})
    region = topic_arn.split(":")[3]
    async with aioboto3.Session().client("sns", region_name=region, config=config) as sns:
        yield Topic(sns, topic_arn)


def failed(run: Run, schedule: str) -> Notice:
    """`schedule` is its name, or what the run is when it has none."""
    assert run.ended_at is not None  # nothing is announced before its end
    is_backup = run.target.get("kind") == "backup"
    said = {
        "type": "backup.failed" if is_backup else "run.failed",
        "id": f"{run.id}-failed",
        "subject": str(run.id),
        "time": run.ended_at,
        "data": {"run": RunOut.of(run).model_dump(mode="json")},
    }
    what = "backup" if is_backup else str(run.target.get("kind"))
    text = _of_backup(run, schedule) if is_backup else _of_other(run, schedule, what)
    return _notice(f"Holdfast: {what} FAILED: {schedule}", text, "error", said)


def opened(alarm: Alarm, schedule: str | None) -> Notice:
    what = f'{_WHAT[alarm.kind]}: schedule "{schedule}"' if schedule else _WHAT[alarm.kind]
    text = f"""\
{what}.

Why:       {alarm.detail}
Since:     {_readable(alarm.opened_at)}
Alarm:     {alarm.id}

What to do next:
{_NEXT[alarm.kind].format(schedule_id=alarm.schedule_id, run_id=alarm.run_id)}
You get another mail when it is over: see GET /v1/alarms?open=true
"""
    said = {"type": "backup.overdue", "id": f"{alarm.id}-opened", "time": alarm.opened_at}
    subject = f"Holdfast: {_WHAT[alarm.kind]}" + (f": {schedule}" if schedule else "")
    return _notice(subject, text, "error", said | _about(alarm, schedule))


def closed(alarm: Alarm, schedule: str | None) -> Notice:
    assert alarm.closed_at is not None
    what = f'{_WHAT[alarm.kind]}: schedule "{schedule}"' if schedule else _WHAT[alarm.kind]
    text = f"""\
It is over: {what}.

Why:       {alarm.closed_by}
Was:       {alarm.detail}
From:      {_readable(alarm.opened_at)}
To:        {_readable(alarm.closed_at)}
Alarm:     {alarm.id}

There is nothing to do.
"""
    said = {"type": "backup.recovered", "id": f"{alarm.id}-closed", "time": alarm.closed_at}
    subject = f"Holdfast: over: {_WHAT[alarm.kind]}" + (f": {schedule}" if schedule else "")
    return _notice(subject, text, "info", said | _about(alarm, schedule))


_WHAT = {
    "failing": "runs fail",
    "overdue": "a run is OVERDUE",
    "too_long": "a run takes TOO LONG",
    "skipped": "runs are SKIPPED",
    "stale": "the last proven backup is TOO OLD",
    "unaccounted": "due times are UNACCOUNTED for",
}
_NEXT = {
    "failing": "1. See why: GET /v1/runs/{run_id}",
    "overdue": "1. See whether workers, Redis and the backup API are up.\n"
    "2. See the run: GET /v1/runs?schedule_id={schedule_id}",
    "too_long": "1. See how far it is: GET /v1/runs/{run_id}\n2. Give it up if it hangs: POST /v1/runs/{run_id}/cancel",
    "skipped": "1. See which run has not ended: GET /v1/runs?schedule_id={schedule_id}\n"
    "2. Give the schedule more time between its due times, or its run less.",
    "stale": "1. See why no backup is proven: GET /backups of the backup API\n"
    "2. Run one: POST /v1/schedules/.../trigger",
    "unaccounted": "1. See which: GET /v1/schedules/{schedule_id}/ledger\n"
    "2. Tell whoever maintains this service, and close the alarm: it is a fault of the scheduler.",
}


def _about(alarm: Alarm, schedule: str | None) -> dict[str, Any]:
    told = AlarmOut.of(alarm).model_dump(mode="json")
    return {"subject": alarm.subject, "data": {"alarm": told, "schedule": schedule}}


def _notice(subject: str, text: str, severity: str, said: dict[str, Any]) -> Notice:
    event = {"specversion": "1.0", "source": "holdfast/scheduler", "datacontenttype": "application/json", **said}
    event |= {"time": _rfc3339(said["time"]), "data": {**said["data"], "text": text}}
    return Notice(_subject(subject), text, severity, event)


def _of_backup(run: Run, schedule: str) -> str:
    how = _HOW[run.trigger]
    whose = f'of schedule "{schedule}"' if run.schedule_id else "that somebody else asked for"
    again = f"POST /v1/runs/{run.id}/again" if run.schedule_id else "POST /backups of the backup API"
    backup = (
        f"{run.backup_id}; its rows may or may not be stored, and are not proven" if run.backup_id else "none was made"
    )
    return f"""\
The backup {whose} FAILED. Do not count on a new backup from this run.

Why:       {run.reason}
Backup:    {backup}
Due:       {_readable(run.due_at)}, {how}
Started:   {_readable(run.started_at)}
Gave up:   {_readable(run.ended_at)}
Run:       {run.id}

What to do next:
1. Mend what "Why" says.
2. Look at GET /backups of the backup API: the newest one that is proven is what you have.
3. Run it again: {again}
   and see how it goes: GET /v1/runs
"""


def _of_other(run: Run, schedule: str, what: str) -> str:
    return f"""\
A run of schedule "{schedule}" FAILED: {what}.

Why:       {run.reason}
Due:       {_readable(run.due_at)}, {_HOW[run.trigger]}
Started:   {_readable(run.started_at)}
Gave up:   {_readable(run.ended_at)}
Run:       {run.id}

What to do next:
1. Mend what "Why" says.
2. Run it again: POST /v1/runs/{run.id}/again
"""


_HOW = {
    "schedule": "by the schedule",
    "manual": "by hand",
    "backfill": "in a backfill",
    "adopted": "asked for by somebody else",
}


def _subject(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:MAX_SUBJECT_CHARACTERS]


def _readable(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else "never"


def _rfc3339(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
