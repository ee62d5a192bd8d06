"""What subscribers get when a backup has ended: a CloudEvent for machines, plain text for people."""

import json
from typing import Any, NamedTuple

from backup_lambda import aws
from backup_lambda.schemas import Backup

# SNS takes 256 KiB, in which every quote of the event is escaped once more.
MAX_MESSAGE_BYTES = 240_000
TABLES_IN_TEXT = 10
SUBJECT_CHARACTERS = 99


class Topic(NamedTuple):
    """The SNS topic of backups."""

    sns: Any
    arn: str


async def publish(topic: Topic, backup: Backup) -> None:
    """Announce the end of a backup. Raises AwsError.

    The event of one end has one id: whoever gets it twice can tell.
    """
    backup = backup.model_copy(update={"announced": True})  # it is, to whoever reads this
    kind, severity = ("backup.stored", "info") if backup.state == "stored" else ("backup.failed", "error")
    text = text_of(backup)
    message = _message(backup, kind, text)
    if len(message.encode()) > MAX_MESSAGE_BYTES:
        message = _message(backup.model_copy(update={"tables": []}), kind, text)
    with aws.errors_named():
        await topic.sns.publish(
            TopicArn=topic.arn,
            Subject=subject_of(backup),
            Message=message,
            MessageStructure="json",
            MessageAttributes={
                "type": {"DataType": "String", "StringValue": kind},
                "severity": {"DataType": "String", "StringValue": severity},
            },
        )


def subject_of(backup: Backup) -> str:
    """SNS wants ASCII, under 100 characters and no control characters."""
    what = f"stored, {_rows(backup.rows)}" if backup.state == "stored" else f"FAILED: {backup.reason}"
    subject = f"Holdfast: backup {what}"
    plain = "".join(c if " " <= c <= "~" else "?" for c in " ".join(subject.split()))
    return plain if len(plain) <= SUBJECT_CHARACTERS else f"{plain[: SUBJECT_CHARACTERS - 3]}..."


def text_of(backup: Backup) -> str:
    """The mail: what happened, to what, when, how big, and what to do next."""
    lines = [
        f"The backup {backup.id} {'is stored' if backup.state == 'stored' else 'FAILED'}.",
        "",
        *([f"Reason:    {backup.reason}"] if backup.reason else []),
        *([f"Label:     {backup.label}"] if backup.label else []),
        f"Asked for: {backup.created_at:%Y-%m-%d %H:%M:%S} UTC"
        + (f" by {backup.requested_by}" if backup.requested_by else ""),
        *([f"Ended:     {backup.ended_at:%Y-%m-%d %H:%M:%S} UTC"] if backup.ended_at else []),
    ]
    if backup.state == "stored":
        largest = sorted(backup.tables, key=lambda table: (-table.bytes, table.name))
        lines += [
            f"Rows:      {backup.rows:,} in {len(backup.tables)} tables",
            f"Size:      {size(backup.stored_bytes)} in the bucket, {size(backup.bytes)} uncompressed",
            "",
            *(f"  {table.name}: {_rows(table.rows)}, {size(table.bytes)}" for table in largest[:TABLES_IN_TEXT]),
            *([f"  and {len(largest) - TABLES_IN_TEXT} more"] if len(largest) > TABLES_IN_TEXT else []),
            "",
            "Every block was read back from the bucket and matches what was written. A restore was not tried.",
            f"There is nothing to do. The files are in the bucket under backups/{backup.id}/.",
        ]
    else:
        lines += [
            "",
            "Nothing of it can be restored; earlier backups are untouched.",
            "What to do next: remove the cause, then ask for a new one with POST /backups.",
        ]
    return "\n".join(lines) + "\n"


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _message(backup: Backup, kind: str, text: str) -> str:
    event = {
        "specversion": "1.0",
        "id": f"{backup.id}.{kind}",
        "source": "holdfast/backups",
        "type": kind,
        "subject": backup.id,
        "time": backup.model_dump(mode="json")["ended_at"],
        "datacontenttype": "application/json",
        "data": {"backup": backup.model_dump(mode="json"), "text": text},
    }
    return json.dumps({"default": json.dumps(event), "email": text})
