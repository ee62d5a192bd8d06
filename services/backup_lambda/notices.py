"""What subscribers get when a backup, a proof of it, or a restore has ended: a CloudEvent, and plain text."""

import json
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from backup_lambda import aws, mail, restore_mail, words
from backup_lambda.endings import Ending, Severity
from backup_lambda.schemas import TRIAL, EventType, Restore

# SNS takes 256 KiB, in which every quote of the event is escaped once more.
MAX_MESSAGE_BYTES = 240_000
CHANGED: EventType = "backup.changed"
# Left out one after the other of an event that is too long: GET /backups/{id} has them.
_LEFT_OUT: tuple[dict[str, Any], ...] = (
    {"tables": []},
    {"not_backed_up": []},
    {"selection": None},
    {"proof": None, "unfinished_proof": None},
)


class Topic(NamedTuple):
    """The SNS topic of backups."""

    sns: Any
    arn: str


class Notice(NamedTuple):
    """Something to tell: `text` to people, `data` to machines. Whoever gets it twice can tell by its `id`."""

    id: str
    kind: str
    severity: Severity
    subject: str  # what it is about
    at: datetime
    title: str  # of the mail: ASCII, under 100 characters, no control characters
    text: str
    data: dict[str, Any]

    @property
    def message(self) -> str:
        event = {
            "specversion": "1.0",
            "id": self.id,
            "source": "holdfast/backups",
            "type": self.kind,
            "subject": self.subject,
            "time": self.at.isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": {**self.data, "text": self.text},
        }
        return json.dumps({"default": json.dumps(event), "email": self.text})


async def publish(topic: Topic, notice: Notice) -> None:
    """Raises AwsError."""
    with aws.errors_named():
        await topic.sns.publish(
            TopicArn=topic.arn,
            Subject=notice.title,
            Message=notice.message,
            MessageStructure="json",
            MessageAttributes={
                "type": {"DataType": "String", "StringValue": notice.kind},
                "severity": {"DataType": "String", "StringValue": notice.severity},
            },
        )


def of_backup(ending: Ending) -> Notice:
    """How a backup, or a proof of it, has ended; of a very long one without its details, so that SNS takes it."""
    text = mail.text_of(ending)
    backup = ending.backup.model_copy(update={"announced": True})  # it is, to whoever reads this
    notice = _notice(replace(ending, backup=backup), text)
    for left_out in _LEFT_OUT:
        if len(notice.message.encode()) <= MAX_MESSAGE_BYTES:
            break
        backup = backup.model_copy(update=left_out)
        notice = _notice(replace(ending, backup=backup), text)
    return notice


def of_change(ending: Ending) -> Notice:
    """That much of a new backup is other than in the last proven one: an accident, or an attack."""
    return Notice(
        id=f"{ending.backup.id}.{CHANGED}",
        kind=CHANGED,
        severity="warning",
        subject=ending.backup.id,
        at=ending.ended_at,
        title=mail.subject_of_change(ending),
        text=mail.text_of_change(ending),
        data={"backup_id": ending.backup.id, "state": ending.backup.state, "changed": ending.changed},
    )


def of_restore(restore: Restore) -> Notice:
    """How a restore has ended. What may show a row stays where rows may be read: GET /restores/{id}."""
    kind: EventType = "restore.completed" if restore.state == "completed" else "restore.failed"
    notice = _of_restore(restore, kind, {"tables": {"__all__": {"changes", "missing", "damaged"}}})
    if len(notice.message.encode()) > MAX_MESSAGE_BYTES:
        notice = _of_restore(restore, kind, {"tables": True})
    return notice


def trial(sent_id: str, at: datetime, requested_by: str | None) -> Notice:
    """That mails arrive."""
    return Notice(
        id=f"{sent_id}.{TRIAL}",
        kind=TRIAL,
        severity="info",
        subject=sent_id,
        at=at,
        title=words.subject("test message"),
        text=restore_mail.trial(at, requested_by),
        data={"requested_by": requested_by},
    )


def _of_restore(restore: Restore, kind: EventType, exclude: Any) -> Notice:
    told = restore.model_copy(update={"announced": True})  # it is, to whoever reads this
    failed = restore.state == "failed"
    return Notice(
        id=f"{restore.id}.{kind}",
        kind=kind,
        severity="error" if failed else "warning" if restore.reason else "info",
        subject=restore.id,
        at=restore.ended_at or restore.created_at,
        title=restore_mail.subject_of(restore),
        text=restore_mail.text_of(restore),
        data={"restore": told.model_dump(mode="json", exclude=exclude)},
    )


def _notice(ending: Ending, text: str) -> Notice:
    proven = ending.newest_proven
    return Notice(
        id=ending.id,
        kind=ending.kind,
        severity=ending.severity,
        subject=ending.backup.id,
        at=ending.ended_at,
        title=mail.subject_of(ending),
        text=text,
        data={
            "backup": ending.backup.model_dump(mode="json"),
            "proof_number": ending.proof.number if ending.proof else None,
            "signed_by": ending.signed_by,
            "newest_proven": proven.id if proven else None,
        },
    )
