"""What subscribers get when a backup, or a proof of it, has ended: a CloudEvent for machines, plain text for people."""

import json
from dataclasses import replace
from typing import Any, NamedTuple

from backup_lambda import aws, mail
from backup_lambda.endings import Ending

# SNS takes 256 KiB, in which every quote of the event is escaped once more.
MAX_MESSAGE_BYTES = 240_000
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


async def publish(topic: Topic, ending: Ending) -> None:
    """Announce it. Raises AwsError. The event of one end has one id: whoever gets it twice can tell."""
    with aws.errors_named():
        await topic.sns.publish(
            TopicArn=topic.arn,
            Subject=mail.subject_of(ending),
            Message=_message_that_fits(ending),
            MessageStructure="json",
            MessageAttributes={
                "type": {"DataType": "String", "StringValue": ending.kind},
                "severity": {"DataType": "String", "StringValue": ending.severity},
            },
        )


def _message_that_fits(ending: Ending) -> str:
    text = mail.text_of(ending)
    backup = ending.backup.model_copy(update={"announced": True})  # it is, to whoever reads this
    message = _message(replace(ending, backup=backup), text)
    for left_out in _LEFT_OUT:
        if len(message.encode()) <= MAX_MESSAGE_BYTES:
            break
        backup = backup.model_copy(update=left_out)
        message = _message(replace(ending, backup=backup), text)
    return message


def _message(ending: Ending, text: str) -> str:
    proven = ending.newest_proven
    event = {
        "specversion": "1.0",
        "id": ending.id,
        "source": "holdfast/backups",
        "type": ending.kind,
        "subject": ending.backup.id,
        "time": ending.ended_at.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {
            "backup": ending.backup.model_dump(mode="json"),
            "proof_number": ending.proof.number if ending.proof else None,
            "signed_by": ending.signed_by,
            "newest_proven": proven.id if proven else None,
            "text": text,
        },
    }
    return json.dumps({"default": json.dumps(event), "email": text})
